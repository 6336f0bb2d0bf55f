#include "codec/literal_inflate.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "codec/deflate_codec.h"
#include "codec/sample_symbols.h"
#include "codec/zlib_testing.h"
#include "mem/guarded_buffer.h"

namespace shadowserve {
namespace {

constexpr size_t kStreamsMax = LiteralInflate::kStreamsMax;

std::vector<std::byte> Encoded(std::span<const std::byte> symbols) {
  std::vector<std::byte> coded(symbols.size());
  coded.resize(MakeDeflateCodec()->Encode(symbols, coded));
  return coded;
}

// 2^(n-1) of the first symbol, half as many of the next, ...: the longest code has n bits.
std::vector<std::byte> SymbolsWithACodeOf(uint32_t bits) {
  std::vector<std::byte> symbols;
  for (uint32_t i = 0; i < bits; ++i) {
    symbols.resize(symbols.size() + (size_t{1} << (bits - 1 - i)), static_cast<std::byte>(i * 7));
  }
  std::shuffle(symbols.begin(), symbols.end(), std::mt19937(3));
  return symbols;
}

// Streams with room for their symbols; both end where memory that cannot be touched begins.
class Streams {
 public:
  Streams(const std::vector<std::vector<std::byte>>& coded, size_t symbol_bytes)
      : out_((coded.size() - 1) * kSymbolStride + symbol_bytes) {
    for (size_t i = 0; i < coded.size(); ++i) {
      in_.push_back(std::make_unique<GuardedBuffer>(std::span<const std::byte>(coded[i])));
      blocks_.push_back(
          {in_.back()->bytes(), out_.bytes().subspan(i * kSymbolStride, symbol_bytes), OkStatus()});
    }
  }
  std::span<CodedBlock> blocks() { return blocks_; }
  std::span<const std::byte> symbols(size_t i) const { return blocks_[i].symbols; }

