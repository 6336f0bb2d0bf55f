// CopyPastCache: memcpy that does not bring the target into the cache, for KV pages that the
// engine's cores will read, not this one. On x86-64 non-temporal stores, fenced: in place for every
// other thread and process that learns of it through a later store of this thread. Elsewhere
// memcpy.
#ifndef SHADOWSERVE_DEVICE_STREAM_COPY_H_
#define SHADOWSERVE_DEVICE_STREAM_COPY_H_

#include <cstddef>

namespace shadowserve {

// Ranges must not overlap. Any alignment; fastest with 64-byte aligned targets.
void CopyPastCache(std::byte* target, const std::byte* source, size_t bytes);

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_STREAM_COPY_H_
