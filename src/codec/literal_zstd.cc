#include "codec/literal_zstd.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "codec/backward_bits.h"
#include "codec/bit_words.h"
#include "codec/zstd_weights.h"

namespace shadowserve {

// A stream under work. `held` holds its next bits, the highest first, and below them one 1 that has
// moved up from bit 0 by as many bits as were taken since `next` was last moved.
struct LiteralZstd::Stream {
  std::span<const std::byte> coded;
  const std::byte* next;
  std::byte* out;
  std::byte* out_end;
  uint64_t held;
};

namespace {

using Bytes = std::span<const std::byte>;
using FourWords [[gnu::vector_size(16)]] = uint32_t;

constexpr size_t kStreams = 4;
// What is shorter than a few rounds is not worth it.
constexpr size_t kStreamBytesMin = 16;
// What a full `held` has at least: 63 bits less up to 7 of a byte begun.
constexpr size_t kHeldBits = 56;
// A round is a refill and so many looks. How far it can take a stream at most, in bytes.
constexpr size_t kLooks = kHeldBits / kZstdCodeBitsMax;
constexpr size_t kRoundInMax = 7;
constexpr size_t kRoundOutMax = kLooks * sizeof(uint32_t);
constexpr size_t kGroupsAtATime = 4;
// Of a mark.
constexpr uint32_t kLengthMask = 63;
constexpr uint32_t kCountShift = 6;
constexpr uint32_t kCounted = 1U << kCountShift;

// REQUIRES: count <= 8, bytes.size() >= count.
uint64_t LittleEndian(Bytes bytes, size_t count) {
  uint64_t value = 0;
  std::memcpy(&value, bytes.data(), count);
  return value;
}

// Rounds that a stream at `next` and `out` has input and room for, however far each takes it.
template <typename Stream>
[[gnu::always_inline]] inline size_t Rounds(const Stream& stream, const std::byte* next,
                                            const std::byte* out) {
  return std::min(static_cast<size_t>(next - stream.coded.data()) / kRoundInMax,
                  static_cast<size_t>(stream.out_end - out) / kRoundOutMax);
}

// Decodes `kCount` streams as long as none is near the end of its input or its output.
template <size_t kCount, typename Stream, typename Groups>
[[gnu::always_inline]] inline void RunStreams(Stream* streams, const Groups& groups) {
  std::array<const std::byte*, kCount> next;
  std::array<std::byte*, kCount> out;
  std::array<uint64_t, kCount> held;
  for (size_t k = 0; k < kCount; ++k) {
    next[k] = streams[k].next;
    out[k] = streams[k].out;
    held[k] = streams[k].held;
  }
  for (;;) {
    size_t rounds = SIZE_MAX;
    for (size_t k = 0; k < kCount; ++k) {
      rounds = std::min(rounds, Rounds(streams[k], next[k], out[k]));
    }
    if (rounds == 0) break;
    for (; rounds > 0; --rounds) {
#pragma GCC unroll 8
      for (size_t k = 0; k < kCount; ++k) {
        const auto taken = static_cast<uint64_t>(std::countr_zero(held[k]));
        const std::byte* moved = next[k] - taken / 8;
        held[k] = (LoadBits(moved) | 1) << taken % 8;
        next[k] = moved;
      }
#pragma GCC unroll 8
      for (size_t look = 0; look < kLooks; ++look) {
#pragma GCC unroll 8
        for (size_t k = 0; k < kCount; ++k) {
          const uint64_t next_bits = held[k] >> (64 - kZstdCodeBitsMax);
          StoreFour(groups.bytes[next_bits], out[k]);
          const uint64_t mark = groups.marks[next_bits];
          held[k] <<= mark & kLengthMask;
          out[k] += (mark >> kCountShift) + 1;
        }
      }
    }
  }
  for (size_t k = 0; k < kCount; ++k) {
    streams[k].next = next[k];
    streams[k].out = out[k];
    streams[k].held = held[k];
  }
}

// Streams that are through sooner leave the others to go on.
template <typename Stream, typename Groups>
[[gnu::always_inline]] inline void RunAll(std::span<Stream, kStreams> streams,
                                          const Groups& groups) {
  RunStreams<4>(streams.data(), groups);
  const auto open_of = [&](size_t count) {
    const auto end = std::partition(
        streams.data(), streams.data() + count,
        [](const Stream& stream) { return Rounds(stream, stream.next, stream.out) > 0; });
    return static_cast<size_t>(end - streams.data());
  };
  size_t open = open_of(4);
  if (open == 3) {
    RunStreams<3>(streams.data(), groups);
    open = open_of(3);
  }
  if (open == 2) {
    RunStreams<2>(streams.data(), groups);
    open = open_of(2);
  }
  if (open == 1) RunStreams<1>(streams.data(), groups);
}

#if defined(__x86_64__)
// Shifts by a register and counts trailing zeros in one instruction each.
template <typename Stream, typename Groups>
__attribute__((target("bmi,bmi2"), noinline)) void RunAllFast(std::span<Stream, kStreams> streams,
                                                              const Groups& groups) {
  RunAll(streams, groups);
}
#endif

}  // namespace

// Complete codes of up to kZstdCodeBitsMax bits.
struct LiteralZstd::HuffmanCode {
  // The symbols that have a code, the longest codes first: the order of the codes' values.
  std::array<uint8_t, ZstdWeights::kMax + 1> symbols;
  // Where those of a length begin.
  std::array<uint16_t, kZstdCodeBitsMax + 1> begins = {};
  uint32_t shortest = 1;

