// Wire structs of segment format v1; the grammar stands in segment.cc. Internal to src/format.
#ifndef SHADOWSERVE_FORMAT_SEGMENT_WIRE_H_
#define SHADOWSERVE_FORMAT_SEGMENT_WIRE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "format/object_name.h"
#include "format/wire.h"

namespace shadowserve {

constexpr uint32_t kSegmentMagic = 0x67735353;  // the bytes "SSsg"
constexpr uint16_t kSegmentVersion = 1;

struct WireSegmentHeader {
  Le32 magic;
  Le16 version;
  Le16 header_bytes;
  uint8_t profile = 0;
  uint8_t codec = 0;
  uint8_t dtype = 0;
  uint8_t zero = 0;
  Le16 first_layer;
  Le16 layer_count;
  Le16 head_group;
  Le16 head_groups;
  Le16 first_head;
  Le16 heads;
  Le16 head_dim;
  Le16 chunk_tokens;
  Le32 block_count;
  Le64 side_bytes;
  Le64 total_bytes;
  std::array<std::byte, 32> name_digest = {};
  WireAuth auth;
  Le32 side_crc;
  Le32 head_crc;
};
static_assert(sizeof(WireSegmentHeader) == 128 && alignof(WireSegmentHeader) == 1);
static_assert(offsetof(WireSegmentHeader, head_crc) == 124);

struct WireBlockEntry {
  Le32 coded_bytes;
  Le32 crc;
  uint8_t codec = 0;
  std::array<uint8_t, 3> zero = {};
};
static_assert(sizeof(WireBlockEntry) == 12 && alignof(WireBlockEntry) == 1);

constexpr size_t kTagBytes = 16;  // one per block of a sealed segment, behind the table

// Bytes of the table and, where there are any, tags.
constexpr uint64_t SegmentTableBytes(uint32_t block_count, bool sealed) {
  return uint64_t{block_count} * (sizeof(WireBlockEntry) + (sealed ? kTagBytes : 0));
}

// CRC32C over header (without its last four bytes, the CRC itself), table and tags.
// REQUIRES: object holds them.
uint32_t SegmentHeadCrc(std::span<const std::byte> object, uint32_t block_count, bool sealed);

// The header, once all that can be said without name and shape was checked: magic, version, sizes
// against the object's real size, head CRC, zero bytes. kCorrupt names the field. The
// authentication fields are still to be checked.
Result<WireSegmentHeader> ReadSegmentHeader(std::span<const std::byte> object);

// What the tag of a head covers beside the side bytes, or of a marker: the name's text with its
// length in front, then the object's header with zeros for tag and CRC.
struct NameInTag {
  std::array<std::byte, 4 + kObjectNameTextMax> bytes;
  size_t size = 0;
  explicit NameInTag(const ObjectName& name);
  std::span<const std::byte> view() const { return std::span(bytes).first(size); }
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_SEGMENT_WIRE_H_
