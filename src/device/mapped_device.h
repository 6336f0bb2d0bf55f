// Device `mapped`: the engine's KV region, mapped here through the memfd that backs it. The caller
// loads and stores through direct(); Submit copies (non-temporal stores when writing). Nothing of
// the engine process but these pages can be reached, and they stay valid when the engine dies.
#ifndef SHADOWSERVE_DEVICE_MAPPED_DEVICE_H_
#define SHADOWSERVE_DEVICE_MAPPED_DEVICE_H_

#include "device/kv_device.h"

namespace shadowserve {

// kInvalidArgument: not a sealed memfd that holds the region. Maps and populates: about 0.1 s a
// GiB.
Result<std::unique_ptr<KvDevice>> OpenMappedDevice(KvExport exported);

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_MAPPED_DEVICE_H_
