// Marker format v1. All integers little-endian.
//
//   marker (128 bytes)
//     0    u32  magic "SSmk"            56   16 B tag     \.
//     4    u16  version = 1             72   12 B nonce    | authentication: all zero when
//     6    u16  marker_bytes = 128      84   u32  key id   | algorithm is 0 (none)
//     8    u64  segment_bytes           88   u8   algorithm|
//     16   u32  segment_crc             89   7 B  zero    /
//     20   u32  zero                    96   28 B zero
//     24   32 B SHA-256 of the          124  u32  CRC32C over bytes 0..123
//               marker's name as text
//   The tag is of message 0: name, then the marker with zeros for tag and CRC. Never encrypted.
#include "format/marker.h"

#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "format/segment.h"
#include "format/segment_wire.h"
#include "format/wire.h"

namespace shadowserve {
namespace {

constexpr uint32_t kMarkerMagic = 0x6B6D5353;  // the bytes "SSmk"
constexpr uint16_t kMarkerVersion = 1;

struct WireMarker {
  Le32 magic;
  Le16 version;
  Le16 marker_bytes;
  Le64 segment_bytes;
  Le32 segment_crc;
  std::array<uint8_t, 4> zero = {};
  Digest name_digest = {};
  WireAuth auth;
  std::array<uint8_t, 28> zero2 = {};
  Le32 crc;
};
static_assert(sizeof(WireMarker) == kMarkerBytes && alignof(WireMarker) == 1);
static_assert(offsetof(WireMarker, crc) == kMarkerBytes - 4);

// No segment is smaller: a header and the entry of one block.
constexpr uint64_t kSegmentBytesMin = sizeof(WireSegmentHeader) + sizeof(WireBlockEntry);

Status CorruptMarker(std::string_view what) {
  return Status(StatusCode::kCorrupt, "marker: " + std::string(what));
}

Status CheckTag(WireMarker wire, const ObjectName& name, Seal* seal) {
  if (wire.auth.algorithm == 0) return seal->Refuse("the marker is not sealed");
  if (!AllZero(wire.auth.zero)) return seal->Refuse("zero bytes of the marker");
  SS_TRY_ASSIGN(const ObjectSeal object_seal, seal->OfObject(name.key, wire.auth));
  const auto tag = std::exchange(wire.auth.tag, {});
  wire.crc = 0;
  const NameInTag name_in_tag(name);
  const std::array covered = {name_in_tag.view(), std::as_bytes(std::span(&wire, 1))};
  return seal->OpenMessage(object_seal, 0, covered, {}, std::as_bytes(std::span(tag)))
             ? OkStatus()
             : seal->Refuse("tag of the marker");
}

}  // namespace

Result<Marker> MarkerOf(std::span<const std::byte> segment_object) {
  SS_TRY_ASSIGN(const WireSegmentHeader header, ReadSegmentHeader(segment_object));
  return Marker{.segment_bytes = header.total_bytes, .segment_crc = header.head_crc};
}

std::span<const std::byte> WriteMarker(const Marker& marker, const ObjectName& name,
                                       std::span<std::byte> out, Seal* seal) {
  SS_CHECK(out.size() >= kMarkerBytes, "marker buffer");
  SS_CHECK(name.kind == ObjectKind::kMarker, "not the name of a marker");
  WireMarker wire;
  wire.magic = kMarkerMagic;
  wire.version = kMarkerVersion;
  wire.marker_bytes = static_cast<uint16_t>(kMarkerBytes);
  wire.segment_bytes = marker.segment_bytes;
  wire.segment_crc = marker.segment_crc;
  wire.name_digest = NameDigest(name);
  if (seal != nullptr) {
    const ObjectSeal object_seal = seal->NewObject(name.key, &wire.auth);
    const NameInTag name_in_tag(name);
    const SealTag tag = seal->SealMessage(
        object_seal, 0, std::array{name_in_tag.view(), std::as_bytes(std::span(&wire, 1))}, {});
    std::memcpy(wire.auth.tag.data(), tag.data(), tag.size());
  }
  StoreWire(wire, out);
  wire.crc = Crc32c(out.first(offsetof(WireMarker, crc)));
  StoreWire(wire, out);
  return out.first(kMarkerBytes);
}

Result<Marker> ReadMarker(std::span<const std::byte> object, const ObjectName& name, Seal* seal) {
  if (object.size() != kMarkerBytes) return CorruptMarker("size");
  const auto wire = LoadWire<WireMarker>(object);
  if (wire.magic != kMarkerMagic) return CorruptMarker("magic");
  if (wire.version != kMarkerVersion) return CorruptMarker("version");
  if (wire.marker_bytes != kMarkerBytes) return CorruptMarker("marker bytes");
  if (wire.crc != Crc32c(object.first(offsetof(WireMarker, crc)))) return CorruptMarker("CRC");
  if (!AllZero(wire.zero) || !AllZero(wire.zero2)) return CorruptMarker("zero bytes");
  if (seal == nullptr && !IsUnauthenticated(wire.auth))
    return CorruptMarker("authentication fields");
  if (wire.name_digest != NameDigest(name)) return CorruptMarker("name digest");
  if (seal != nullptr) SS_TRY(CheckTag(wire, name, seal));
  if (wire.segment_bytes < kSegmentBytesMin) return CorruptMarker("segment bytes");
  return Marker{.segment_bytes = wire.segment_bytes, .segment_crc = wire.segment_crc};
}

}  // namespace shadowserve
