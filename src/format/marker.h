// Markers: a small object per (chunk, layer range, head group), written after its segment. A chunk
// is present when every marker that the asking engine needs is. The grammar stands in marker.cc and
// in docs/chunk_format.md. Fixed size; CRC32C over all of it; bound to its name; with a Seal (keys)
// authenticated, and then nothing else is read.
#ifndef SHADOWSERVE_FORMAT_MARKER_H_
#define SHADOWSERVE_FORMAT_MARKER_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "format/object_name.h"
#include "format/seal.h"

namespace shadowserve {

constexpr size_t kMarkerBytes = 128;

struct Marker {
  uint64_t segment_bytes = 0;  // stored size of the segment it vouches for
  uint32_t segment_crc = 0;    // the segment's head CRC
  bool operator==(const Marker&) const = default;
};

// The tag of a finished segment, for its marker.
Result<Marker> MarkerOf(std::span<const std::byte> segment_object);
// REQUIRES: out.size() >= kMarkerBytes, name.kind == kMarker. Returns the bytes written.
std::span<const std::byte> WriteMarker(const Marker& marker, const ObjectName& name,
                                       std::span<std::byte> out, Seal* seal = nullptr);
// kCorrupt on any doubt.
Result<Marker> ReadMarker(std::span<const std::byte> object, const ObjectName& name,
                          Seal* seal = nullptr);

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_MARKER_H_
