// Encoded block, bits in Deflate's order (least significant first):
//
//   1 bit final = 1 | 2 bits type = dynamic Huffman | code tables | one code per byte | end of
//   block
//
// ISA-L builds the code tables and their header from the block's histogram; its own compressor
// would look for matches, so the literals are written here. Its decoder looks codes up by 12 bits
// and falls back to a second table for longer ones: rare bytes are given a floor of 1/4096 of the
// block, which keeps all codes in the first table and costs under 0.1 % of size.
#include "codec/deflate_codec.h"

#include <isa-l/igzip_lib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

namespace shadowserve {
namespace {

constexpr size_t kLiterals = 256;
constexpr size_t kEndOfBlock = 256;
constexpr size_t kRareByteFloor = 4096;  // one in so many; see above
// Deflate codes are at most 15 bits: this many fit a 64-bit buffer that holds up to 7 bits already.
constexpr size_t kCodesPerFlush = 3;

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

  // REQUIRES: bits held and added since the last Flush <= 64.
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
  void AddBytes(const uint8_t* bytes, size_t count) {
    std::memcpy(next_, bytes, count);
    next_ += count;
  }

 private:
  void Advance() {
    next_ += held_count_ / 8;
    held_ >>= held_count_ & ~7U;  // at most 56: Add leaves no full 64 bits, see kCodesPerFlush
    held_count_ &= 7;
  }

  std::byte* next_;
  std::byte* end_;
  uint64_t held_ = 0;
  uint32_t held_count_ = 0;
};

class DeflateCodec final : public BlockCodec {
 public:
  DeflateCodec() { isal_inflate_init(&inflate_); }

  size_t Encode(std::span<const std::byte> symbols, std::span<std::byte> out) override {
    if (symbols.empty() || symbols.size() > std::numeric_limits<uint32_t>::max()) return 0;
    const Histogram counts = CountBytes(symbols);
    if (!BuildTables(counts, symbols.size())) return 0;
    const size_t used = EncodedBytes(counts);
    if (used >= std::min(symbols.size(), out.size())) return 0;
    WriteBlock(symbols, out.first(used));
    return used;
  }

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

 private:
  bool BuildTables(const Histogram& counts, size_t total) {
    // The histogram's tail, a hash table for match finding, is not read here.
    std::fill(std::begin(histogram_.lit_len_histogram), std::end(histogram_.lit_len_histogram), 0);
    std::fill(std::begin(histogram_.dist_histogram), std::end(histogram_.dist_histogram), 0);
    const uint32_t floor = static_cast<uint32_t>(total / kRareByteFloor) + 1;
    for (size_t value = 0; value < kLiterals; ++value) {
      if (counts[value] > 0) histogram_.lit_len_histogram[value] = std::max(counts[value], floor);
    }
    histogram_.lit_len_histogram[kEndOfBlock] = 1;
    return isal_create_hufftables_subset(&tables_, &histogram_) == 0;
  }

  size_t EncodedBytes(const Histogram& counts) const {
    uint64_t bits = uint64_t{tables_.deflate_hdr_count} * 8 + tables_.deflate_hdr_extra_bits +
                    tables_.lit_table_sizes[kEndOfBlock];
    for (size_t value = 0; value < kLiterals; ++value) {
      bits += uint64_t{counts[value]} * tables_.lit_table_sizes[value];
    }
    return static_cast<size_t>((bits + 7) / 8);
  }

  void WriteBlock(std::span<const std::byte> symbols, std::span<std::byte> out) {
    std::array<uint32_t, kLiterals> codes;  // code | length << 16
    for (size_t value = 0; value < kLiterals; ++value) {
      codes[value] = tables_.lit_table[value] | uint32_t{tables_.lit_table_sizes[value]} << 16;
    }
    BitWriter writer(out.data(), out.data() + out.size());
    writer.AddBytes(tables_.deflate_hdr, tables_.deflate_hdr_count);
    writer.Add(tables_.deflate_hdr[tables_.deflate_hdr_count] &
                   ((1U << tables_.deflate_hdr_extra_bits) - 1),
               tables_.deflate_hdr_extra_bits);
    const auto add = [&](std::byte symbol) {
      const uint32_t code = codes[std::to_integer<uint8_t>(symbol)];
      writer.Add(code & 0xFFFF, code >> 16);
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
    writer.Add(tables_.lit_table[kEndOfBlock], tables_.lit_table_sizes[kEndOfBlock]);
    writer.Finish();
  }

  inflate_state inflate_;
  isal_huff_histogram histogram_ = {};
  isal_hufftables tables_ = {};
};

}  // namespace

std::unique_ptr<BlockCodec> MakeDeflateCodec() {
  return std::make_unique<DeflateCodec>();
}

}  // namespace shadowserve
