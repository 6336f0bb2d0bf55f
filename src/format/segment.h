// Segment format v1: the bytes of one stored (chunk, layer range, head group).
// The byte grammar stands in segment.cc and in docs/chunk_format.md.
//
//   header (fixed) | block table | side bytes (e.g. q8 scales) | block 0 | block 1 | ...
//   block = plain bytes (stored as they are) | coded bytes (codec of this block)
//
// Sizes of side, plain and symbol bytes follow from the profile and the SegmentShape, never from
// the object; the object only says how long each block's coded part is. Three rules make hostile
// input harmless: every length is checked against the object's real size before use; the header and
// table are covered by one CRC32C, the side bytes by one, each block's stored bytes by one; and the
// header holds the digest of the object's full name, so that a valid object under a wrong name is
// refused. Authentication fields (key id, algorithm, nonce, tag) are reserved and must be zero
// until used.
#ifndef SHADOWSERVE_FORMAT_SEGMENT_H_
#define SHADOWSERVE_FORMAT_SEGMENT_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "format/kv_layout.h"
#include "format/object_name.h"

namespace shadowserve {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

// Bytes per element as a profile stores them. A block of n elements has plain(n) + symbols(n) bytes
// before coding. raw: n*dtype symbols. lossless: n plain (sign+mantissa byte) + n symbols
// (exponent). q8: n symbols; side: one f32 scale per (layer, K|V, token) in this order.
struct ProfileBytes {
  uint32_t plain_per_element = 0;
  uint32_t symbols_per_element = 0;
  uint64_t side = 0;  // per segment
};
// kUnsupported naming both when the profile does not take the dtype (lossless, q8: bf16 and fp16).
Result<ProfileBytes> ProfileBytesOf(Profile profile, const SegmentShape& shape);

// Upper bound of a stored segment's bytes: every block stored uncoded.
// REQUIRES: ProfileBytesOf(profile, shape).ok().
uint64_t SegmentBytesMax(Profile profile, const SegmentShape& shape);
// Bytes in front of the side bytes.
uint64_t SegmentHeadBytes(const SegmentShape& shape);

// Where header, table and side bytes end. REQUIRES: ProfileBytesOf(profile, shape).ok().
uint64_t SegmentSideEnd(Profile profile, const SegmentShape& shape);

// A parsed, checked view into a segment's bytes (borrowed).
struct BlockView {
  BlockRange range;
  CodecId codec = CodecId::kNone;
  std::span<const std::byte> stored;  // plain then coded; covered by crc
  uint32_t plain_bytes = 0;           // stored.first(plain_bytes)
  uint32_t symbol_bytes = 0;          // what the coded part decodes to, exactly
  uint32_t crc = 0;
  std::span<const std::byte> plain() const { return stored.first(plain_bytes); }
  std::span<const std::byte> coded() const { return stored.subspan(plain_bytes); }
  // kCorrupt unless the stored bytes match the CRC.
  Status Verify() const;
};

class SegmentReader {
 public:
  // Checks everything but the blocks' own CRCs: sizes, header and side CRC, name, shape, profile.
  // Of a sound object nothing behind the side bytes (SegmentSideEnd) is read: the rest may still be
  // on its way.
  // `name` and `shape` are what the reader asked for. kCorrupt (message names the field) on any
  // doubt. What could never be read is the caller's error: kInvalidArgument for a marker's name or
  // a shape out of bounds, kUnsupported as ProfileBytesOf.
  static Result<SegmentReader> Open(std::span<const std::byte> object, const ObjectName& name,
                                    const SegmentShape& shape);
  uint32_t block_count() const { return block_count_; }
  // Blocks in order: REQUIRES index 0, 1, 2, ... (each call advances a running offset).
  BlockView NextBlock();
  // Where the next block ends in the object: it needs no more bytes than these. REQUIRES: as
  // NextBlock.
  uint64_t NextBlockEnd() const;
  std::span<const std::byte> side() const { return side_; }

 private:
  SegmentReader() = default;
  std::span<const std::byte> object_;
  std::span<const std::byte> side_;
  SegmentShape shape_;
  ProfileBytes bytes_;
  uint32_t block_count_ = 0;
  uint32_t next_block_ = 0;
  uint64_t next_offset_ = 0;
};

// Fills a caller's buffer with one segment. Steps, in this order: construct; write side() bytes;
// for each block fill BlockSpace() with plain bytes then coded bytes and call FinishBlock; Finish.
class SegmentWriter {
 public:
  // REQUIRES: buffer.size() >= SegmentBytesMax(name.profile, shape).
  SegmentWriter(std::span<std::byte> buffer, const ObjectName& name, const SegmentShape& shape);
  std::span<std::byte> side();
  BlockRange block_range() const;     // of the block being written
  std::span<std::byte> BlockSpace();  // at least plain + symbol bytes (all that is left)
  // The block's plain bytes are complete and `coded_bytes` of coded data follow them.
  void FinishBlock(CodecId codec, uint32_t coded_bytes);
  bool done() const;
  // Writes header, table and checksums; returns the object's bytes. REQUIRES: done().
  std::span<const std::byte> Finish();

 private:
  std::span<std::byte> buffer_;
  ObjectName name_;
  SegmentShape shape_;
  ProfileBytes bytes_;
  uint32_t block_count_ = 0;
  uint32_t block_ = 0;
  uint64_t offset_ = 0;
};

// Checks an object's own consistency without knowing the model (shadowctl verify): name digest,
// shape from its own header, all CRCs. kCorrupt names what is wrong.
Status VerifySegment(std::span<const std::byte> object, const ObjectName& name);

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_SEGMENT_H_
