// Segment format v1: the bytes of one stored (chunk, layer range, head group).
// The byte grammar stands in segment.cc and in docs/chunk_format.md.
//
//   header (fixed) | block table | tags | side bytes (e.g. q8 scales) | block 0 | block 1 | ...
//   block = plain bytes (stored as they are) | coded bytes (codec of this block)
//
// Sizes of side, plain and symbol bytes follow from the profile and the SegmentShape, never from
// the object; the object only says how long each block's coded part is. Three rules make hostile
// input harmless: every length is checked against the object's real size before use; the header and
// table are covered by one CRC32C, the side bytes by one, each block's stored bytes by one; and the
// header holds the digest of the object's full name, so that a valid object under a wrong name is
// refused. With a Seal (keys) header, table and side are authenticated together before anything of
// them is used, and each block before it is decoded; then only sealed objects are read. Without
// one only unsealed objects are, whose authentication fields are zero and which have no tags.
#ifndef SHADOWSERVE_FORMAT_SEGMENT_H_
#define SHADOWSERVE_FORMAT_SEGMENT_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "format/kv_layout.h"
#include "format/object_name.h"
#include "format/seal.h"

namespace shadowserve {

struct WireSegmentHeader;

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

// Whether two symbols share a byte: the profile `balanced` without an entropy coder behind it. Said
// by the object's name, so that nothing has to be guessed.
constexpr bool IsPacked(StoredForm form) {
  return form.profile == Profile::kBalanced && form.codec == CodecId::kNone;
}

// Bytes as a form stores them. A block of n elements has plain(n) + symbols(n) bytes before coding.
// raw: symbols of the dtype's size. lossless: plain (sign+mantissa) and symbol (exponent) bytes.
// q8, balanced: symbols of a byte, packed two to a byte, element 2i in the low half of byte i.
// Side, all of it per segment:
//   q8:       f32 scale[layer][K|V][token]
//   balanced: fp16 mean[layer][head][dim], step of K[layer][head], step of V[layer][token]
//   packed:   fp16 mean[layer][head][dim], step of K[layer][head][dim], step of V[layer][token]
struct ProfileBytes {
  uint32_t plain_per_element = 0;  // bytes
  uint32_t symbol_bits = 0;        // per element: 4, 8 or 16
  uint64_t side = 0;               // bytes per segment
  // REQUIRES: `elements` of whole blocks, which hold an even number.
  uint32_t plain(uint32_t elements) const { return elements * plain_per_element; }
  uint32_t symbols(uint32_t elements) const {
    return static_cast<uint32_t>(uint64_t{elements} * symbol_bits / 8);
  }
};
// kUnsupported naming both when the profile does not take the dtype (all but raw: bf16 and fp16).
Result<ProfileBytes> ProfileBytesOf(StoredForm form, const SegmentShape& shape);

// Upper bound of a stored segment's bytes: every block stored uncoded. `sealed`: with tags.
// REQUIRES: ProfileBytesOf(form, shape).ok().
uint64_t SegmentBytesMax(StoredForm form, const SegmentShape& shape, bool sealed = false);
// Bytes in front of the side bytes.
uint64_t SegmentHeadBytes(const SegmentShape& shape, bool sealed = false);

// Where header, table, tags and side bytes end. REQUIRES: ProfileBytesOf(form, shape).ok().
uint64_t SegmentSideEnd(StoredForm form, const SegmentShape& shape, bool sealed = false);

// A parsed, checked view into a segment's bytes (borrowed).
struct BlockView {
  BlockRange range;
  CodecId codec = CodecId::kNone;
  std::span<const std::byte> stored;  // plain then coded; covered by crc
  uint32_t plain_bytes = 0;           // stored.first(plain_bytes)
  uint32_t symbol_bytes = 0;          // what the coded part decodes to, exactly
  uint32_t crc = 0;
  // Of a sealed segment: its number, and where key, tag and the bytes to decrypt are (borrowed from
  // the reader, which stays where it is as long as the view is used).
  uint32_t index = 0;
  Seal* seal = nullptr;
  const ObjectSeal* object_seal = nullptr;
  std::byte* sealed = nullptr;
  std::span<const std::byte> tag;
  std::span<const std::byte> plain() const { return stored.first(plain_bytes); }
  std::span<const std::byte> coded() const { return stored.subspan(plain_bytes); }
  // kCorrupt unless the stored bytes match the CRC or, sealed, the tag. Decrypts an encrypted block
  // in place: call it once, and before plain() and coded() are read.
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
  // The same with keys: anything but a segment sealed by one of them is kCorrupt. Side bytes and
  // blocks of an encrypted one are decrypted in place. `seal` outlives the reader.
  static Result<SegmentReader> OpenSealed(std::span<std::byte> object, const ObjectName& name,
                                          const SegmentShape& shape, Seal* seal);
  uint32_t block_count() const { return block_count_; }
  // Blocks in order: REQUIRES index 0, 1, 2, ... (each call advances a running offset).
  BlockView NextBlock();
  // Where the next block ends in the object: it needs no more bytes than these. REQUIRES: as
  // NextBlock.
  uint64_t NextBlockEnd() const;
  std::span<const std::byte> side() const { return side_; }
  // Of a sealed segment: another thread goes on, with a Seal of its own for the same keys.
  void UseSeal(Seal* seal) { seal_ = seal; }

 private:
  SegmentReader() = default;
  static Result<SegmentReader> OpenAny(std::span<const std::byte> object, const ObjectName& name,
                                       const SegmentShape& shape, Seal* seal,
                                       std::span<std::byte> sealed);
  bool sealed() const { return seal_ != nullptr; }
  Status OpenHead(const ObjectName& name);

  std::span<const std::byte> object_;
  std::span<std::byte> sealed_;  // the same bytes, if they may have to be decrypted
  Seal* seal_ = nullptr;
  ObjectSeal object_seal_;
  std::span<const std::byte> side_;
  SegmentShape shape_;
  ProfileBytes bytes_;
  uint32_t block_count_ = 0;
  uint32_t next_block_ = 0;
  uint64_t next_offset_ = 0;
};

// Fills a caller's buffer with one segment, sealed if there is a `seal`. Steps, in this order:
// construct; write side() bytes; for each block fill BlockSpace() with plain bytes then coded bytes
// and call FinishBlock; Finish.
class SegmentWriter {
 public:
  // REQUIRES: buffer.size() >= SegmentBytesMax(name.form(), shape, seal != nullptr).
  SegmentWriter(std::span<std::byte> buffer, const ObjectName& name, const SegmentShape& shape,
                Seal* seal = nullptr);
  std::span<std::byte> side();
  BlockRange block_range() const;     // of the block being written
  std::span<std::byte> BlockSpace();  // at least plain + symbol bytes (all that is left)
  // The block's plain bytes are complete and `coded_bytes` of coded data follow them. They may be
  // encrypted in place.
  void FinishBlock(CodecId codec, uint32_t coded_bytes);
  bool done() const;
  // Writes header, table, checksums and tags; returns the object's bytes. Side bytes may be
  // encrypted in place. REQUIRES: done(), and called once.
  std::span<const std::byte> Finish();

 private:
  std::span<std::byte> TagOf(uint32_t block) const;
  void SealHead(WireSegmentHeader* header);

  std::span<std::byte> buffer_;
  Seal* seal_;
  ObjectSeal object_seal_;
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
// The same with keys: tags too. An encrypted object is decrypted in place.
Status VerifySealedSegment(std::span<std::byte> object, const ObjectName& name, Seal* seal);

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_SEGMENT_H_
