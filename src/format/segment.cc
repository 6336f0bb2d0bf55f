// Segment format v1. All integers little-endian; no padding but the zero bytes shown.
//
//   segment := header table tag{block_count if sealed} side block{block_count}
//
//   header (128 bytes)
//     0    u32  magic "SSsg"            28   u32  block_count
//     4    u16  version = 1             32   u64  side_bytes
//     6    u16  header_bytes = 128      40   u64  total_bytes of the object
//     8    u8   profile                 48   32 B SHA-256 of the object's name as text
//     9    u8   codec of the name       80   16 B tag    \.
//     10   u8   dtype                   96   12 B nonce   | authentication: all zero when
//     11   u8   zero                    108  u32  key id  | algorithm is 0 (none)
//     12   u16  first layer             112  u8   algorithm
//     14   u16  layer count             113  7 B  zero   /
//     16   u16  head group              120  u32  side CRC: over the side bytes
//     18   u16  head groups             124  u32  head CRC: over bytes 0..123, table and tags
//     20   u16  first head
//     22   u16  heads
//     24   u16  head_dim
//     26   u16  chunk tokens = 256
//
//   table := entry{block_count}, entry (12 bytes)
//     0    u32  coded_bytes
//     4    u32  CRC over the block as stored (plain bytes, then coded bytes)
//     8    u8   codec of this block: none, or the codec of the name
//     9    3 B  zero
//
//   tag   := 16 bytes: message block + 1, over the block as stored
//   The header's tag is of message 0: name, header, table and tags, side.
//
//   side  := side_bytes bytes, as the profile defines them
//   block := plain bytes, coded bytes; codec none: coded_bytes == symbol bytes;
//            else 1 <= coded_bytes <= symbol bytes
//
// All CRCs are CRC32C. Blocks follow each other without gaps and end at total_bytes.
#include "format/segment.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "base/check.h"
#include "format/segment_wire.h"