 private:
  std::vector<std::unique_ptr<GuardedBuffer>> in_;
  GuardedBuffer out_;
  std::vector<CodedBlock> blocks_;
};

TEST(LiteralInflate, DecodesAnyNumberOfStreamsSideBySide) {
  LiteralInflate inflate;
  for (const SymbolKind kind : {SymbolKind::kInt8, SymbolKind::kBf16Exponent}) {
    for (size_t count = 2; count <= kStreamsMax; ++count) {
      for (const size_t tokens : {size_t{9}, size_t{50}, size_t{256}, size_t{511}}) {
        const size_t bytes = tokens * 128 - 3;
        std::vector<std::vector<std::byte>> symbols;
        std::vector<std::vector<std::byte>> coded;
        for (uint32_t i = 0; i < count; ++i) {
          symbols.push_back(SampleSymbols(kind, tokens, 128, i));
          symbols.back().resize(bytes);
          coded.push_back(Encoded(symbols.back()));
          ASSERT_FALSE(coded.back().empty());
        }
        Streams streams(coded, bytes);
        std::array<bool, kStreamsMax> decoded = {};
        ASSERT_EQ(inflate.Decode(streams.blocks(), &decoded), count);
        for (size_t i = 0; i < count; ++i) {
          EXPECT_TRUE(decoded[i]) << count << " streams, " << tokens << " tokens";
          EXPECT_TRUE(std::ranges::equal(streams.symbols(i), symbols[i]));
        }
      }
    }
  }
}

TEST(LiteralInflate, TakesCodesOfUpTo12Bits) {
  LiteralInflate inflate;
  for (const uint32_t bits : {2U, 9U, 10U, 11U, 12U, 13U}) {
    const std::vector<std::byte> symbols = SymbolsWithACodeOf(bits);
    // The end of the block takes a code of its own beside the rarest: one bit more than `bits - 1`.
    const std::vector<std::byte> coded = testing::EncodedByZlib(symbols, 6, Z_HUFFMAN_ONLY);
    Streams streams({coded, coded, coded}, symbols.size());
    std::array<bool, kStreamsMax> decoded = {};
    const size_t taken = inflate.Decode(streams.blocks(), &decoded);
    if (bits == 2 || bits == 13) {
      EXPECT_EQ(taken, 0U) << bits;  // too short for a round; too long a code
      continue;
    }
    ASSERT_EQ(taken, 3U) << bits;
    for (size_t i = 0; i < taken; ++i) {
      EXPECT_TRUE(decoded[i]) << bits;
      EXPECT_TRUE(std::ranges::equal(streams.symbols(i), symbols)) << bits;
    }
  }
}

TEST(LiteralInflate, LeavesOtherKindsOfStreamsAndWhatIsNotInStep) {
  LiteralInflate inflate;
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kInt8, 256, 128, 1);
  const std::vector<std::byte> ours = Encoded(symbols);
  std::array<bool, kStreamsMax> decoded = {};
  for (const int strategy : {Z_DEFAULT_STRATEGY, Z_FIXED}) {
    const std::vector<std::byte> other = testing::EncodedByZlib(symbols, 6, strategy);
    Streams streams({ours, ours, other, ours}, symbols.size());
    EXPECT_EQ(inflate.Decode(streams.blocks(), &decoded), 2U);
  }
  Streams streams({ours, ours, ours, ours}, symbols.size());
  streams.blocks()[3].symbols = streams.blocks()[3].symbols.first(symbols.size() - 1);
  EXPECT_EQ(inflate.Decode(streams.blocks(), &decoded), 3U);
  streams.blocks()[2].symbols = streams.blocks()[0].symbols;
  EXPECT_EQ(inflate.Decode(streams.blocks(), &decoded), 2U);
}

// ISA-L, which decodes a block alone, is the reference: a block that is damaged must not change
// what becomes of those beside it, and where it is called good its symbols are the same.
TEST(DeflateCodec, SaysTheSameOfDamagedBlocksSideBySideAsOfEachAlone) {
  const auto codec = MakeDeflateCodec();
  std::mt19937 random(11);
  size_t refused = 0;
  size_t accepted = 0;
  for (int round = 0; round < 150; ++round) {
    const SymbolKind kind = round % 2 == 0 ? SymbolKind::kInt8 : SymbolKind::kBf16Exponent;
    const size_t bytes = 40 * 128;
    std::vector<std::vector<std::byte>> coded;
    for (uint32_t i = 0; i < kStreamsMax; ++i) {
      coded.push_back(Encoded(SampleSymbols(kind, 40, 128, i)));
      std::vector<std::byte>& stream = coded.back();
      switch (random() % 5) {
        case 0:
          stream[random() % stream.size()] ^= static_cast<std::byte>(1 << random() % 8);
          break;
        case 1:
          stream[random() % 60] = static_cast<std::byte>(random());  // the tables
          break;
        case 2:
          stream.resize(stream.size() - 1 - random() % 20);
          break;
        case 3:
          stream.resize(stream.size() + 1 + random() % 3);
          break;
        default:
          break;
      }
    }
    Streams streams(coded, bytes);
    codec->DecodeEach(streams.blocks());
    for (size_t i = 0; i < kStreamsMax; ++i) {
      std::vector<std::byte> alone(bytes);
      const Status status = codec->Decode(coded[i], alone);
      ASSERT_EQ(streams.blocks()[i].status.code(), status.code()) << round << ' ' << i;
      (status.ok() ? accepted : refused) += 1;
      if (status.ok()) {
        EXPECT_TRUE(std::ranges::equal(streams.symbols(i), alone));
      }
    }
  }
  EXPECT_GT(refused, 300U);
  EXPECT_GT(accepted, 200U);
}

// As if a stream held fewer symbols than it should, and more.
TEST(DeflateCodec, RefusesAnotherNumberOfSymbolsSideBySide) {
  const auto codec = MakeDeflateCodec();
  for (const SymbolKind kind : {SymbolKind::kInt8, SymbolKind::kBf16Exponent}) {
    const std::vector<std::byte> symbols = SampleSymbols(kind, 256, 128, 1);
    const std::vector<std::byte> right = Encoded(symbols);
    std::vector<std::byte> longer_symbols = SampleSymbols(kind, 257, 128, 1);
    const std::vector<std::byte> longer = Encoded(longer_symbols);
    const std::vector<std::byte> shorter = Encoded(std::span(symbols).first(100 * 128));
    Streams streams({right, longer, right, shorter, right, right, right, right}, symbols.size());
    codec->DecodeEach(streams.blocks());
    for (size_t i = 0; i < kStreamsMax; ++i) {
      const bool good = i != 1 && i != 3;
      EXPECT_EQ(streams.blocks()[i].status.ok(), good) << i;
      if (good) {
        EXPECT_TRUE(std::ranges::equal(streams.symbols(i), symbols));
      }
    }
  }
}

}  // namespace
}  // namespace shadowserve
