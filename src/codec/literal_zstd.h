// Decoder of zstd frames as zstd_codec.cc writes them (RFC 8878): one block of literals in four
// Huffman streams, no matches.
//
// The four streams of a block share one table, so each look at it takes up to four codes of one
// stream, and the waits of the streams overlap (literal_inflate.h says why that matters). libzstd
// takes two codes a look at most.
//
// Says only that a frame was decoded: whoever wants to know what is wrong with another asks
// libzstd, which also takes the frames that this decoder does not. A frame that is decoded here is
// one that libzstd decodes to the same symbols.
//
// Owner thread: one. Allocates nothing.
#ifndef SHADOWSERVE_CODEC_LITERAL_ZSTD_H_
#define SHADOWSERVE_CODEC_LITERAL_ZSTD_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "codec/zstd_weights.h"

namespace shadowserve {

class LiteralZstd {
 public:
  LiteralZstd();

  // False: not for this decoder, damaged, or not of symbols.size() bytes; `symbols` are undefined
  // then. Never reads outside `coded`, never writes outside `symbols`.
  bool Decode(std::span<const std::byte> coded, std::span<std::byte> symbols);

 private:
  static constexpr size_t kTableSize = size_t{1} << kZstdCodeBitsMax;

  // What is at work on groups touches up to so many behind the last it means.
  static constexpr size_t kTouchedBehind = 3;
  // Codes that follow each other, by the bits that they are. A mark: bits 0..5 their length,
  // 6..7 their number, or one less where there is always one.
  template <size_t kSize>
  struct Groups {
    std::array<uint32_t, kSize + kTouchedBehind> bytes;
    std::array<uint8_t, kSize + kTouchedBehind> marks;
  };

  struct HuffmanCode;
  struct Stream;
  void FillTables(const HuffmanCode& code);
  bool Finish(Stream* stream) const;

  // Indexed by 1 << n | the next n bits: the whole codes among them, as many as the name says at
  // most.
  Groups<2 * kTableSize> ones_;
  Groups<kTableSize> twos_;
  Groups<kTableSize> threes_;
  // Indexed by the next kZstdCodeBitsMax bits: one to four codes.
  Groups<kTableSize> fours_;
  bool fast_shifts_ = false;  // x86-64: BMI2 and TZCNT
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_LITERAL_ZSTD_H_
