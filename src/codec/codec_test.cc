// One suite for every row of the codec table, then what only one of them promises.
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "codec/codec_table.h"
#include "codec/sample_symbols.h"
#include "codec/zlib_testing.h"
#include "mem/guarded_buffer.h"

// Counts this program's heap allocations, those of the C libraries below the codecs included.
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define SS_COUNTS_ALLOCATIONS 1
namespace {
thread_local uint64_t allocation_count = 0;
}
extern "C" {
void* __libc_malloc(size_t size);            // NOLINT(bugprone-reserved-identifier)
void* __libc_calloc(size_t n, size_t size);  // NOLINT(bugprone-reserved-identifier)
void* __libc_realloc(void* p, size_t size);  // NOLINT(bugprone-reserved-identifier)
void* malloc(size_t size) {
  ++allocation_count;
  return __libc_malloc(size);
}
void* calloc(size_t n, size_t size) {
  ++allocation_count;
  return __libc_calloc(n, size);
}
void* realloc(void* p, size_t size) {
  ++allocation_count;
  return __libc_realloc(p, size);
}
}
#endif

namespace shadowserve {
namespace {

constexpr uint8_t kDeflate = 1;
constexpr uint8_t kZstd = 2;
constexpr size_t kBlockBytes = 32 * 1024;

std::vector<std::byte> Encoded(BlockCodec& codec, std::span<const std::byte> symbols) {
  std::vector<std::byte> coded(symbols.size());
  coded.resize(codec.Encode(symbols, coded));
  return coded;
}

class EveryCodec : public ::testing::TestWithParam<uint8_t> {
 protected:
  std::unique_ptr<BlockCodec> codec_ = MakeBlockCodec(GetParam()).value();
  const std::vector<std::byte> symbols_ = SampleSymbols(SymbolKind::kBf16Exponent, 256, 128, 1);
};

TEST_P(EveryCodec, DecodesWhatItEncoded) {
  for (const SymbolKind kind : {SymbolKind::kInt8, SymbolKind::kBf16Exponent}) {
    for (const size_t tokens : {size_t{3}, size_t{50}, size_t{256}, size_t{1024}}) {
      const std::vector<std::byte> symbols = SampleSymbols(kind, tokens, 127, 5);
      const std::vector<std::byte> coded = Encoded(*codec_, symbols);
      if (tokens > 3) {
        EXPECT_GT(coded.size(), 0U);
      }
      if (coded.empty()) continue;  // too small to shrink: stored as it is
      EXPECT_LT(coded.size(), symbols.size());
      GuardedBuffer decoded(symbols.size());
      const GuardedBuffer input{std::span<const std::byte>(coded)};
      const Status status = codec_->Decode(input.bytes(), decoded.bytes());
      ASSERT_TRUE(status.ok()) << status.ToString();
      EXPECT_TRUE(std::ranges::equal(decoded.bytes(), symbols));
    }
  }
}

TEST_P(EveryCodec, RoundTripsBlocksOfOneAndTwoSymbolValues) {
  for (const size_t size : {size_t{200}, kBlockBytes, size_t{65'535}, size_t{131'070}}) {
    std::vector<std::byte> symbols(size, std::byte{0x7F});
    for (const bool two : {false, true}) {
      if (two) symbols[size / 2] = std::byte{0x80};
      const std::vector<std::byte> coded = Encoded(*codec_, symbols);
      ASSERT_GT(coded.size(), 0U);
      std::vector<std::byte> decoded(size);
      ASSERT_TRUE(codec_->Decode(coded, decoded).ok());
      EXPECT_EQ(decoded, symbols);
    }
  }
}

TEST_P(EveryCodec, ShrinksExponentsToNearTheirEntropy) {
  // Order-0 entropy of these symbols is about 2.9 bits.
  const std::vector<std::byte> coded = Encoded(*codec_, symbols_);
  EXPECT_LT(coded.size() * 8, symbols_.size() * 13 / 4);
}

TEST_P(EveryCodec, LeavesRandomBytesToTheCaller) {
  std::mt19937 random(7);
  std::vector<std::byte> symbols(kBlockBytes);
  for (std::byte& symbol : symbols) symbol = static_cast<std::byte>(random());
  EXPECT_EQ(Encoded(*codec_, symbols).size(), 0U);
  EXPECT_EQ(codec_->Encode({}, symbols), 0U);
}

TEST_P(EveryCodec, StaysWithinAnOutputThatIsSmallerThanTheResult) {
  const size_t full = Encoded(*codec_, symbols_).size();
  for (const size_t room : {size_t{0}, size_t{1}, size_t{7}, full / 2, full - 1, full}) {
    GuardedBuffer out(room);
    EXPECT_EQ(codec_->Encode(symbols_, out.bytes()), 0U) << room;
  }
  GuardedBuffer out(full + 64);  // zstd wants a few bytes of slack
  EXPECT_EQ(codec_->Encode(symbols_, out.bytes()), full);
}

TEST_P(EveryCodec, RefusesTruncatedInput) {
  const std::vector<std::byte> coded = Encoded(*codec_, symbols_);
  GuardedBuffer decoded(symbols_.size());
  for (const size_t cut :
       {size_t{1}, size_t{2}, size_t{9}, coded.size() / 2, coded.size() - 1, coded.size()}) {
    const std::span<const std::byte> whole = coded;
    const GuardedBuffer input(whole.first(coded.size() - cut));
    EXPECT_EQ(codec_->Decode(input.bytes(), decoded.bytes()).code(), StatusCode::kCorrupt) << cut;
  }
}

TEST_P(EveryCodec, RefusesInputLeftOver) {
  std::vector<std::byte> coded = Encoded(*codec_, symbols_);
  const std::vector<std::byte> once = coded;
  std::vector<std::byte> decoded(symbols_.size());
  for (const size_t extra : {size_t{1}, size_t{4}, size_t{100}}) {
    coded = once;
    coded.resize(once.size() + extra);
    EXPECT_EQ(codec_->Decode(coded, decoded).code(), StatusCode::kCorrupt) << extra;
  }
  coded = once;
  coded.insert(coded.end(), once.begin(), once.end());
  EXPECT_EQ(codec_->Decode(coded, decoded).code(), StatusCode::kCorrupt);
}

TEST_P(EveryCodec, RefusesToFillAnOutputOfAnotherSize) {
  const std::vector<std::byte> coded = Encoded(*codec_, symbols_);
  for (const size_t size :
       {size_t{0}, size_t{1}, symbols_.size() - 1, symbols_.size() + 1, symbols_.size() * 2}) {
    GuardedBuffer decoded(size);
    EXPECT_EQ(codec_->Decode(coded, decoded.bytes()).code(), StatusCode::kCorrupt) << size;
  }
}

TEST_P(EveryCodec, SurvivesEveryFlippedByte) {
  const std::vector<std::byte> symbols(symbols_.begin(), symbols_.begin() + 1024);
  const std::vector<std::byte> coded = Encoded(*codec_, symbols);
  const GuardedBuffer input{std::span<const std::byte>(coded)};
  GuardedBuffer decoded(symbols.size());
  size_t refused = 0;
  for (size_t i = 0; i < coded.size(); ++i) {
    for (const std::byte mask : {std::byte{0x01}, std::byte{0x80}, std::byte{0xFF}}) {
      input.bytes()[i] = coded[i] ^ mask;
      refused += codec_->Decode(input.bytes(), decoded.bytes()).ok() ? 0 : 1;
    }
    input.bytes()[i] = coded[i];
  }
  EXPECT_GT(refused, coded.size() / 4);  // the rest is for the segment's checksum
  // And the context is as good as new.
  ASSERT_TRUE(codec_->Decode(input.bytes(), decoded.bytes()).ok());
  EXPECT_TRUE(std::ranges::equal(decoded.bytes(), symbols));
}

TEST_P(EveryCodec, AllocatesNothingPerBlock) {
#ifdef SS_COUNTS_ALLOCATIONS
  std::vector<std::byte> coded(symbols_.size());
  std::vector<std::byte> decoded(symbols_.size());
  const uint64_t before = allocation_count;
  const size_t used = codec_->Encode(symbols_, coded);
  const bool ok = codec_->Decode(std::span(coded).first(used), decoded).ok();
  const uint64_t after = allocation_count;
  ASSERT_TRUE(ok);
  EXPECT_EQ(after - before, 0U);
  // The counter itself works.
  std::free(std::malloc(decoded.size() + allocation_count));
  EXPECT_GT(allocation_count, after);
#else
  GTEST_SKIP() << "allocations are counted on glibc without sanitizers only";
#endif
}

INSTANTIATE_TEST_SUITE_P(Codec, EveryCodec, ::testing::Values(kDeflate, kZstd),
                         [](const auto& row) {
                           return row.param == kDeflate ? "Deflate" : "Zstd";
                         });

TEST(CodecTable, NamesACodecThatItDoesNotHave) {
  const auto codec = MakeBlockCodec(77);
  EXPECT_EQ(codec.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(codec.status().message().find("77"), std::string_view::npos);
}

Bytef* Zbytes(const std::vector<std::byte>& bytes) {
  return reinterpret_cast<Bytef*>(const_cast<std::byte*>(bytes.data()));
}

TEST(DeflateCodec, WritesWhatZlibInflatesAsRawDeflate) {
  const auto codec = MakeBlockCodec(kDeflate).value();
  for (const SymbolKind kind : {SymbolKind::kInt8, SymbolKind::kBf16Exponent}) {
    const std::vector<std::byte> symbols = SampleSymbols(kind, 256, 128, 3);
    const std::vector<std::byte> coded = Encoded(*codec, symbols);
    std::vector<std::byte> decoded(symbols.size());
    z_stream stream = {};
    ASSERT_EQ(inflateInit2(&stream, -15), Z_OK);
    stream.next_in = Zbytes(coded);
    stream.avail_in = static_cast<uInt>(coded.size());
    stream.next_out = Zbytes(decoded);
    stream.avail_out = static_cast<uInt>(decoded.size());
    EXPECT_EQ(inflate(&stream, Z_FINISH), Z_STREAM_END);
    EXPECT_EQ(stream.avail_in, 0U);
    inflateEnd(&stream);
    EXPECT_EQ(decoded, symbols);
  }
}

TEST(DeflateCodec, ReadsStreamsWithMatchesAndStoredBlocks) {
  const auto codec = MakeBlockCodec(kDeflate).value();
  std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kInt8, 256, 128, 3);
  std::copy_n(symbols.begin(), 9000, symbols.begin() + 20000);
  for (const int level : {0, 1, 9}) {
    const std::vector<std::byte> coded = testing::EncodedByZlib(symbols, level, Z_DEFAULT_STRATEGY);
    std::vector<std::byte> decoded(symbols.size());
    ASSERT_TRUE(codec->Decode(coded, decoded).ok()) << level;
    EXPECT_EQ(decoded, symbols);
  }
}

TEST(ZstdCodec, RefusesAFrameThatPromisesAnotherSizeBeforeDecodingIt) {
  const auto codec = MakeBlockCodec(kZstd).value();
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kInt8, 256, 128, 3);
  const std::vector<std::byte> coded = Encoded(*codec, symbols);
  std::vector<std::byte> decoded(symbols.size() * 2, std::byte{0xA5});
  EXPECT_EQ(codec->Decode(coded, decoded).code(), StatusCode::kCorrupt);
  EXPECT_EQ(std::ranges::count(decoded, std::byte{0xA5}), std::ssize(decoded));
}

TEST(ZstdCodec, RefusesSkippableFrames) {
  const auto codec = MakeBlockCodec(kZstd).value();
  const std::array<std::byte, 8> skippable = {std::byte{0x50}, std::byte{0x2A}, std::byte{0x4D},
                                              std::byte{0x18}};
  EXPECT_EQ(codec->Decode(skippable, {}).code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace shadowserve