namespace shadowserve {
namespace {

Status Corrupt(std::string_view what) {
  return Status(StatusCode::kCorrupt, "segment: " + std::string(what));
}

std::span<const std::byte> EntryBytes(std::span<const std::byte> object, uint32_t block) {
  return object.subspan(sizeof(WireSegmentHeader) + uint64_t{block} * sizeof(WireBlockEntry),
                        sizeof(WireBlockEntry));
}

Status CheckName(const WireSegmentHeader& header, const ObjectName& name) {
  if (header.profile != static_cast<uint8_t>(name.profile)) return Corrupt("profile");
  if (header.codec != static_cast<uint8_t>(name.codec)) return Corrupt("codec");
  if (header.first_layer != name.first_layer || header.layer_count != name.layer_count) {
    return Corrupt("layer range");
  }
  if (header.head_group != name.head_group || header.head_groups != name.head_groups) {
    return Corrupt("head group");
  }
  if (header.name_digest != NameDigest(name)) return Corrupt("name digest");
  return OkStatus();
}

Status CheckShape(const WireSegmentHeader& header, const SegmentShape& shape,
                  const ProfileBytes& bytes) {
  if (header.dtype != static_cast<uint8_t>(shape.dtype)) return Corrupt("dtype");
  if (header.first_layer != shape.layers.first || header.layer_count != shape.layers.count) {
    return Corrupt("layer range");
  }
  if (header.head_group != shape.head_group) return Corrupt("head group");
  if (header.first_head != shape.first_head || header.heads != shape.heads) {
    return Corrupt("heads");
  }
  if (header.head_dim != shape.head_dim) return Corrupt("head_dim");
  if (header.chunk_tokens != kChunkTokens) return Corrupt("chunk tokens");
  if (header.head_group >= header.head_groups ||
      uint32_t{header.head_groups} * shape.heads > kHeadsMax) {
    return Corrupt("head groups");
  }
  if (header.block_count != BlockCount(shape)) return Corrupt("block count");
  if (header.side_bytes != bytes.side) return Corrupt("side bytes");
  return OkStatus();
}

Status CheckTable(std::span<const std::byte> object, const SegmentShape& shape,
                  const ProfileBytes& bytes, CodecId name_codec, bool sealed) {
  uint64_t end = SegmentHeadBytes(shape, sealed) + bytes.side;
  const uint32_t block_count = BlockCount(shape);
  for (uint32_t block = 0; block < block_count; ++block) {
    const auto entry = LoadWire<WireBlockEntry>(EntryBytes(object, block));
    const BlockRange range = BlockAt(shape, block);
    const uint32_t symbol_bytes = bytes.symbols(range.elements);
    if (!AllZero(entry.zero)) return Corrupt("block entry: zero bytes");
    if (entry.codec == static_cast<uint8_t>(CodecId::kNone)) {
      if (entry.coded_bytes != symbol_bytes) return Corrupt("block entry: uncoded size");
    } else if (entry.codec != static_cast<uint8_t>(name_codec)) {
      return Corrupt("block entry: codec");
    } else if (entry.coded_bytes == 0 || entry.coded_bytes > symbol_bytes) {
      return Corrupt("block entry: coded size");
    }
    // No overflow: every term is bounded by the shape, and CheckSegmentShape bounds their sum.
    end += uint64_t{bytes.plain(range.elements)} + entry.coded_bytes;
  }
  return end == object.size() ? OkStatus() : Corrupt("blocks do not end where the object does");
}

// The header as its tag covers it. Checksums are over what is stored, after encryption; they are
// checked on their own.
WireSegmentHeader HeaderInTag(WireSegmentHeader header) {
  header.auth.tag = {};
  header.side_crc = 0;
  header.head_crc = 0;
  return header;
}

// Before anything else of the header is used.
Status CheckAuthFields(const WireAuth& auth, Seal* seal) {
  if (seal == nullptr) {
    return IsUnauthenticated(auth) ? OkStatus() : Corrupt("authentication fields");
  }
  if (auth.algorithm == 0) return seal->Refuse("the segment is not sealed");
  return AllZero(auth.zero) ? OkStatus() : seal->Refuse("zero bytes of the segment");
}

// What the header itself says; every field is checked by CheckSegmentShape before it is used.
SegmentShape ShapeOf(const WireSegmentHeader& header) {
  return {.layers = {.first = header.first_layer, .count = header.layer_count},
          .head_group = header.head_group,
          .first_head = header.first_head,
          .heads = header.heads,
          .head_dim = header.head_dim,
          .dtype = static_cast<KvDtype>(header.dtype)};
}

// The shape that the object's own header states, once it is sound.
Result<SegmentShape> StatedShape(std::span<const std::byte> object, const ObjectName& name) {
  SS_TRY_ASSIGN(const WireSegmentHeader header, ReadSegmentHeader(object));
  const SegmentShape shape = ShapeOf(header);
  if (Status status = CheckSegmentShape(shape); !status.ok()) return Corrupt(status.message());
  if (const Result<ProfileBytes> bytes = ProfileBytesOf(
          {static_cast<Profile>(header.profile), static_cast<CodecId>(header.codec)}, shape);
      !bytes.ok()) {
    return Corrupt(bytes.status().message());
  }
  SS_TRY(CheckName(header, name));
  return shape;
}

Status VerifyBlocks(SegmentReader* reader) {
  for (uint32_t block = 0; block < reader->block_count(); ++block) {
    SS_TRY(reader->NextBlock().Verify().WithContext("block " + std::to_string(block)));
  }
  return OkStatus();
}

}  // namespace

Result<ProfileBytes> ProfileBytesOf(StoredForm form, const SegmentShape& shape) {
  const bool two_bytes = shape.dtype == KvDtype::kBf16 || shape.dtype == KvDtype::kFp16;
  switch (form.profile) {
    case Profile::kRaw:
      return ProfileBytes{.symbol_bits = DtypeBytes(shape.dtype) * 8};
    case Profile::kLossless:
      if (two_bytes) return ProfileBytes{.plain_per_element = 1, .symbol_bits = 8};
      break;
    case Profile::kQ8:
      if (two_bytes) {
        return ProfileBytes{
            .symbol_bits = 8,
            .side = uint64_t{shape.layers.count} * 2 * kChunkTokens * sizeof(float)};
      }
      break;
    case Profile::kBalanced:
      if (two_bytes) {
        const uint64_t means = uint64_t{shape.heads} * shape.head_dim;
        const uint64_t steps = (IsPacked(form) ? means : shape.heads) + kChunkTokens;
        return ProfileBytes{.symbol_bits = IsPacked(form) ? 4U : 8U,
                            .side = shape.layers.count * (means + steps) * sizeof(uint16_t)};
      }
      break;
  }
  return Status(StatusCode::kUnsupported, "profile " + std::string(ProfileName(form.profile)) +
                                              " does not take dtype " +
                                              std::string(DtypeName(shape.dtype)));
}

uint64_t SegmentHeadBytes(const SegmentShape& shape, bool sealed) {
  return sizeof(WireSegmentHeader) + SegmentTableBytes(BlockCount(shape), sealed);
}

uint64_t SegmentBytesMax(StoredForm form, const SegmentShape& shape, bool sealed) {
  const Result<ProfileBytes> bytes = ProfileBytesOf(form, shape);
  return SegmentHeadBytes(shape, sealed) + bytes->side +
         shape.elements() * (bytes->plain_per_element * 8 + bytes->symbol_bits) / 8;
}

uint64_t SegmentSideEnd(StoredForm form, const SegmentShape& shape, bool sealed) {
  return SegmentHeadBytes(shape, sealed) + ProfileBytesOf(form, shape)->side;
}

uint32_t SegmentHeadCrc(std::span<const std::byte> object, uint32_t block_count, bool sealed) {
  const uint32_t header_crc = Crc32c(object.first(offsetof(WireSegmentHeader, head_crc)));
  return Crc32c(object.subspan(sizeof(WireSegmentHeader), SegmentTableBytes(block_count, sealed)),
                header_crc);
}

NameInTag::NameInTag(const ObjectName& name) {
  std::array<char, kObjectNameTextMax> text;
  const size_t length = CopyText(name, text);
  const Le32 wire = static_cast<uint32_t>(length);
  StoreWire(wire, bytes);
  std::memcpy(&bytes[sizeof(wire)], text.data(), length);
  size = sizeof(wire) + length;
}

Result<WireSegmentHeader> ReadSegmentHeader(std::span<const std::byte> object) {
  if (object.size() < sizeof(WireSegmentHeader)) return Corrupt("shorter than its header");
  const auto header = LoadWire<WireSegmentHeader>(object);
  if (header.magic != kSegmentMagic) return Corrupt("magic");
  if (header.version != kSegmentVersion) return Corrupt("version");
  if (header.header_bytes != sizeof(WireSegmentHeader)) return Corrupt("header bytes");
  if (header.total_bytes != object.size()) return Corrupt("total bytes");
  const bool sealed = header.auth.algorithm != 0;
  if (SegmentTableBytes(header.block_count, sealed) > object.size() - sizeof(header)) {
    return Corrupt("block count");
  }
  if (header.head_crc != SegmentHeadCrc(object, header.block_count, sealed)) {
    return Corrupt("head CRC");
  }
  if (header.zero != 0) return Corrupt("header: zero byte");
  return header;
}

Status BlockView::Verify() const {
  if (seal == nullptr) return Crc32c(stored) == crc ? OkStatus() : Corrupt("block CRC");
  if (seal->OpenMessage(*object_seal, index + 1, {}, std::span(sealed, stored.size()),
                        tag.first<kTagBytes>())) {
    return OkStatus();
  }
  // The CRC, which is under the head's tag, tells an accident.
  if (Crc32c(stored) != crc) return Corrupt("block CRC");
  return seal->Refuse("tag of a block");
}

Result<SegmentReader> SegmentReader::Open(std::span<const std::byte> object, const ObjectName& name,
                                          const SegmentShape& shape) {
  return OpenAny(object, name, shape, nullptr, {});
}

Result<SegmentReader> SegmentReader::OpenSealed(std::span<std::byte> object, const ObjectName& name,
                                                const SegmentShape& shape, Seal* seal) {
  SS_CHECK(seal != nullptr, "OpenSealed without keys");
  return OpenAny(object, name, shape, seal, object);
}

// REQUIRES: object_, sealed_, seal_, shape_ and side_ are set, header and shape agree.
Status SegmentReader::OpenHead(const ObjectName& name) {
  const auto header = LoadWire<WireSegmentHeader>(object_);
  if (header.side_crc != Crc32c(side_)) return Corrupt("side CRC");
  if (!sealed()) return OkStatus();
  SS_TRY_ASSIGN(object_seal_, seal_->OfObject(name.key, header.auth));
  const WireSegmentHeader in_tag = HeaderInTag(header);
  const NameInTag name_in_tag(name);
  const std::array covered = {
      name_in_tag.view(), std::as_bytes(std::span(&in_tag, 1)),
      object_.subspan(sizeof(header), SegmentTableBytes(block_count_, true))};
  const auto side_at = static_cast<size_t>(side_.data() - object_.data());
  if (seal_->OpenMessage(object_seal_, 0, covered, sealed_.subspan(side_at, side_.size()),
                         std::as_bytes(std::span(header.auth.tag)))) {
    return OkStatus();
  }
  return seal_->Refuse("tag of the segment");
}

Result<SegmentReader> SegmentReader::OpenAny(std::span<const std::byte> object,
                                             const ObjectName& name, const SegmentShape& shape,
                                             Seal* seal, std::span<std::byte> sealed) {
  if (name.kind != ObjectKind::kSegment) {
    return Status(StatusCode::kInvalidArgument, "not the name of a segment");
  }
  SS_TRY(CheckSegmentShape(shape));
  SegmentReader reader;
  SS_TRY_ASSIGN(reader.bytes_, ProfileBytesOf(name.form(), shape));
  SS_TRY_ASSIGN(const WireSegmentHeader header, ReadSegmentHeader(object));
  SS_TRY(CheckAuthFields(header.auth, seal));
  SS_TRY(CheckName(header, name));
  SS_TRY(CheckShape(header, shape, reader.bytes_));
  SS_TRY(CheckTable(object, shape, reader.bytes_, name.codec, seal != nullptr));
  const uint64_t head_bytes = SegmentHeadBytes(shape, seal != nullptr);
  reader.object_ = object;
  reader.sealed_ = sealed;
  reader.seal_ = seal;
  reader.shape_ = shape;
  reader.block_count_ = header.block_count;
  // CheckTable found header, table, side and blocks to be exactly the object.
  reader.side_ = object.subspan(head_bytes, reader.bytes_.side);
  reader.next_offset_ = head_bytes + reader.bytes_.side;
  SS_TRY(reader.OpenHead(name));
  return reader;
}

uint64_t SegmentReader::NextBlockEnd() const {
  SS_CHECK(next_block_ < block_count_, "past the last block");
  const auto entry = LoadWire<WireBlockEntry>(EntryBytes(object_, next_block_));
  return next_offset_ + bytes_.plain(BlockAt(shape_, next_block_).elements) + entry.coded_bytes;
}

BlockView SegmentReader::NextBlock() {
  SS_CHECK(next_block_ < block_count_, "read past the last block");
  const auto entry = LoadWire<WireBlockEntry>(EntryBytes(object_, next_block_));
  BlockView view;
  view.range = BlockAt(shape_, next_block_);
  view.codec = static_cast<CodecId>(entry.codec);
  view.plain_bytes = bytes_.plain(view.range.elements);
  view.symbol_bytes = bytes_.symbols(view.range.elements);
  view.crc = entry.crc;
  view.stored = object_.subspan(next_offset_, uint64_t{view.plain_bytes} + entry.coded_bytes);
  if (sealed()) {
    view.index = next_block_;
    view.seal = seal_;
    view.object_seal = &object_seal_;
    view.sealed = sealed_.subspan(next_offset_).data();
    view.tag = object_.subspan(sizeof(WireSegmentHeader) + SegmentTableBytes(block_count_, false) +
                                   next_block_ * kTagBytes,
                               kTagBytes);
  }
  next_offset_ += view.stored.size();
  ++next_block_;
  return view;
}

SegmentWriter::SegmentWriter(std::span<std::byte> buffer, const ObjectName& name,
                             const SegmentShape& shape, Seal* seal)
    : buffer_(buffer), seal_(seal), name_(name), shape_(shape) {
  SS_CHECK(CheckSegmentShape(shape).ok(), "segment shape");
  SS_CHECK(name.kind == ObjectKind::kSegment && name.first_layer == shape.layers.first &&
               name.layer_count == shape.layers.count && name.head_group == shape.head_group &&
               name.head_group < name.head_groups && name.head_groups * shape.heads <= kHeadsMax,
           "segment name and shape differ");
  SS_CHECK(buffer.size() >= SegmentBytesMax(name.form(), shape, seal != nullptr), "segment buffer");
  bytes_ = ProfileBytesOf(name.form(), shape).value();
  block_count_ = BlockCount(shape);
  offset_ = SegmentHeadBytes(shape, seal != nullptr) + bytes_.side;
  if (seal_ == nullptr) return;
  WireSegmentHeader header;
  object_seal_ = seal_->NewObject(name.key, &header.auth);
  StoreWire(header, buffer_);  // Finish fills in the rest
}

std::span<std::byte> SegmentWriter::side() {
  return buffer_.subspan(SegmentHeadBytes(shape_, seal_ != nullptr), bytes_.side);
}

std::span<std::byte> SegmentWriter::TagOf(uint32_t block) const {
  return buffer_.subspan(
      sizeof(WireSegmentHeader) + SegmentTableBytes(block_count_, false) + block * kTagBytes,
      kTagBytes);
}

BlockRange SegmentWriter::block_range() const {
  return BlockAt(shape_, block_);
}

std::span<std::byte> SegmentWriter::BlockSpace() {
  return buffer_.subspan(offset_);
}

void SegmentWriter::FinishBlock(CodecId codec, uint32_t coded_bytes) {
  const BlockRange range = block_range();
  const uint32_t symbol_bytes = bytes_.symbols(range.elements);
  SS_CHECK(codec == CodecId::kNone || codec == name_.codec, "codec is not the segment's");
  SS_CHECK(codec == CodecId::kNone ? coded_bytes == symbol_bytes
                                   : coded_bytes > 0 && coded_bytes <= symbol_bytes,
           "coded size of a block");
  const uint64_t stored = uint64_t{bytes_.plain(range.elements)} + coded_bytes;
  if (seal_ != nullptr) {
    const SealTag tag =
        seal_->SealMessage(object_seal_, block_ + 1, {}, buffer_.subspan(offset_, stored));
    std::copy(tag.begin(), tag.end(), TagOf(block_).begin());
  }
  WireBlockEntry entry;
  entry.coded_bytes = coded_bytes;
  entry.crc = Crc32c(buffer_.subspan(offset_, stored));
  entry.codec = static_cast<uint8_t>(codec);
  StoreWire(entry, buffer_.subspan(sizeof(WireSegmentHeader) + block_ * sizeof(WireBlockEntry)));
  offset_ += stored;
  ++block_;
}

bool SegmentWriter::done() const {
  return block_ == block_count_;
}

std::span<const std::byte> SegmentWriter::Finish() {
  SS_CHECK(done(), "segment has unwritten blocks");
  WireSegmentHeader header;
  if (seal_ != nullptr) header.auth = LoadWire<WireSegmentHeader>(buffer_).auth;
  header.magic = kSegmentMagic;
  header.version = kSegmentVersion;
  header.header_bytes = static_cast<uint16_t>(sizeof(WireSegmentHeader));
  header.profile = static_cast<uint8_t>(name_.profile);
  header.codec = static_cast<uint8_t>(name_.codec);
  header.dtype = static_cast<uint8_t>(shape_.dtype);
  header.first_layer = static_cast<uint16_t>(shape_.layers.first);
  header.layer_count = static_cast<uint16_t>(shape_.layers.count);
  header.head_group = static_cast<uint16_t>(shape_.head_group);
  header.head_groups = name_.head_groups;
  header.first_head = static_cast<uint16_t>(shape_.first_head);
  header.heads = static_cast<uint16_t>(shape_.heads);
  header.head_dim = static_cast<uint16_t>(shape_.head_dim);
  header.chunk_tokens = static_cast<uint16_t>(kChunkTokens);
  header.block_count = block_count_;
  header.side_bytes = bytes_.side;
  header.total_bytes = offset_;
  header.name_digest = NameDigest(name_);
  if (seal_ != nullptr) SealHead(&header);
  header.side_crc = Crc32c(side());
  StoreWire(header, buffer_);
  header.head_crc = SegmentHeadCrc(buffer_, block_count_, seal_ != nullptr);
  StoreWire(header, buffer_);
  return buffer_.first(offset_);
}

void SegmentWriter::SealHead(WireSegmentHeader* header) {
  const WireSegmentHeader in_tag = HeaderInTag(*header);
  const NameInTag name_in_tag(name_);
  const std::array covered = {name_in_tag.view(), std::as_bytes(std::span(&in_tag, 1)),
                              std::span<const std::byte>(buffer_).subspan(
                                  sizeof(in_tag), SegmentTableBytes(block_count_, true))};
  const SealTag tag = seal_->SealMessage(object_seal_, 0, covered, side());
  std::memcpy(header->auth.tag.data(), tag.data(), tag.size());
}

Status VerifySegment(std::span<const std::byte> object, const ObjectName& name) {
  SS_TRY_ASSIGN(const SegmentShape shape, StatedShape(object, name));
  SS_TRY_ASSIGN(SegmentReader reader, SegmentReader::Open(object, name, shape));
  return VerifyBlocks(&reader);
}

Status VerifySealedSegment(std::span<std::byte> object, const ObjectName& name, Seal* seal) {
  SS_TRY_ASSIGN(const SegmentShape shape, StatedShape(object, name));
  SS_TRY_ASSIGN(SegmentReader reader, SegmentReader::OpenSealed(object, name, shape, seal));
  return VerifyBlocks(&reader);
}

}  // namespace shadowserve