  // False: not such codes.
  bool Init(const ZstdWeights& weights) {
    std::array<uint16_t, kZstdCodeBitsMax + 2> of_weight = {};
    uint32_t sum = 0;
    for (size_t i = 0; i < weights.count; ++i) {
      const uint8_t weight = weights.of[i];
      if (weight == 0) continue;  // most of them
      ++of_weight[weight];
      sum += 1U << (weight - 1);
    }
    if (sum == 0) return false;
    const auto bits = static_cast<uint32_t>(std::bit_width(sum));
    const uint32_t rest = (1U << bits) - sum;
    if (bits > kZstdCodeBitsMax || !std::has_single_bit(rest)) return false;
    const auto last_weight = static_cast<uint32_t>(std::bit_width(rest));
    ++of_weight[last_weight];
    if (of_weight[1] == 0) return false;  // then the longest codes would be shorter
    std::array<uint16_t, kZstdCodeBitsMax + 2> at = {};
    for (uint32_t weight = 1; weight <= kZstdCodeBitsMax; ++weight) {
      at[weight + 1] = static_cast<uint16_t>(at[weight] + of_weight[weight]);
    }
    for (uint32_t length = 1; length <= kZstdCodeBitsMax; ++length) {
      begins[length] = length > bits ? uint16_t{0} : at[bits + 1 - length];
    }
    begins[0] = at[bits + 1];
    while (begins[shortest] == begins[0]) ++shortest;
    for (size_t i = 0; i < weights.count; ++i) {
      if (weights.of[i] > 0) symbols[at[weights.of[i]]++] = static_cast<uint8_t>(i);
    }
    symbols[at[last_weight]] = static_cast<uint8_t>(weights.count);
    return true;
  }

