// Encoded block, bits in Deflate's order (least significant first; RFC 1951, 3.2.7):
//
//   1 bit final = 1 | 2 bits type = 2 | 5 bits HLIT = 0 | 5 bits HDIST = 1 | 4 bits HCLEN
//   code length code | lengths of 257 literal and 2 distance codes | one code per byte | end of
//   block
//
// The compressors of ISA-L and zlib look for matches or are slow (and ISA-L gives codes to all
// match lengths, which costs 4 % of size on exponents and two thirds of its own decoder's speed),
// so the block is written here. The two distance codes are never used: not every decoder takes
// fewer.
#include "codec/deflate_codec.h"

#include <isa-l/igzip_lib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string>

#include "codec/deflate_format.h"
#include "codec/huffman.h"
#include "codec/literal_inflate.h"

namespace shadowserve {
namespace {

// The decoder's tables are indexed by the bits of the longest code, and the smaller they are the
// more streams it decodes side by side (literal_inflate.h). 11 bits, as zstd has, cost 0.9 % of
// size against 12 on q8's symbols; 10 bits, for codes that are short on average, 0.4 % on
// exponents.
constexpr uint32_t kLiteralBitsMax = 11;
constexpr uint32_t kShortLiteralBitsMax = 10;
constexpr uint64_t kShortBitsMean = 5;
// This many fit a 64-bit buffer that holds up to 7 bits already.
constexpr size_t kCodesPerFlush = 5;
static_assert(7 + kCodesPerFlush * kLiteralBitsMax < 64);

using Histogram = std::array<uint32_t, kLiterals>;

// Four tables, so that a run of one byte does not wait for its own counter.
Histogram CountBytes(std::span<const std::byte> bytes) {
  std::array<Histogram, 4> counts = {};
  size_t i = 0;
  for (; i + 4 <= bytes.size(); i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) {
      ++counts[lane][std::to_integer<uint8_t>(bytes[i + lane])];
    }
  }
  for (; i < bytes.size(); ++i) ++counts[0][std::to_integer<uint8_t>(bytes[i])];
  for (size_t value = 0; value < kLiterals; ++value) {
    counts[0][value] += counts[1][value] + counts[2][value] + counts[3][value];
  }
  return counts[0];
}

// Appends bits to a buffer that is known to be long enough.
class BitWriter {
 public:
  BitWriter(std::byte* begin, std::byte* end) : next_(begin), end_(end) {}

  // REQUIRES: bits held and added since the last flush < 64.
  void Add(uint64_t bits, uint32_t count) {
    held_ |= bits << held_count_;
    held_count_ += count;
  }
  bool CanFlushFast() const { return end_ - next_ >= 8; }
  // Stores 8 bytes, keeps the bits of the last incomplete one. REQUIRES: CanFlushFast().
  void FlushFast() {
    static_assert(std::endian::native == std::endian::little);
    std::memcpy(next_, &held_, sizeof(held_));
    Advance();
  }
  void Flush() {
    const size_t whole = held_count_ / 8;
    std::memcpy(next_, &held_, whole);
    Advance();
  }
  void Finish() {
    Flush();
    if (held_count_ > 0) *next_++ = static_cast<std::byte>(held_);
  }

 private:
  void Advance() {
    next_ += held_count_ / 8;
    held_ >>= held_count_ & ~7U;  // at most 56, since fewer than 64 bits are held
    held_count_ &= 7;
  }

  std::byte* next_;
  std::byte* end_;
  uint64_t held_ = 0;
  uint32_t held_count_ = 0;
};

// One symbol of the code length alphabet with its extra bits.
struct LengthToken {
  uint8_t symbol;
  uint8_t extra_bits;
  uint8_t extra;
};

// The code tables of a block and how they are sent.
struct BlockCode {
  std::array<uint8_t, kEndOfBlock + 1> lengths;
  std::array<uint16_t, kEndOfBlock + 1> codes;
  std::array<LengthToken, kEndOfBlock + 1 + kDistanceCodes> tokens;
  size_t token_count = 0;
  std::array<uint8_t, kLengthSymbols> token_lengths;
  std::array<uint16_t, kLengthSymbols> token_codes;
  size_t token_lengths_sent = 0;  // HCLEN + 4
  uint64_t bits = 0;              // of the whole block

