// Decoder of raw Deflate streams as deflate_codec.cc writes them: one Huffman block of literals, no
// matches. Several streams at a time.
//
// A Huffman decoder waits for itself: where a code begins is known only when the one before it was
// looked up, some 8 cycles for 1 byte, whatever the processor could do beside it. Here each step
// looks up a code of every stream, so that the waits overlap. Codes that are short on average are
// looked up up to three at a time as well.
//
// Says only that a stream was decoded: whoever wants to know what is wrong with another asks a full
// decoder, which also takes the streams that this one does not.
//
// Owner thread: one. Allocates nothing.
#ifndef SHADOWSERVE_CODEC_LITERAL_INFLATE_H_
#define SHADOWSERVE_CODEC_LITERAL_INFLATE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "codec/codec.h"

namespace shadowserve {

class LiteralInflate {
 public:
  static constexpr uint32_t kStreamsMax = kBlocksSideBySideMax;
  static constexpr uint32_t kCodeBitsMax = 12;

  LiteralInflate();

  // Takes a number of the first blocks, up to kStreamsMax: those of one size whose symbols lie
  // kSymbolStride apart, until one that is not for this decoder. Tells which of them were decoded;
  // the symbols of the others are undefined. Never reads outside `coded`, never writes outside
  // `symbols`; leaves `status` alone.
  size_t Decode(std::span<const CodedBlock> blocks, std::array<bool, kStreamsMax>* decoded);

 private:
  struct Stream;
  // Both are indexed by the next bits of a stream.
  // One code: bits 0..7 its length, 8..15 its byte. 0: end of block.
  using CodeTable = std::array<uint16_t, size_t{1} << kCodeBitsMax>;
  // Up to three codes: bits 0..5 their length, 6..29 their bytes, 30..31 their number. 0: end of
  // block.
  static constexpr uint32_t kGroupBitsMin = 10;
  static constexpr uint32_t kGroupBitsMax = 11;
  using GroupTable = std::array<uint32_t, size_t{1} << kGroupBitsMax>;

  static bool Open(const CodedBlock& block, Stream* stream);
  static void FillCodes(const Stream& stream, uint32_t bits, CodeTable* table);
  static void FillGroups(const CodeTable& codes, uint32_t bits, GroupTable* groups);
  static bool Finish(const CodeTable& codes, uint32_t bits, Stream* stream);

  std::array<CodeTable, kStreamsMax> codes_;
  std::array<GroupTable, kStreamsMax> groups_;
  bool fast_shifts_ = false;  // x86-64: BMI2 and LZCNT
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_LITERAL_INFLATE_H_
