#include "codec/literal_zstd.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#define ZSTD_STATIC_LINKING_ONLY
#include <zstd.h>

#include "codec/sample_symbols.h"
#include "codec/zstd_codec.h"
#include "mem/guarded_buffer.h"

namespace shadowserve {
namespace {

using Symbols = std::vector<std::byte>;

Symbols Encoded(std::span<const std::byte> symbols) {
  Symbols coded(symbols.size());
  coded.resize(MakeZstdCodec().value()->Encode(symbols, coded));
  return coded;
}

// 2^(n-1) of the first symbol, half as many of the next, ..., two of one: codes of 1 .. n bits.
Symbols SymbolsWithCodesUpTo(uint32_t bits, uint32_t spacing) {
  Symbols symbols;
  for (uint32_t i = 0; i <= bits; ++i) {
    symbols.resize(symbols.size() + (size_t{1} << (bits - i)), static_cast<std::byte>(i * spacing));
  }
  std::shuffle(symbols.begin(), symbols.end(), std::mt19937(3));
  return symbols;
}

// Whether the decoder takes it; the symbols are right if so. Both buffers end where memory that
// cannot be touched begins.
bool Decodes(LiteralZstd& decoder, const Symbols& coded, const Symbols& symbols) {
  const GuardedBuffer in{std::span<const std::byte>(coded)};
  GuardedBuffer out(symbols.size());
  if (!decoder.Decode(in.bytes(), out.bytes())) return false;
  EXPECT_TRUE(std::ranges::equal(out.bytes(), symbols));
  return true;
}

TEST(LiteralZstd, DecodesExponentsOfAnyNumber) {
  LiteralZstd decoder;
  for (const size_t tokens : {size_t{9}, size_t{50}, size_t{256}, size_t{511}, size_t{1000}}) {
    for (size_t less = 0; less < 9; ++less) {
      Symbols symbols = SampleSymbols(SymbolKind::kBf16Exponent, tokens, 128, 1);
      symbols.resize(symbols.size() - less);
      EXPECT_TRUE(Decodes(decoder, Encoded(symbols), symbols)) << symbols.size();
    }
  }
}

// Streams of a frame then take different numbers of bits, and go on without each other.
TEST(LiteralZstd, DecodesStreamsThatAreThroughAtDifferentTimes) {
  LiteralZstd decoder;
  std::mt19937 random(5);
  for (const std::array<uint32_t, 4>& spreads :
       {std::array{1U, 2U, 9U, 40U}, std::array{40U, 9U, 2U, 1U}, std::array{1U, 1U, 40U, 1U}}) {
    Symbols symbols;
    for (const uint32_t spread : spreads) {
      for (int i = 0; i < 8192; ++i) symbols.push_back(static_cast<std::byte>(random() % spread));
    }
    EXPECT_TRUE(Decodes(decoder, Encoded(symbols), symbols));
  }
}

TEST(LiteralZstd, DecodesTreesOfBothKindsAndCodesOfAllLengths) {
  LiteralZstd decoder;
  constexpr size_t kHeaders = 4 + 1 + 2 + 3;  // magic, descriptor, content size, block
  bool plain_seen = false;
  bool coded_seen = false;
  for (const uint32_t spacing : {1U, 7U, 15U}) {
    for (uint32_t bits = 10; bits <= 15; ++bits) {
      const Symbols symbols = SymbolsWithCodesUpTo(bits, spacing);
      const Symbols coded = Encoded(symbols);
      EXPECT_TRUE(Decodes(decoder, coded, symbols))
          << bits << " bits, symbols " << spacing << " apart";
      const size_t literals_header = 2 + (std::to_integer<size_t>(coded[kHeaders]) >> 2 & 3);
      const bool plain = std::to_integer<size_t>(coded[kHeaders + literals_header]) >= 128;
      (plain ? plain_seen : coded_seen) = true;
    }
  }
  EXPECT_TRUE(plain_seen);
  EXPECT_TRUE(coded_seen);
}

TEST(LiteralZstd, LeavesOtherFrames) {
  LiteralZstd decoder;
  const Symbols exponents = SampleSymbols(SymbolKind::kBf16Exponent, 256, 128, 1);
  ASSERT_TRUE(Decodes(decoder, Encoded(exponents), exponents));
  const Symbols dense = SampleSymbols(SymbolKind::kInt8, 256, 128, 1);
  EXPECT_FALSE(Decodes(decoder, Encoded(dense), dense));
  const Symbols few(exponents.begin(), exponents.begin() + 200);  // one stream
  EXPECT_FALSE(Decodes(decoder, Encoded(few), few));
  const Symbols blocks = SampleSymbols(SymbolKind::kBf16Exponent, 1025, 128, 1);
  EXPECT_FALSE(Decodes(decoder, Encoded(blocks), blocks));
  Symbols longer = exponents;
  longer.push_back(std::byte{1});
  EXPECT_FALSE(Decodes(decoder, Encoded(exponents), longer));
  EXPECT_FALSE(Decodes(decoder, {}, exponents));

  const std::unique_ptr<ZSTD_CCtx, decltype(&ZSTD_freeCCtx)> encoder(ZSTD_createCCtx(),
                                                                     ZSTD_freeCCtx);
  const auto encoded_with = [&](ZSTD_cParameter name, int value) {
    ZSTD_CCtx_reset(encoder.get(), ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(encoder.get(), ZSTD_c_compressionLevel, -100000);
    ZSTD_CCtx_setParameter(encoder.get(), ZSTD_c_literalCompressionMode, ZSTD_ps_enable);
    EXPECT_FALSE(ZSTD_isError(ZSTD_CCtx_setParameter(encoder.get(), name, value)));
    Symbols coded(ZSTD_compressBound(exponents.size()));
    coded.resize(ZSTD_compress2(encoder.get(), coded.data(), coded.size(), exponents.data(),
                                exponents.size()));
    return coded;
  };
  EXPECT_TRUE(Decodes(decoder, encoded_with(ZSTD_c_contentSizeFlag, 1), exponents));
  EXPECT_FALSE(Decodes(decoder, encoded_with(ZSTD_c_checksumFlag, 1), exponents));
  EXPECT_FALSE(Decodes(decoder, encoded_with(ZSTD_c_contentSizeFlag, 0), exponents));
  EXPECT_FALSE(Decodes(decoder, encoded_with(ZSTD_c_compressionLevel, 3), exponents));  // matches
}

// libzstd is the reference: of a damaged frame this decoder must not make anything else.
TEST(LiteralZstd, DecodesOfDamagedFramesOnlyWhatLibzstdDoes) {
  LiteralZstd decoder;
  std::mt19937 random(11);
  size_t refused = 0;
  size_t accepted = 0;
  std::vector<std::pair<Symbols, Symbols>> frames;  // symbols, coded
  for (uint32_t i = 1; i <= 8; ++i) {
    frames.emplace_back(SampleSymbols(SymbolKind::kBf16Exponent, 40, 128, i), Symbols());
    frames.emplace_back(SymbolsWithCodesUpTo(12, i), Symbols());
  }
  for (auto& [symbols, coded] : frames) coded = Encoded(symbols);
  for (size_t round = 0; round < 4000; ++round) {
    const Symbols& symbols = frames[round % frames.size()].first;
    Symbols coded = frames[round % frames.size()].second;
    switch (random() % 4) {
      case 0:
        coded[random() % coded.size()] ^= static_cast<std::byte>(1 << random() % 8);
        break;
      case 1:
        coded[random() % 60] = static_cast<std::byte>(random());  // headers and tree
        break;
      case 2:
        coded.resize(coded.size() - 1 - random() % 20);
        break;
      default:
        coded[coded.size() - 2] = static_cast<std::byte>(random());  // where the last stream begins
        break;
    }
    const GuardedBuffer in{std::span<const std::byte>(coded)};
    GuardedBuffer out(symbols.size());
    if (!decoder.Decode(in.bytes(), out.bytes())) {
      ++refused;
      continue;
    }
    ++accepted;
    Symbols by_libzstd(symbols.size());
    const size_t size =
        ZSTD_decompress(by_libzstd.data(), by_libzstd.size(), coded.data(), coded.size());
    ASSERT_FALSE(ZSTD_isError(size)) << round << ": " << ZSTD_getErrorName(size);
    ASSERT_EQ(size, symbols.size());
    ASSERT_TRUE(std::ranges::equal(out.bytes(), by_libzstd)) << round;
  }
  EXPECT_GT(refused, 3000U);
  EXPECT_GT(accepted, 200U);
}

}  // namespace
}  // namespace shadowserve