  explicit BlockCode(const Histogram& counts) {
    std::array<uint32_t, kEndOfBlock + 1> weights;
    std::copy(counts.begin(), counts.end(), weights.begin());
    weights[kEndOfBlock] = 1;
    uint64_t literal_bits = SetLengths(weights, kLiteralBitsMax);
    if (literal_bits <= kShortBitsMean * std::reduce(weights.begin(), weights.end(), uint64_t{0})) {
      literal_bits = SetLengths(weights, kShortLiteralBitsMax);
    }
    CanonicalCodes(lengths, codes);
    ListTokens();
    std::array<uint32_t, kLengthSymbols> token_counts = {};
    for (size_t i = 0; i < token_count; ++i) ++token_counts[tokens[i].symbol];
    BoundedCodeLengths(token_counts, kLengthBitsMax, token_lengths);
    CanonicalCodes(token_lengths, token_codes);
    token_lengths_sent = kLengthSymbols;
    while (token_lengths[kLengthOrder[token_lengths_sent - 1]] == 0) --token_lengths_sent;

    bits = 3 + 5 + 5 + 4 + 3 * token_lengths_sent;
    for (size_t i = 0; i < token_count; ++i) {
      bits += token_lengths[tokens[i].symbol] + tokens[i].extra_bits;
    }
    bits += literal_bits;
  }

  size_t bytes() const { return static_cast<size_t>((bits + 7) / 8); }

 private:
  // The bits of all codes.
  uint64_t SetLengths(const std::array<uint32_t, kEndOfBlock + 1>& weights, uint32_t bits_max) {
    BoundedCodeLengths(weights, bits_max, lengths);
    return std::transform_reduce(
        weights.begin(), weights.end(), lengths.begin(), uint64_t{0}, std::plus<>(),
        [](uint32_t weight, uint8_t length) { return uint64_t{weight} * length; });
  }

  void AddToken(uint8_t symbol, uint32_t extra_bits, size_t extra) {
    tokens[token_count++] = {symbol, static_cast<uint8_t>(extra_bits), static_cast<uint8_t>(extra)};
  }

  void ListTokens() {
    std::array<uint8_t, kEndOfBlock + 1 + kDistanceCodes> sent;
    std::fill(std::copy(lengths.begin(), lengths.end(), sent.begin()), sent.end(), uint8_t{1});
    for (size_t i = 0; i < sent.size();) {
      size_t run = 1;
      while (i + run < sent.size() && sent[i + run] == sent[i]) ++run;
      if (sent[i] == 0 && run >= 3) {
        run = std::min<size_t>(run, 138);
        run >= 11 ? AddToken(kManyZeros, 7, run - 11) : AddToken(kZeros, 3, run - 3);
      } else if (i > 0 && sent[i] == sent[i - 1] && run >= 3) {
        run = std::min<size_t>(run, 6);
        AddToken(kRepeatLast, 2, run - 3);
      } else {
        run = 1;
        AddToken(sent[i], 0, 0);
      }
      i += run;
    }
  }
};

void WriteTables(const BlockCode& code, BitWriter& writer) {
  writer.Add(1, 1);
  writer.Add(2, 2);
  writer.Add(0, 5);
  writer.Add(kDistanceCodes - 1, 5);
  writer.Add(code.token_lengths_sent - 4, 4);
  writer.Flush();
  for (size_t i = 0; i < code.token_lengths_sent; ++i) {
    writer.Add(code.token_lengths[kLengthOrder[i]], 3);
    writer.Flush();
  }
  for (size_t i = 0; i < code.token_count; ++i) {
    const LengthToken& token = code.tokens[i];
    writer.Add(code.token_codes[token.symbol], code.token_lengths[token.symbol]);
    writer.Add(token.extra, token.extra_bits);
    writer.Flush();
  }
}

// REQUIRES: out.size() == code.bytes().
void WriteBlock(const BlockCode& code, std::span<const std::byte> symbols,
                std::span<std::byte> out) {
  std::array<uint32_t, kLiterals> codes;  // code | length << 16
  for (size_t value = 0; value < kLiterals; ++value) {
    codes[value] = code.codes[value] | uint32_t{code.lengths[value]} << 16;
  }
  BitWriter writer(out.data(), out.data() + out.size());
  WriteTables(code, writer);
  const auto add = [&](std::byte symbol) {
    const uint32_t entry = codes[std::to_integer<uint8_t>(symbol)];
    writer.Add(entry & 0xFFFF, entry >> 16);
  };
  size_t i = 0;
  for (; i + kCodesPerFlush <= symbols.size() && writer.CanFlushFast(); i += kCodesPerFlush) {
    for (size_t k = 0; k < kCodesPerFlush; ++k) add(symbols[i + k]);
    writer.FlushFast();
  }
  for (; i < symbols.size(); ++i) {
    add(symbols[i]);
    writer.Flush();
  }
  writer.Add(code.codes[kEndOfBlock], code.lengths[kEndOfBlock]);
  writer.Finish();
}

class DeflateCodec final : public BlockCodec {
 public:
  DeflateCodec() { isal_inflate_init(&inflate_); }

