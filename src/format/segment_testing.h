// Helpers of this module's tests, benches and fuzzers: small segments with known contents, and the
// repair of checksums after a field was changed on purpose. Not part of the library.
#ifndef SHADOWSERVE_FORMAT_SEGMENT_TESTING_H_
#define SHADOWSERVE_FORMAT_SEGMENT_TESTING_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "format/marker.h"
#include "format/object_name.h"
#include "format/seal.h"
#include "format/segment.h"

namespace shadowserve::segment_testing {

// Offsets of the grammar, written down a second time on purpose.
constexpr size_t kHeaderBytes = 128;
constexpr size_t kEntryBytes = 12;
constexpr size_t kBlockCountAt = 28;
constexpr size_t kSideBytesAt = 32;
constexpr size_t kTotalBytesAt = 40;
constexpr size_t kNameDigestAt = 48;
constexpr size_t kAuthAt = 80;
constexpr size_t kAlgorithmAt = 112;
constexpr size_t kBlockTagBytes = 16;
constexpr size_t kSideCrcAt = 120;
constexpr size_t kHeadCrcAt = 124;

inline void Put(std::span<std::byte> bytes, size_t at, uint64_t value, size_t width) {
  for (size_t i = 0; i < width; ++i) bytes[at + i] = static_cast<std::byte>(value >> (8 * i));
}

inline uint64_t Get(std::span<const std::byte> bytes, size_t at, size_t width) {
  uint64_t value = 0;
  for (size_t i = width; i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[at + i]);
  return value;
}

// Deterministic bytes, the same on every host.
inline void Fill(std::span<std::byte> bytes, uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
}

inline ObjectName NameOf(const SegmentShape& shape, Profile profile, CodecId codec,
                         uint32_t head_groups) {
  ObjectName name;
  constexpr std::string_view kKey = "segment_testing";
  name.key = Sha256(std::as_bytes(std::span(kKey)));
  name.profile = profile;
  name.codec = codec;
  name.first_layer = static_cast<uint16_t>(shape.layers.first);
  name.layer_count = static_cast<uint16_t>(shape.layers.count);
  name.head_group = static_cast<uint16_t>(shape.head_group);
  name.head_groups = static_cast<uint16_t>(head_groups);
  return name;
}

// Blocks of even index are stored coded, in 5 + index "coded" bytes, if the name has a codec; the
// others uncoded. The coded bytes are no stream of the codec: the format does not look into them.
inline std::vector<std::byte> BuildSegment(const ObjectName& name, const SegmentShape& shape,
                                           Seal* seal = nullptr) {
  std::vector<std::byte> buffer(SegmentBytesMax(name.form(), shape, seal != nullptr),
                                std::byte{0xEE});
  const ProfileBytes bytes = *ProfileBytesOf(name.form(), shape);
  SegmentWriter writer(buffer, name, shape, seal);
  Fill(writer.side(), 1);
  for (uint32_t block = 0; !writer.done(); ++block) {
    const uint32_t elements = writer.block_range().elements;
    const bool coded = name.codec != CodecId::kNone && block % 2 == 0;
    const uint32_t symbol_bytes = bytes.symbols(elements);
    const uint32_t coded_bytes = coded ? std::min(5 + block, symbol_bytes) : symbol_bytes;
    Fill(writer.BlockSpace().first(bytes.plain(elements) + coded_bytes), block + 2);
    writer.FinishBlock(coded ? name.codec : CodecId::kNone, coded_bytes);
  }
  const size_t size = writer.Finish().size();
  buffer.resize(size);
  return buffer;
}

// Makes the checksums of side, header, table and tags right again, no tag. Safe on any bytes.
inline void Reseal(std::span<std::byte> object) {
  if (object.size() < kHeaderBytes) return;
  const uint64_t blocks = Get(object, kBlockCountAt, 4);
  const uint64_t side = Get(object, kSideBytesAt, 8);
  const uint64_t room = object.size() - kHeaderBytes;
  const bool sealed = object[kAlgorithmAt] != std::byte{0};
  const size_t per_block = kEntryBytes + (sealed ? kBlockTagBytes : 0);
  if (blocks > room / per_block) return;
  const size_t head = kHeaderBytes + blocks * per_block;
  if (side <= object.size() - head) {
    Put(object, kSideCrcAt, Crc32c(object.subspan(head, side)), 4);
  }
  const uint32_t crc = Crc32c(object.first(kHeadCrcAt));
  Put(object, kHeadCrcAt, Crc32c(object.subspan(kHeaderBytes, head - kHeaderBytes), crc), 4);
}

// Keys of tests: key 7 of bytes 00 01 .. 1f, key 8 of bytes 80 81 .. 9f.
inline AuthKey TestKey(uint32_t id) {
  AuthKey key{.id = id};
  for (size_t i = 0; i < key.secret.size(); ++i) {
    key.secret[i] = static_cast<std::byte>(i + (id == 7 ? 0 : 0x80 * (id - 7)));
  }
  return key;
}

inline std::unique_ptr<Seal> MakeSeal(std::initializer_list<uint32_t> ids,
                                      SealAlgorithm algorithm = SealAlgorithm::kGmac) {
  std::vector<AuthKey> keys;
  for (const uint32_t id : ids) keys.push_back(TestKey(id));
  return Seal::Create(keys, algorithm).value();
}

// All that a reader does: Open, then every block's Verify.
inline Status ReadAll(std::span<const std::byte> object, const ObjectName& name,
                      const SegmentShape& shape) {
  Result<SegmentReader> reader = SegmentReader::Open(object, name, shape);
  if (!reader.ok()) return reader.status();
  for (uint32_t block = 0; block < reader->block_count(); ++block) {
    if (Status status = reader->NextBlock().Verify(); !status.ok()) return status;
  }
  return OkStatus();
}

// The same with keys; the object is left as it was.
inline Status ReadAllSealed(std::vector<std::byte> object, const ObjectName& name,
                            const SegmentShape& shape, Seal* seal) {
  Result<SegmentReader> reader = SegmentReader::OpenSealed(object, name, shape, seal);
  if (!reader.ok()) return reader.status();
  for (uint32_t block = 0; block < reader->block_count(); ++block) {
    if (Status status = reader->NextBlock().Verify(); !status.ok()) return status;
  }
  return OkStatus();
}

}  // namespace shadowserve::segment_testing

#endif  // SHADOWSERVE_FORMAT_SEGMENT_TESTING_H_