  // The groups of the next `bits` bits, from `to` on: a code, and behind it what `rest` has for the
  // other bits. `counted`: what a code adds to a mark. Touches up to kTouchedBehind behind them.
  template <size_t kRest, size_t kTo>
  void Fill(uint32_t bits, const Groups<kRest>& rest, uint32_t counted, size_t to,
            Groups<kTo>* groups) const {
    // The longest codes have the lowest values. What begins a longer one than `bits` is none.
    size_t at = to + (size_t{1} << bits);
    for (uint32_t length = 1; length <= bits; ++length) {
      at -= static_cast<size_t>(begins[length - 1] - begins[length]) << (bits - length);
    }
    std::fill(&groups->bytes[to], &groups->bytes[at], 0);
    std::fill(&groups->marks[to], &groups->marks[at], uint8_t{0});
    for (uint32_t length = bits; length > 0; --length) {
      const size_t size = size_t{1} << (bits - length);
      const uint32_t marks = (counted + length) * 0x01010101U;
      for (size_t i = begins[length]; i < begins[length - 1]; ++i, at += size) {
        for (size_t k = 0; k < size; k += kGroupsAtATime) {
          FourWords words;
          std::memcpy(&words, &rest.bytes[size + k], sizeof(words));
          words = words << 8 | uint32_t{symbols[i]};
          std::memcpy(&groups->bytes[at + k], &words, sizeof(words));
          uint32_t four_marks = 0;
          std::memcpy(&four_marks, &rest.marks[size + k], sizeof(four_marks));
          four_marks += marks;
          std::memcpy(&groups->marks[at + k], &four_marks, sizeof(four_marks));
        }
      }
    }
  }
};

LiteralZstd::LiteralZstd() {
#if defined(__x86_64__)
  fast_shifts_ = __builtin_cpu_supports("bmi2");  // none of them is without BMI
#endif
}

void LiteralZstd::FillTables(const HuffmanCode& code) {
  static constexpr Groups<kTableSize> kNone = {};
  // Behind one code, and behind two and three, there are not more bits left than this.
  std::array<uint32_t, 4> left = {kZstdCodeBitsMax};
  for (size_t i = 1; i < left.size(); ++i)
    left[i] = left[i - 1] - std::min(left[i - 1], code.shortest);
  // In this order: the groups of some bits begin where those of a bit less end.
  for (uint32_t bits = 0; bits <= left[3]; ++bits) {
    code.Fill(bits, kNone, kCounted, size_t{1} << bits, &ones_);
  }
  code.Fill(kZstdCodeBitsMax, kNone, kCounted, kTableSize, &ones_);
  for (uint32_t bits = 0; bits <= left[2]; ++bits) {
    code.Fill(bits, ones_, kCounted, size_t{1} << bits, &twos_);
  }
  for (uint32_t bits = 0; bits <= left[1]; ++bits) {
    code.Fill(bits, twos_, kCounted, size_t{1} << bits, &threes_);
  }
  code.Fill(kZstdCodeBitsMax, threes_, 0, 0, &fours_);
}

// Code by code; the last one must end where the stream begins, and not below.
bool LiteralZstd::Finish(Stream* stream) const {
  const int64_t left =
      (stream->next - stream->coded.data()) * 8 + 64 - std::countr_zero(stream->held);
  BackwardBits reader(stream->coded, left);
  for (; stream->out < stream->out_end; ++stream->out) {
    const size_t group = kTableSize | reader.Peek(kZstdCodeBitsMax);
    reader.Skip(ones_.marks[group] & kLengthMask);
    *stream->out = static_cast<std::byte>(ones_.bytes[group]);
  }
  return reader.left() == 0;
}

namespace {

// The literals of the only block of a frame without anything else (RFC 8878, 3.1.1): tree and
// streams. Empty: another kind of frame, or one of another size.
Bytes FindLiterals(Bytes frame, size_t symbol_bytes) {
  constexpr uint64_t kMagic = 0xFD2FB528;
  constexpr size_t kSmallest = 64;
  // libzstd is faster on more bits a symbol: groups are small then.
  constexpr size_t kBitsPerSymbolMax = 4;
  if (frame.size() < kSmallest || frame.size() * 8 > symbol_bytes * kBitsPerSymbolMax ||
      LittleEndian(frame, 4) != kMagic) {
    return {};
  }
  // Single segment; no checksum, no dictionary.
  const auto descriptor = std::to_integer<uint8_t>(frame[4]);
  if ((descriptor & 0x3F) != 0x20 || descriptor >> 6 > 2) return {};
  const size_t size_bytes = size_t{1} << (descriptor >> 6);
  const uint64_t content = LittleEndian(frame.subspan(5), size_bytes) + (size_bytes == 2 ? 256 : 0);
  const Bytes block = frame.subspan(5 + size_bytes);
  // The last block, a compressed one, up to the end of the frame.
  const uint64_t block_header = LittleEndian(block, 3);
  const Bytes body = block.subspan(3);
  constexpr size_t kBlockMax = size_t{128} << 10;
  if (content != symbol_bytes || content > kBlockMax || (block_header & 7) != 5 ||
      block_header >> 3 != body.size()) {
    return {};
  }
  // Compressed literals in four streams, with a tree; no sequence behind them.
  const uint64_t header = LittleEndian(body, 5);
  const uint32_t format = header >> 2 & 3;
  if ((header & 3) != 2 || format == 0) return {};
  const uint32_t bits = 6 + 4 * format;
  const size_t header_bytes = 2 + format;
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  const uint64_t regenerated = header >> 4 & mask;
  const uint64_t compressed = header >> (4 + bits) & mask;
  if (regenerated != content || header_bytes + compressed + 1 != body.size() ||
      body.back() != std::byte{0}) {
    return {};
  }
  return body.subspan(header_bytes, compressed);
}

}  // namespace

bool LiteralZstd::Decode(std::span<const std::byte> coded, std::span<std::byte> symbols) {
  const Bytes literals = FindLiterals(coded, symbols.size());
  ZstdWeights weights;
  HuffmanCode code;
  const size_t tree_bytes = ReadZstdWeights(literals, &weights);
  if (tree_bytes == 0 || !code.Init(weights)) return false;
  constexpr size_t kSizes = 2 * (kStreams - 1);
  Bytes rest = literals.subspan(tree_bytes);
  if (rest.size() < kSizes) return false;
  const Bytes sizes = rest.first(kSizes);
  rest = rest.subspan(kSizes);
  const size_t share = (symbols.size() + kStreams - 1) / kStreams;
  std::array<Stream, kStreams> streams;
  for (size_t k = 0; k < kStreams; ++k) {
    const bool last = k + 1 == kStreams;
    const size_t bytes = last ? rest.size() : LittleEndian(sizes.subspan(2 * k), 2);
    if (bytes < kStreamBytesMin || bytes > rest.size()) return false;
    Stream& stream = streams[k];
    stream.coded = rest.first(bytes);
    rest = rest.subspan(bytes);
    if (stream.coded.back() == std::byte{0}) return false;
    stream.next = stream.coded.data() + bytes - sizeof(uint64_t);
    const uint64_t word = LoadBits(stream.next);
    stream.held = (word | 1) << (std::countl_zero(word) + 1);
    stream.out = symbols.data() + share * k;
    stream.out_end = last ? symbols.data() + symbols.size() : stream.out + share;
  }
  FillTables(code);
#if defined(__x86_64__)
  if (fast_shifts_) {
    RunAllFast(std::span(streams), fours_);
  } else
#endif
  {
    RunAll(std::span(streams), fours_);
  }
  return std::ranges::all_of(streams, [&](Stream& stream) { return Finish(&stream); });
}

}  // namespace shadowserve