  size_t Encode(std::span<const std::byte> symbols, std::span<std::byte> out) override {
    // The bound keeps all sums of counts in 32 bits; it is far above any block.
    if (symbols.empty() || symbols.size() > std::numeric_limits<uint32_t>::max() / 2) return 0;
    const BlockCode code(CountBytes(symbols));
    const size_t used = code.bytes();
    if (used >= std::min(symbols.size(), out.size())) return 0;
    WriteBlock(code, symbols, out.first(used));
    return used;
  }

  // Any Deflate stream, and what is wrong with one.
  Status Decode(std::span<const std::byte> coded, std::span<std::byte> symbols) override {
    constexpr size_t kMax = std::numeric_limits<uint32_t>::max();
    if (coded.size() > kMax || symbols.size() > kMax) {
      return Status(StatusCode::kCorrupt, "deflate: block of 4 GiB or more");
    }
    isal_inflate_reset(&inflate_);
    // ISA-L reads next_in only; its interface predates const.
    inflate_.next_in = reinterpret_cast<uint8_t*>(const_cast<std::byte*>(coded.data()));
    inflate_.avail_in = static_cast<uint32_t>(coded.size());
    inflate_.next_out = reinterpret_cast<uint8_t*>(symbols.data());
    inflate_.avail_out = static_cast<uint32_t>(symbols.size());
    inflate_.crc_flag = ISAL_DEFLATE;
    const int code = isal_inflate_stateless(&inflate_);
    if (code != ISAL_DECOMP_OK || inflate_.block_state != ISAL_BLOCK_FINISH) {
      return Status(StatusCode::kCorrupt,
                    "deflate: stream is damaged or does not fit, code " + std::to_string(code));
    }
    if (inflate_.avail_out != 0) return Status(StatusCode::kCorrupt, "deflate: output too short");
    if (inflate_.avail_in != 0) return Status(StatusCode::kCorrupt, "deflate: input left over");
    return OkStatus();
  }

  void DecodeEach(std::span<CodedBlock> blocks) override {
    std::array<bool, LiteralInflate::kStreamsMax> decoded = {};
    while (!blocks.empty()) {
      size_t taken = literals_.Decode(blocks, &decoded);
      if (taken == 0) decoded[taken++] = false;
      for (size_t i = 0; i < taken; ++i) {
        blocks[i].status = decoded[i] ? OkStatus() : Decode(blocks[i].coded, blocks[i].symbols);
      }
      blocks = blocks.subspan(taken);
    }
  }
  uint32_t blocks_side_by_side() const override { return LiteralInflate::kStreamsMax; }

 private:
  LiteralInflate literals_;
  inflate_state inflate_;
};

}  // namespace

std::unique_ptr<BlockCodec> MakeDeflateCodec() {
  return std::make_unique<DeflateCodec>();
}

}  // namespace shadowserve
