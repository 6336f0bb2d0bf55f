#include "format/chunk_key.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "format/kv_layout.h"

namespace shadowserve {
namespace {

std::string Hex(const Digest& digest) {
  return ToHex(digest);
}

Digest Root(std::vector<std::string_view> parts) {
  return RootKey(parts);
}

std::vector<uint32_t> CountingTokens() {
  std::vector<uint32_t> tokens(kChunkTokens);
  for (uint32_t i = 0; i < kChunkTokens; ++i) tokens[i] = i * 2654435761u;
  return tokens;
}

TEST(Sha256, MatchesTheStandardsExamples) {
  constexpr std::string_view kAbc = "abc";
  EXPECT_EQ(Hex(Sha256({})), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Hex(Sha256(std::as_bytes(std::span(kAbc)))),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Hex, RoundTripsAndRefusesOtherTexts) {
  const std::string hex = Hex(Sha256({}));
  EXPECT_EQ(Hex(*DigestFromHex(hex)), hex);
  std::string upper = hex;
  upper[0] = 'E';
  std::string wrong = hex;
  wrong[63] = 'g';
  for (const std::string& text : {std::string(), hex.substr(1), hex + "0", upper, wrong}) {
    EXPECT_EQ(DigestFromHex(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

// The expected digests were computed from the header's grammar with Python's hashlib.
TEST(ChunkKey, MatchesAnIndependentImplementation) {
  EXPECT_EQ(Hex(Root({})), "d78c8929a145aacec5f105861c0625ba56c6b7038d24cecccc93f628a50ac58b");
  const Digest root = Root({"model", "", "bf16"});
  EXPECT_EQ(Hex(root), "a79d6a2566febdd53bb21d1c527cc3d641a2f02da96924797c1436ddeba993da");
  const ChunkKey first = NextChunkKey(root, CountingTokens());
  EXPECT_EQ(Hex(first), "56239a0f6b124ac0a341ec3d13d83266d55841808718a36167214ac5c99f8cc4");
  const std::vector<uint32_t> sevens(kChunkTokens, 7);
  EXPECT_EQ(Hex(NextChunkKey(first, sevens, "image 5 at 3")),
            "2c91adec47bf6475e69839213d3ea8222118214a21858db7cc6ee7886bdbddc4");
}

TEST(RootKey, TellsPartsApartWhereverTheirBordersLie) {
  EXPECT_NE(Root({"ab", "c"}), Root({"a", "bc"}));
  EXPECT_NE(Root({"abc"}), Root({"abc", ""}));
  EXPECT_NE(Root({"salt a"}), Root({"salt b"}));
}

TEST(ChunkKey, DependsOnParentEveryTokenAndExtras) {
  const Digest root = Root({"model"});
  const std::vector<uint32_t> tokens = CountingTokens();
  const ChunkKey key = NextChunkKey(root, tokens);
  EXPECT_NE(NextChunkKey(Root({"other"}), tokens), key);
  EXPECT_NE(NextChunkKey(root, tokens, std::string_view("\0", 1)), key);
  for (uint32_t i = 0; i < kChunkTokens; ++i) {
    std::vector<uint32_t> changed = tokens;
    changed[i] ^= 0x80000000u;
    EXPECT_NE(NextChunkKey(root, changed), key) << i;
  }
}

TEST(ChunkKeyDeathTest, RefusesAPartialChunk) {
  const std::vector<uint32_t> short_chunk(kChunkTokens - 1);
  EXPECT_DEATH((void)NextChunkKey(Digest{}, short_chunk), "whole chunk");
}

}  // namespace
}  // namespace shadowserve
