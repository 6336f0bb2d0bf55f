#include "format/seal.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "format/segment_testing.h"
#include "format/wire.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SS_COUNTS_MALLOC 0
#else
#define SS_COUNTS_MALLOC 1
// OpenSSL allocates by malloc, so operator new does not tell: the C library's own, counted.
extern "C" void* __libc_malloc(size_t size);
static std::atomic<size_t> g_mallocs = 0;
extern "C" void* malloc(size_t size) noexcept {
  g_mallocs.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(size);
}
#endif

namespace shadowserve {
namespace {

using segment_testing::MakeSeal;
using segment_testing::TestKey;
using Bytes = std::vector<std::byte>;

Bytes Hex(std::string_view hex) {
  Bytes bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

// RFC 5869, test case 1: the first 32 bytes of its output are the first HMAC of the expand step.
TEST(HmacSha256, MakesTheKeysOfHkdf) {
  const Digest prk = HmacSha256(Hex("000102030405060708090a0b0c"), Bytes(22, std::byte{0x0b}), {});
  EXPECT_EQ(ToHex(prk), "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
  EXPECT_EQ(ToHex(HmacSha256(prk, Hex("f0f1f2f3f4f5f6f7f8f9"), Hex("01"))),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf");
}

// "The Galois/Counter Mode of Operation", test case 16: message 0 takes the nonce as it is.
ObjectSeal Case16(SealAlgorithm algorithm) {
  ObjectSeal object{.algorithm = algorithm};
  std::ranges::copy(Hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"),
                    object.subkey.begin());
  std::ranges::copy(Hex("cafebabefacedbaddecaf888"), object.nonce.begin());
  return object;
}
const Bytes kCovered = Hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
const Bytes kPlain =
    Hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e24"
        "49a6b525b16aedf5aa0de657ba637b39");

TEST(Seal, EncryptsAsThePublishedVectorsSay) {
  const auto seal = MakeSeal({7});
  const ObjectSeal object = Case16(SealAlgorithm::kAes256Gcm);
  // In two pieces: they count as one.
  const std::array<std::span<const std::byte>, 2> covered = {std::span(kCovered).first(5),
                                                             std::span(kCovered).subspan(5)};
  Bytes payload = kPlain;
  const SealTag tag = seal->SealMessage(object, 0, covered, payload);
  EXPECT_EQ(
      ToHex(payload),
      "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1"
      "056828838c5f61e6393ba7a0abcc9f662");
  EXPECT_EQ(ToHex(tag), "76fc6ece0f4e1768cddf8853bb2d551b");
  EXPECT_TRUE(seal->OpenMessage(object, 0, covered, payload, tag));
  EXPECT_EQ(payload, kPlain);
}

TEST(Seal, OfGmacIsTheTagOfNoTextWithEverythingCovered) {
  const auto seal = MakeSeal({7});
  const std::array<std::span<const std::byte>, 1> covered = {kCovered};
  Bytes payload = kPlain;
  const SealTag tag = seal->SealMessage(Case16(SealAlgorithm::kGmac), 0, covered, payload);
  EXPECT_EQ(payload, kPlain);
  const std::array<std::span<const std::byte>, 2> all = {kCovered, kPlain};
  EXPECT_EQ(seal->SealMessage(Case16(SealAlgorithm::kAes256Gcm), 0, all, {}), tag);
}

TEST(Seal, AWrongTagOpensNothingAndLeavesTheBytesAlone) {
  const auto seal = MakeSeal({7});
  for (const SealAlgorithm algorithm : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
    const ObjectSeal object = Case16(algorithm);
    Bytes payload = kPlain;
    SealTag tag = seal->SealMessage(object, 3, {}, payload);
    const Bytes sealed = payload;
    EXPECT_FALSE(seal->OpenMessage(object, 4, {}, payload, tag)) << "another message's tag";
    for (size_t bit = 0; bit < 128; ++bit) {
      tag[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
      EXPECT_FALSE(seal->OpenMessage(object, 3, {}, payload, tag));
      EXPECT_EQ(payload, sealed);
      tag[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    }
    EXPECT_TRUE(seal->OpenMessage(object, 3, {}, payload, tag));
    EXPECT_EQ(payload, kPlain);
  }
}

TEST(Seal, NeverTakesANonceTwiceNorASubkeyForTwoChunksKeysOrCiphers) {
  std::set<std::string> nonces;
  std::set<std::string> subkeys;
  for (const SealAlgorithm algorithm : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
    for (const uint32_t id : {7u, 8u}) {
      const auto seal = MakeSeal({id}, algorithm);
      for (int i = 0; i < 2000; ++i) {
        ChunkKey key = {};
        key[31] = static_cast<std::byte>(i % 2);
        WireAuth auth;
        const ObjectSeal object = seal->NewObject(key, &auth);
        EXPECT_EQ(auth.key_id, id);
        EXPECT_EQ(auth.algorithm, static_cast<uint8_t>(algorithm));
        EXPECT_EQ(seal->OfObject(key, auth)->subkey, object.subkey);
        EXPECT_EQ(seal->OfObject(key, auth)->nonce, object.nonce);
        nonces.insert(ToHex(object.nonce));
        subkeys.insert(ToHex(object.subkey));
      }
    }
  }
  EXPECT_EQ(nonces.size(), 8000u);
  EXPECT_EQ(subkeys.size(), 8u);
}

TEST(Seal, AllocatesNothingOnceItIsThere) {
#if SS_COUNTS_MALLOC
  const auto seal = MakeSeal({7, 8}, SealAlgorithm::kAes256Gcm);
  const auto old = MakeSeal({8}, SealAlgorithm::kGmac);
  Bytes payload = kPlain;
  ChunkKey key = {};
  const size_t before = g_mallocs;
  for (int i = 0; i < 1000; ++i) {  // some refills of the nonces' pool
    key[0] = static_cast<std::byte>(i);
    for (Seal* by : {seal.get(), old.get()}) {
      WireAuth auth;
      const ObjectSeal object = by->NewObject(key, &auth);
      const SealTag tag = by->SealMessage(object, 1, {}, payload);
      const ObjectSeal opened = seal->OfObject(key, auth).value();
      if (seal->OpenMessage(opened, 2, {}, payload, tag)) FAIL();
      if (!seal->OpenMessage(opened, 1, {}, payload, tag)) FAIL();
    }
  }
  EXPECT_EQ(g_mallocs, before);
  EXPECT_EQ(payload, kPlain);
  const auto another = MakeSeal({7});
  EXPECT_GT(g_mallocs, before) << "the counter is alive";
#else
  std::puts("not checked under a sanitizer, which has its own allocator");
#endif
}

TEST(Seal, TakesOneOrTwoKeysWithIds) {
  const auto code = [](std::vector<AuthKey> keys, SealAlgorithm algorithm = SealAlgorithm::kGmac) {
    return Seal::Create(keys, algorithm).status().code();
  };
  EXPECT_EQ(code({TestKey(7)}), StatusCode::kOk);
  EXPECT_EQ(code({TestKey(8), TestKey(7)}), StatusCode::kOk);
  EXPECT_EQ(code({}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({TestKey(7), TestKey(8), TestKey(9)}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({TestKey(7), TestKey(7)}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({AuthKey{}}), StatusCode::kInvalidArgument);
  EXPECT_EQ(code({TestKey(7)}, SealAlgorithm::kNone), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shadowserve
