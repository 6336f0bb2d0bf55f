// Reads one stored object through the data plane and checks it (shadowctl verify). Uses one fetch
// slab; waits while none is free.
#ifndef SHADOWSERVE_SERVER_OBJECT_CHECK_H_
#define SHADOWSERVE_SERVER_OBJECT_CHECK_H_

#include "base/result.h"
#include "format/object_name.h"
#include "pipeline/data_plane.h"

namespace shadowserve {

// Blocks the caller (not the pipeline's thread) for at most a minute. OK; kNotFound: it went
// meanwhile; kCorrupt: what is wrong; kDeadline / kUnavailable: the data plane did not get to it.
// One call at a time.
Status CheckObject(DataPlane* plane, const ObjectName& name);

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_OBJECT_CHECK_H_
