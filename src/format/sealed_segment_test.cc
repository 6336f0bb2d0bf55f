// Sealed segments and markers: what an attacker who can write to the store may try. Checksums are
// made right again after every change, so that only the tags stand in the way.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "format/segment_testing.h"

namespace shadowserve {
namespace {

using segment_testing::BuildSegment;
using segment_testing::Get;
using segment_testing::kAlgorithmAt;
using segment_testing::kAuthAt;
using segment_testing::kBlockCountAt;
using segment_testing::kBlockTagBytes;
using segment_testing::kEntryBytes;
using segment_testing::kHeaderBytes;
using segment_testing::kNameDigestAt;
using segment_testing::kSideBytesAt;
using segment_testing::MakeSeal;
using segment_testing::NameOf;
using segment_testing::Put;
using segment_testing::ReadAll;
using segment_testing::ReadAllSealed;
using segment_testing::Reseal;
using Bytes = std::vector<std::byte>;

// 4 blocks; of q8 names the first and third are coded.
constexpr SegmentShape kShape = {.layers = {4, 2}, .heads = 2, .head_dim = 64};
constexpr SegmentShape kTiny = {.layers = {0, 1}, .heads = 1, .head_dim = 1};

ObjectName Name(const SegmentShape& shape, Profile profile = Profile::kQ8,
                CodecId codec = CodecId::kDeflate) {
  return NameOf(shape, profile, codec, 1);
}

// Right checksums of all blocks, side and head, as far as the object goes.
void FixChecksums(Bytes& object) {
  if (object.size() < kHeaderBytes) return;
  const bool sealed = object[kAlgorithmAt] != std::byte{0};
  const uint64_t blocks = Get(object, kBlockCountAt, 4);
  uint64_t at = kHeaderBytes + blocks * (kEntryBytes + (sealed ? kBlockTagBytes : 0)) +
                Get(object, kSideBytesAt, 8);
  for (uint64_t i = 0; blocks < 100 && i < blocks; ++i) {
    const size_t entry = kHeaderBytes + i * kEntryBytes;
    if (entry + kEntryBytes > object.size()) return;
    const uint64_t bytes = Get(object, entry, 4);
    if (at > object.size() || bytes > object.size() - at) break;
    Put(object, entry + 4, Crc32c(std::span(object).subspan(at, bytes)), 4);
    at += bytes;
  }
  Reseal(object);
}

class Sealed : public ::testing::TestWithParam<SealAlgorithm> {
 protected:
  Bytes Build(const SegmentShape& shape) { return BuildSegment(Name(shape), shape, seal_.get()); }
  // Refused, and for its tag alone.
  void ExpectRefused(const Bytes& object, const SegmentShape& shape, std::string_view what) {
    const uint64_t before = seal_->refused();
    EXPECT_EQ(ReadAllSealed(object, Name(shape), shape, seal_.get()).code(), StatusCode::kCorrupt)
        << what;
    EXPECT_EQ(seal_->refused(), before + 1) << what;
  }
  std::unique_ptr<Seal> seal_ = MakeSeal({7}, GetParam());
};

TEST_P(Sealed, GivesBackWhatWasWrittenInEveryProfileAndCodec) {
  for (const Profile profile : kProfiles) {
    for (const CodecId codec : {CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}) {
      const ObjectName name = Name(kShape, profile, codec);
      const Bytes plain = BuildSegment(name, kShape);
      const Bytes object = BuildSegment(name, kShape, seal_.get());
      EXPECT_EQ(object.size(), plain.size() + 4 * kBlockTagBytes);
      Bytes opened = object;
      auto reader = SegmentReader::OpenSealed(opened, name, kShape, seal_.get()).value();
      auto expected = SegmentReader::Open(plain, name, kShape).value();
      EXPECT_TRUE(std::ranges::equal(reader.side(), expected.side()));
      for (uint32_t i = 0; i < reader.block_count(); ++i) {
        const BlockView block = reader.NextBlock();
        ASSERT_TRUE(block.Verify().ok());
        EXPECT_TRUE(std::ranges::equal(block.stored, expected.NextBlock().stored));
      }
      Bytes verified = object;
      EXPECT_TRUE(VerifySealedSegment(verified, name, seal_.get()).ok());
      // Encrypted, no run of the plain bytes is left.
      const auto found =
          std::search(object.begin(), object.end(), plain.end() - 64, plain.end() - 32);
      EXPECT_EQ(found == object.end(), GetParam() == SealAlgorithm::kAes256Gcm);
    }
  }
}

TEST_P(Sealed, IsAtMostItsStatedMaximumAndOpensWithItsFirstBytes) {
  const ObjectName name = Name(kShape, Profile::kQ8, CodecId::kNone);
  Bytes object = BuildSegment(name, kShape, seal_.get());
  EXPECT_EQ(object.size(), SegmentBytesMax(name.form(), kShape, true));
  // The rest has not arrived yet.
  std::fill(object.begin() + static_cast<ptrdiff_t>(SegmentSideEnd(name.form(), kShape, true)),
            object.end(), std::byte{0});
  auto reader = SegmentReader::OpenSealed(object, name, kShape, seal_.get());
  ASSERT_TRUE(reader.ok()) << reader.status().ToString();
  EXPECT_EQ(reader->NextBlock().Verify().code(), StatusCode::kCorrupt);
}

TEST_P(Sealed, EveryBitCountsWhateverTheChecksumsSay) {
  const Bytes object = Build(kTiny);
  ASSERT_TRUE(ReadAllSealed(object, Name(kTiny), kTiny, seal_.get()).ok());
  for (size_t bit = 0; bit < object.size() * 8; ++bit) {
    Bytes changed = object;
    changed[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    FixChecksums(changed);
    if (changed == object) continue;  // a bit of a checksum
    ASSERT_EQ(ReadAllSealed(changed, Name(kTiny), kTiny, seal_.get()).code(), StatusCode::kCorrupt)
        << "bit " << bit;
    Bytes verified = changed;
    ASSERT_EQ(VerifySealedSegment(verified, Name(kTiny), seal_.get()).code(), StatusCode::kCorrupt)
        << "bit " << bit;
  }
}

TEST_P(Sealed, EveryAuthenticationByteCountsAndIsCountedAsSuch) {
  const Bytes object = Build(kShape);
  for (size_t at = kAuthAt; at < kAuthAt + 40; ++at) {
    Bytes changed = object;
    changed[at] ^= std::byte{0x40};
    FixChecksums(changed);
    ExpectRefused(changed, kShape, "byte " + std::to_string(at));
  }
  for (size_t at = kHeaderBytes + 4 * kEntryBytes; at < kHeaderBytes + 4 * (kEntryBytes + 16);
       ++at) {
    Bytes changed = object;
    changed[at] ^= std::byte{1};
    FixChecksums(changed);
    ExpectRefused(changed, kShape, "tag byte " + std::to_string(at));
  }
  // The other cipher's number, and none at all with the tags left in.
  for (const auto algorithm : std::to_array<uint8_t>({0, 1, 2})) {
    Bytes changed = object;
    if (changed[kAlgorithmAt] == std::byte{algorithm}) continue;
    changed[kAlgorithmAt] = std::byte{algorithm};
    FixChecksums(changed);
    ExpectRefused(changed, kShape, "algorithm");
  }
}

TEST_P(Sealed, ChangedContentsAreRefusedAndAccidentsToldApart) {
  const Bytes object = Build(kShape);
  for (const size_t at :
       {SegmentHeadBytes(kShape, true), SegmentSideEnd(Name(kShape).form(), kShape, true),
        uint64_t{object.size() - 1}}) {
    Bytes changed = object;
    changed[at] ^= std::byte{1};
    const uint64_t before = seal_->refused();
    EXPECT_EQ(ReadAllSealed(changed, Name(kShape), kShape, seal_.get()).code(),
              StatusCode::kCorrupt);
    EXPECT_EQ(seal_->refused(), before) << "an accident is not counted as an attack";
    FixChecksums(changed);
    ExpectRefused(changed, kShape, std::to_string(at));
  }
}

TEST_P(Sealed, BlocksOfOneSegmentDoNotTradePlaces) {
  const ObjectName name = Name(kShape, Profile::kRaw, CodecId::kNone);
  Bytes object = BuildSegment(name, kShape, seal_.get());
  const size_t tags = kHeaderBytes + 4 * kEntryBytes;
  const auto begin = object.begin() + static_cast<ptrdiff_t>(SegmentHeadBytes(kShape, true));
  const ptrdiff_t block = (object.end() - begin) / 4;
  std::swap_ranges(begin, begin + block, begin + block);
  Bytes with_tags = object;
  std::swap_ranges(with_tags.begin() + tags, with_tags.begin() + tags + 16,
                   with_tags.begin() + tags + 16);
  for (Bytes changed : {object, with_tags}) {
    FixChecksums(changed);
    EXPECT_EQ(ReadAllSealed(changed, name, kShape, seal_.get()).code(), StatusCode::kCorrupt);
  }
}

TEST_P(Sealed, AnotherNamesObjectIsRefusedEvenWithItsDigestPutRight) {
  ObjectName other = Name(kShape);
  for (const bool same_chunk : {true, false}) {
    other = Name(kShape);
    if (same_chunk) {
      other.head_groups = 2;
    } else {
      other.key[0] ^= std::byte{1};
    }
    Bytes object = BuildSegment(other, kShape, seal_.get());
    const Digest digest = NameDigest(Name(kShape));
    std::ranges::copy(digest, object.begin() + kNameDigestAt);
    Put(object, 18, 1, 2);
    FixChecksums(object);
    ExpectRefused(object, kShape, "another name");
  }
}

TEST_P(Sealed, AnOlderObjectOfTheSameNameStillMeansTheSame) {
  const Bytes old = Build(kShape);
  const Bytes now = Build(kShape);
  EXPECT_NE(old, now) << "fresh nonces";
  EXPECT_TRUE(ReadAllSealed(old, Name(kShape), kShape, seal_.get()).ok());
}

TEST_P(Sealed, CutAnywhereIsRefused) {
  const Bytes object = Build(kTiny);
  for (size_t size = 0; size < object.size(); ++size) {
    Bytes cut(object.begin(), object.begin() + static_cast<ptrdiff_t>(size));
    if (size >= kHeaderBytes) Put(cut, 40, size, 8);
    FixChecksums(cut);
    ASSERT_EQ(ReadAllSealed(cut, Name(kTiny), kTiny, seal_.get()).code(), StatusCode::kCorrupt)
        << size;
  }
}

TEST_P(Sealed, OnlyTheKeysOfTheFileCountAndAllOfThem) {
  const auto other = MakeSeal({8}, GetParam());
  const auto rotated = MakeSeal({8, 7}, GetParam());
  const Bytes by_7 = Build(kShape);
  const Bytes by_8 = BuildSegment(Name(kShape), kShape, rotated.get());
  EXPECT_EQ(Get(by_8, 108, 4), 8u) << "the first key signs";
  EXPECT_TRUE(ReadAllSealed(by_7, Name(kShape), kShape, rotated.get()).ok());
  EXPECT_TRUE(ReadAllSealed(by_8, Name(kShape), kShape, rotated.get()).ok());
  EXPECT_TRUE(ReadAllSealed(by_8, Name(kShape), kShape, other.get()).ok());
  ExpectRefused(by_8, kShape, "a key that is not here");
  // The right id, another secret.
  Bytes posing = BuildSegment(Name(kShape), kShape, other.get());
  Put(posing, 108, 7, 4);
  FixChecksums(posing);
  ExpectRefused(posing, kShape, "posing as key 7");
}

TEST_P(Sealed, ReadersWithAndWithoutKeysRefuseEachOthersObjects) {
  ExpectRefused(BuildSegment(Name(kShape), kShape), kShape, "not sealed");
  EXPECT_EQ(ReadAll(Build(kShape), Name(kShape), kShape).code(), StatusCode::kCorrupt);
  EXPECT_EQ(VerifySegment(Build(kShape), Name(kShape)).code(), StatusCode::kCorrupt);
}

TEST_P(Sealed, EitherCipherIsReadWhicheverIsWritten) {
  const auto other = MakeSeal(
      {7}, GetParam() == SealAlgorithm::kGmac ? SealAlgorithm::kAes256Gcm : SealAlgorithm::kGmac);
  EXPECT_TRUE(ReadAllSealed(Build(kShape), Name(kShape), kShape, other.get()).ok());
}

TEST_P(Sealed, MarkersAreAuthenticToo) {
  const ObjectName name = Name(kTiny).AsKind(ObjectKind::kMarker);
  const Marker marker{.segment_bytes = 5000, .segment_crc = 17};
  std::array<std::byte, kMarkerBytes> object;
  (void)WriteMarker(marker, name, object, seal_.get());
  EXPECT_EQ(*ReadMarker(object, name, seal_.get()), marker);
  EXPECT_EQ(ReadMarker(object, name).status().code(), StatusCode::kCorrupt) << "no keys";
  uint64_t refused = seal_->refused();
  for (size_t bit = 64; bit < 124 * 8; ++bit) {
    auto changed = object;
    changed[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    Put(changed, 124, Crc32c(std::span(changed).first(124)), 4);
    ASSERT_EQ(ReadMarker(changed, name, seal_.get()).status().code(), StatusCode::kCorrupt) << bit;
    const bool structure = bit / 8 >= 20 && (bit / 8 < 56 || bit / 8 >= 96);
    refused += structure ? 0 : 1;
    ASSERT_EQ(seal_->refused(), refused) << bit;
  }
  ObjectName other = name;
  other.key[5] ^= std::byte{1};
  (void)WriteMarker(marker, other, object, seal_.get());
  const Digest digest = NameDigest(name);
  std::ranges::copy(digest, object.begin() + 24);
  Put(object, 124, Crc32c(std::span(object).first(124)), 4);
  EXPECT_EQ(ReadMarker(object, name, seal_.get()).status().ToString(),
            "corrupt: authentication: tag of the marker");
  (void)WriteMarker(marker, name, object);
  EXPECT_EQ(ReadMarker(object, name, seal_.get()).status().ToString(),
            "corrupt: authentication: the marker is not sealed");
}

INSTANTIATE_TEST_SUITE_P(Format, Sealed,
                         ::testing::Values(SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm),
                         [](const auto& algorithm) {
                           return algorithm.param == SealAlgorithm::kGmac ? "Gmac" : "Aes256Gcm";
                         });

}  // namespace
}  // namespace shadowserve
