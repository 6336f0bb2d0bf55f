#include "codec/literal_inflate.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "codec/bit_words.h"
#include "codec/deflate_format.h"
#include "codec/forward_bits.h"
#include "codec/huffman.h"

namespace shadowserve {

// A stream under work. Between rounds `held` holds its next bits, the lowest first, and above them
// one 1 that has moved down from bit 63 by as many bits as were taken since `next` was last moved.
struct LiteralInflate::Stream {
  const std::byte* begin;
  const std::byte* next;
  const std::byte* end;
  std::byte* out;
  std::byte* out_end;
  uint64_t held;
  std::array<uint8_t, kEndOfBlock + 1> lengths;  // of the codes
  uint32_t bits_max;                             // of the longest
};

namespace {

// Where codes are shorter than this on average, looking up several at a time pays.
constexpr uint64_t kGroupedBitsMax = 5;
// Then every stream needs a pointer to its output, and more streams would not fit into registers.
constexpr size_t kGroupedStreams = 4;
// ISA-L is faster on fewer.
constexpr size_t kStreamsMin = 2;
constexpr uint64_t kMark = uint64_t{1} << 63;
// What a full `held` has at least: 63 bits less up to 7 of a byte begun.
constexpr uint32_t kHeldBits = 56;

// Whether codes of these lengths claim all of the code space and no more.
bool IsComplete(std::span<const uint8_t> lengths) {
  uint64_t share = 0;
  for (const uint8_t length : lengths) {
    if (length > 0) share += uint64_t{1} << (kHuffmanBitsMax - length);
  }
  return share == uint64_t{1} << kHuffmanBitsMax;
}

// Reads the tables in front of the codes. False: another kind of block, or damaged.
bool ReadLengths(ForwardBits* reader, std::array<uint8_t, kEndOfBlock + 1>* lengths) {
  const bool final = reader->Take(1) == 1;
  const bool dynamic = reader->Take(2) == 2;
  const bool literals_only = reader->Take(5) == 0;
  const bool as_ours = reader->Take(5) == kDistanceCodes - 1;
  if (!final || !dynamic || !literals_only || !as_ours) return false;
  std::array<uint8_t, kLengthSymbols> token_lengths = {};
  const uint32_t sent = reader->Take(4) + 4;
  for (uint32_t i = 0; i < sent; ++i) {
    token_lengths[kLengthOrder[i]] = static_cast<uint8_t>(reader->Take(3));
  }
  if (!IsComplete(token_lengths)) return false;
  std::array<uint16_t, kLengthSymbols> token_codes;
  CanonicalCodes(token_lengths, token_codes);
  struct Token {
    uint8_t symbol;
    uint8_t bits;
  };
  std::array<Token, size_t{1} << kLengthBitsMax> tokens;
  for (uint8_t symbol = 0; symbol < kLengthSymbols; ++symbol) {
    const uint8_t bits = token_lengths[symbol];
    if (bits == 0) continue;
    for (size_t i = token_codes[symbol]; i < tokens.size(); i += size_t{1} << bits) {
      tokens[i] = {symbol, bits};
    }
  }
  std::array<uint8_t, kEndOfBlock + 1 + kDistanceCodes> all;
  for (size_t filled = 0; filled < all.size();) {
    const Token token = tokens[reader->Peek(kLengthBitsMax)];
    reader->Skip(token.bits);
    uint8_t value = 0;
    size_t run = 1;
    switch (token.symbol) {
      case kRepeatLast:
        if (filled == 0) return false;
        value = all[filled - 1];
        run = 3 + reader->Take(2);
        break;
      case kZeros:
        run = 3 + reader->Take(3);
        break;
      case kManyZeros:
        run = 11 + reader->Take(7);
        break;
      default:
        value = token.symbol;
    }
    if (run > all.size() - filled) return false;
    std::fill_n(all.begin() + static_cast<ptrdiff_t>(filled), run, value);
    filled += run;
  }
  std::copy_n(all.begin(), lengths->size(), lengths->begin());
  return reader->within() && all[kEndOfBlock] > 0 && IsComplete(*lengths) &&
         all[kEndOfBlock + 1] == 1 && all[kEndOfBlock + 2] == 1;
}

// Bytes of input that every stream has for this many rounds: a round moves `next` by at most 7
// bytes and loads 8 from there.
template <size_t kStreams, typename Stream>
size_t InputRounds(const Stream* streams, const std::array<const std::byte*, kStreams>& next) {
  size_t rounds = SIZE_MAX;
  for (size_t k = 0; k < kStreams; ++k) {
    const auto left = static_cast<size_t>(streams[k].end - next[k]);
    rounds = std::min(rounds, left < 8 ? 0 : (left - 8) / 7);
  }
  return rounds;
}

[[gnu::always_inline]] inline void Refill(const std::byte** next, uint64_t* held) {
  const auto taken = static_cast<uint64_t>(std::countl_zero(*held));
  *next += taken / 8;
  *held = (LoadBits(*next) | kMark) >> taken % 8;
}

// Decodes streams of one size whose output lies kSymbolStride apart, as long as none is near the
// end of its input or its output; a byte a look. A stream that meets its end of block stays there.
//
// One pointer leads all outputs, and the tables lie at constant distances: so what eight streams
// need fits into registers.
template <size_t kStreams, uint32_t kBits, typename Stream, typename Table>
[[gnu::always_inline]] inline void RunCodes(Stream* streams, const Table* tables) {
  constexpr size_t kLooks = kHeldBits / kBits;
  constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
  std::array<const std::byte*, kStreams> next;
  std::array<uint64_t, kStreams> held;
  for (size_t k = 0; k < kStreams; ++k) {
    next[k] = streams[k].next;
    held[k] = streams[k].held;
  }
  std::byte* const begin = streams[0].out;
  std::byte* out = begin;
  for (;;) {
    const size_t rounds = std::min(InputRounds<kStreams>(streams, next),
                                   static_cast<size_t>(streams[0].out_end - out) / kLooks);
    if (rounds == 0) break;
    const std::byte* const stop = out + rounds * kLooks;
    do {
#pragma GCC unroll 8
      for (size_t k = 0; k < kStreams; ++k) Refill(&next[k], &held[k]);
#pragma GCC unroll 8
      for (size_t look = 0; look < kLooks; ++look) {
#pragma GCC unroll 8
        for (size_t k = 0; k < kStreams; ++k) {
          const uint64_t entry = tables[k][held[k] & kMask];
          held[k] >>= entry & 63;
          out[k * kSymbolStride + look] = static_cast<std::byte>(entry >> 8);
        }
      }
      out += kLooks;
    } while (out != stop);
  }
  for (size_t k = 0; k < kStreams; ++k) {
    streams[k].next = next[k];
    streams[k].out += out - begin;
    streams[k].held = held[k];
  }
}

// The same with up to three bytes a look.
template <size_t kStreams, uint32_t kBits, typename Stream, typename Table>
[[gnu::always_inline]] inline void RunGroups(Stream* streams, const Table* tables) {
  constexpr size_t kLooks = kHeldBits / kBits;
  constexpr size_t kRoundBytes = kLooks * 3 + 1;  // four are stored
  constexpr uint64_t kMask = (uint64_t{1} << kBits) - 1;
  std::array<const std::byte*, kStreams> next;
  std::array<std::byte*, kStreams> out;
  std::array<uint64_t, kStreams> held;
  for (size_t k = 0; k < kStreams; ++k) {
    next[k] = streams[k].next;
    out[k] = streams[k].out;
    held[k] = streams[k].held;
  }
  for (;;) {
    size_t rounds = InputRounds<kStreams>(streams, next);
    for (size_t k = 0; k < kStreams; ++k) {
      rounds = std::min(rounds, static_cast<size_t>(streams[k].out_end - out[k]) / kRoundBytes);
    }
    if (rounds == 0) break;
    const std::byte* const before = out[0];
    for (; rounds > 0; --rounds) {
#pragma GCC unroll 8
      for (size_t k = 0; k < kStreams; ++k) Refill(&next[k], &held[k]);
#pragma GCC unroll 8
      for (size_t look = 0; look < kLooks; ++look) {
#pragma GCC unroll 8
        for (size_t k = 0; k < kStreams; ++k) {
          const uint64_t entry = tables[k][held[k] & kMask];
          held[k] >>= entry & 63;
          StoreFour(static_cast<uint32_t>(entry >> 6), out[k]);
          out[k] += entry >> 30;
        }
      }
    }
    // At its end of block, too early: it would stay there for ever. The others go on in Finish.
    if (out[0] == before) break;
  }
  for (size_t k = 0; k < kStreams; ++k) {
    streams[k].next = next[k];
    streams[k].out = out[k];
    streams[k].held = held[k];
  }
}

template <size_t kStreams, typename Stream, typename Codes, typename Groups>
[[gnu::always_inline]] inline void RunWidth(Stream* streams, const Codes* codes,
                                            const Groups* groups, uint32_t bits, bool grouped) {
  if (!grouped) {
    bits <= 11 ? RunCodes<kStreams, 11>(streams, codes) : RunCodes<kStreams, 12>(streams, codes);
  } else if constexpr (kStreams <= kGroupedStreams) {
    bits <= 10 ? RunGroups<kStreams, 10>(streams, groups)
               : RunGroups<kStreams, 11>(streams, groups);
  }
}

template <typename Stream, typename Codes, typename Groups>
[[gnu::always_inline]] inline void RunAny(std::span<Stream> streams, const Codes* codes,
                                          const Groups* groups, uint32_t bits, bool grouped) {
  if (!grouped && streams.size() == 8) {
    RunWidth<8>(streams.data(), codes, groups, bits, false);
    return;
  }
  size_t k = 0;
  for (; k + 4 <= streams.size(); k += 4) {
    RunWidth<4>(&streams[k], codes + k, groups + k, bits, grouped);
  }
  for (; k + 2 <= streams.size(); k += 2) {
    RunWidth<2>(&streams[k], codes + k, groups + k, bits, grouped);
  }
  // The last of an odd number; and what is left of streams beside one that was through sooner.
  for (k = grouped ? 0 : k; k < streams.size(); ++k) {
    RunWidth<1>(&streams[k], codes + k, groups + k, bits, grouped);
  }
}

#if defined(__x86_64__)
// Shifts by a register and counts leading zeros in one instruction each.
template <typename Stream, typename Codes, typename Groups>
__attribute__((target("bmi,bmi2,lzcnt"), noinline)) void RunFast(std::span<Stream> streams,
                                                                 const Codes* codes,
                                                                 const Groups* groups,
                                                                 uint32_t bits, bool grouped) {
  RunAny(streams, codes, groups, bits, grouped);
}
#endif

}  // namespace

LiteralInflate::LiteralInflate() {
#if defined(__x86_64__)
  fast_shifts_ = __builtin_cpu_supports("bmi2");  // none of them is without BMI and LZCNT
#endif
}

// False: not decoded here.
bool LiteralInflate::Open(const CodedBlock& block, Stream* stream) {
  const std::byte* const end = block.coded.data() + block.coded.size();
  ForwardBits reader(block.coded.data(), end, 0);
  if (!ReadLengths(&reader, &stream->lengths)) return false;
  stream->bits_max = *std::ranges::max_element(stream->lengths);
  const auto at = static_cast<size_t>(reader.position() / 8);
  // What is shorter than a round is not worth it.
  if (stream->bits_max > kCodeBitsMax || block.coded.size() < at + 8) return false;
  stream->begin = block.coded.data();
  stream->next = block.coded.data() + at;
  stream->end = end;
  stream->out = block.symbols.data();
  stream->out_end = block.symbols.data() + block.symbols.size();
  stream->held = (LoadBits(stream->next) | kMark) >> reader.position() % 8;
  return true;
}

void LiteralInflate::FillCodes(const Stream& stream, uint32_t bits, CodeTable* table) {
  std::array<uint16_t, kEndOfBlock + 1> codes;
  CanonicalCodes(stream.lengths, codes);
  // Symbols by length.
  std::array<uint16_t, kCodeBitsMax + 2> begins = {};
  for (const uint8_t length : stream.lengths) ++begins[length + 1U];
  for (size_t length = 1; length < begins.size(); ++length) begins[length] += begins[length - 1];
  std::array<uint16_t, kEndOfBlock + 1> sorted;
  std::array<uint16_t, kCodeBitsMax + 2> at = begins;
  for (uint16_t symbol = 0; symbol <= kEndOfBlock; ++symbol) {
    sorted[at[stream.lengths[symbol]]++] = symbol;
  }
  // A table for codes of up to n bits is the one for n - 1 bits, twice, and the codes of n bits.
  for (uint32_t length = 1; length <= bits; ++length) {
    const size_t half = size_t{1} << (length - 1);
    std::copy_n(table->begin(), half, table->begin() + static_cast<ptrdiff_t>(half));
    for (size_t i = begins[length]; i < begins[length + 1]; ++i) {
      const uint16_t symbol = sorted[i];
      (*table)[codes[symbol]] = symbol == kEndOfBlock
                                    ? uint16_t{0}
                                    : static_cast<uint16_t>(uint32_t{symbol} << 8 | length);
    }
  }
}

void LiteralInflate::FillGroups(const CodeTable& codes, uint32_t bits, GroupTable* groups) {
  const size_t size = size_t{1} << bits;
  for (size_t i = 0; i < size; ++i) {
    const uint32_t first = codes[i];
    uint32_t used = first & 0xFF;
    uint32_t bytes = first >> 8;
    uint32_t count = used == 0 ? 0 : 1;
    // Without branches: what does not fit, and an end of block, adds nothing.
    for (uint32_t k = 1; k <= 2; ++k) {
      const uint32_t entry = codes[i >> used];
      const uint32_t length = entry & 0xFF;
      const bool fits = count == k && length != 0 && used + length <= bits;
      bytes |= fits ? entry >> 8 << (8 * k) : 0;
      used += fits ? length : 0;
      count += fits ? 1 : 0;
    }
    (*groups)[i] = count << 30 | bytes << 6 | used;
  }
}

// Code by code, with every check; then the end of the block must be the end of the input.
bool LiteralInflate::Finish(const CodeTable& codes, uint32_t bits, Stream* stream) {
  const auto begun = static_cast<uint64_t>(stream->next - stream->begin) * 8;
  ForwardBits reader(stream->begin, stream->end,
                     begun + static_cast<uint32_t>(std::countl_zero(stream->held)));
  for (; stream->out < stream->out_end; ++stream->out) {
    const uint16_t entry = codes[reader.Peek(bits)];
    if ((entry & 0xFF) == 0) return false;  // ends too early
    reader.Skip(entry & 0xFF);
    if (!reader.within()) return false;
    *stream->out = static_cast<std::byte>(entry >> 8);
  }
  if (codes[reader.Peek(bits)] != 0) return false;  // goes on
  reader.Skip(stream->lengths[kEndOfBlock]);
  return reader.within() &&
         (reader.position() + 7) / 8 == static_cast<uint64_t>(stream->end - stream->begin);
}

size_t LiteralInflate::Decode(std::span<const CodedBlock> blocks,
                              std::array<bool, kStreamsMax>* decoded) {
  if (blocks.size() < kStreamsMin) return 0;
  std::array<Stream, kStreamsMax> streams;
  size_t count = 0;
  uint32_t bits = kGroupBitsMin;
  uint64_t coded_bits = 0;
  for (; count < std::min<size_t>(blocks.size(), kStreamsMax); ++count) {
    const CodedBlock& block = blocks[count];
    // They go step by step together.
    const bool in_step = block.symbols.size() == blocks[0].symbols.size() &&
                         block.symbols.size() <= kSymbolStride &&
                         block.symbols.data() == blocks[0].symbols.data() + count * kSymbolStride;
    if (!in_step || !Open(block, &streams[count])) break;
    bits = std::max(bits, streams[count].bits_max);
    coded_bits += block.coded.size() * 8;
  }
  if (count < kStreamsMin) return 0;
  const bool grouped =
      bits <= kGroupBitsMax && coded_bits <= count * blocks[0].symbols.size() * kGroupedBitsMax;
  if (!grouped) bits = std::max(bits, kGroupBitsMax);
  for (size_t k = 0; k < count; ++k) {
    FillCodes(streams[k], bits, &codes_[k]);
    if (grouped) FillGroups(codes_[k], bits, &groups_[k]);
  }
  const std::span<Stream> open = std::span(streams).first(count);
#if defined(__x86_64__)
  if (fast_shifts_) {
    RunFast(open, codes_.data(), groups_.data(), bits, grouped);
  } else
#endif
  {
    RunAny(open, codes_.data(), groups_.data(), bits, grouped);
  }
  for (size_t k = 0; k < count; ++k) (*decoded)[k] = Finish(codes_[k], bits, &streams[k]);
  return count;
}

}  // namespace shadowserve
