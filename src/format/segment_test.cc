#include "format/segment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "format/segment_testing.h"

namespace shadowserve {
namespace {

using segment_testing::BuildSegment;
using segment_testing::Fill;
using segment_testing::Get;
using segment_testing::kBlockCountAt;
using segment_testing::kEntryBytes;
using segment_testing::kHeadCrcAt;
using segment_testing::kHeaderBytes;
using segment_testing::kNameDigestAt;
using segment_testing::kSideBytesAt;
using segment_testing::kTotalBytesAt;
using segment_testing::NameOf;
using segment_testing::Put;
using segment_testing::ReadAll;
using segment_testing::Reseal;
using ::testing::HasSubstr;
using Bytes = std::vector<std::byte>;

// Two layers of the second of two head groups: 8 planes of 16,384 values, two planes to a block.
constexpr SegmentShape kShape = {.layers = {4, 2},
                                 .head_group = 1,
                                 .first_head = 2,
                                 .heads = 2,
                                 .head_dim = 64,
                                 .dtype = KvDtype::kBf16};
constexpr uint32_t kGroups = 2;
constexpr size_t kBlocks = 4;
constexpr size_t kHead = kHeaderBytes + kBlocks * kEntryBytes;

ObjectName Name(Profile profile = Profile::kQ8, CodecId codec = CodecId::kDeflate) {
  return NameOf(kShape, profile, codec, kGroups);
}

// A whole segment in under 1 KiB: two planes of 256 values.
constexpr SegmentShape kTiny = {.layers = {0, 1}, .heads = 1, .head_dim = 1};

TEST(Crc32c, IsTheStandardOne) {
  constexpr std::string_view kCheck = "123456789";
  const auto bytes = std::as_bytes(std::span(kCheck));
  EXPECT_EQ(Crc32c(bytes), 0xE3069283u);
  EXPECT_EQ(Crc32c({}), 0u);
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    EXPECT_EQ(Crc32c(bytes.subspan(cut), Crc32c(bytes.first(cut))), 0xE3069283u);
  }
}

TEST(ProfileBytes, FollowTheProfileTable) {
  for (const CodecId codec : {CodecId::kNone, CodecId::kZstd}) {
    const ProfileBytes raw = *ProfileBytesOf({Profile::kRaw, codec}, kShape);
    EXPECT_EQ(raw.plain(100), 0u);
    EXPECT_EQ(raw.symbols(100), 200u);
    EXPECT_EQ(raw.side, 0u);
    const ProfileBytes lossless = *ProfileBytesOf({Profile::kLossless, codec}, kShape);
    EXPECT_EQ(lossless.plain(100), 100u);
    EXPECT_EQ(lossless.symbols(100), 100u);
    EXPECT_EQ(lossless.side, 0u);
    const ProfileBytes q8 = *ProfileBytesOf({Profile::kQ8, codec}, kShape);
    EXPECT_EQ(q8.plain(100), 0u);
    EXPECT_EQ(q8.symbols(100), 100u);
    EXPECT_EQ(q8.side, 2u * 2 * 256 * 4);
  }
  for (const CodecId codec : {CodecId::kDeflate, CodecId::kZstd}) {
    const ProfileBytes balanced = *ProfileBytesOf({Profile::kBalanced, codec}, kShape);
    EXPECT_EQ(balanced.plain(100), 0u);
    EXPECT_EQ(balanced.symbols(100), 100u);
    EXPECT_EQ(balanced.side, 2u * (2 * 64 + 2 + 256) * 2);
  }
}

TEST(ProfileBytes, OfBalancedWithoutACodecAreTwoSymbolsToAByteAndAStepPerChannel) {
  const ProfileBytes packed = *ProfileBytesOf({Profile::kBalanced, CodecId::kNone}, kShape);
  EXPECT_EQ(packed.plain(100), 0u);
  EXPECT_EQ(packed.symbols(100), 50u);
  EXPECT_EQ(packed.side, 2u * (2 * 64 + 2 * 64 + 256) * 2);
}

TEST(ProfileBytes, OfAForm) {
  for (const Profile profile : kProfiles) {
    for (const CodecId codec : {CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}) {
      EXPECT_EQ(IsPacked({profile, codec}),
                profile == Profile::kBalanced && codec == CodecId::kNone);
      // What the fetch path's slabs are checked for: no form is larger than one with a codec.
      for (const uint32_t head_dim : {1u, 16u, 64u, 128u, 256u, 1024u}) {
        SegmentShape shape = kShape;
        shape.head_dim = head_dim;
        const uint64_t size = SegmentBytesMax({profile, codec}, shape);
        EXPECT_LE(size, SegmentBytesMax({profile, CodecId::kZstd}, shape));
      }
    }
  }
}

TEST(ProfileBytes, OfEveryBlockAreWholeAndWithinTheLimit) {
  for (uint32_t head_dim = 1; head_dim <= kHeadDimMax; ++head_dim) {
    SegmentShape shape = kShape;
    shape.head_dim = head_dim;
    shape.layers.count = 1;
    const ProfileBytes packed = *ProfileBytesOf({Profile::kBalanced, CodecId::kNone}, shape);
    const ProfileBytes bytes = *ProfileBytesOf({Profile::kBalanced, CodecId::kZstd}, shape);
    uint64_t symbols = 0;
    for (uint32_t i = 0; i < BlockCount(shape); ++i) {
      const BlockRange block = BlockAt(shape, i);
      ASSERT_EQ(packed.symbols(block.elements) * 2, block.elements);
      ASSERT_LE(bytes.symbols(block.elements), kBlockSymbolsMax);
      symbols += packed.symbols(block.elements);
    }
    ASSERT_EQ(symbols * 2, shape.elements());
  }
}

TEST(ProfileBytes, RefuseADtypeTheProfileDoesNotTakeAndNameBoth) {
  SegmentShape fp8 = kShape;
  fp8.dtype = KvDtype::kFp8E4m3;
  EXPECT_EQ(ProfileBytesOf({Profile::kRaw, CodecId::kNone}, fp8)->symbols(100), 100u);
  for (Profile profile : kProfiles) {
    if (profile == Profile::kRaw) continue;
    const Status status = ProfileBytesOf({profile, CodecId::kNone}, fp8).status();
    EXPECT_EQ(status.code(), StatusCode::kUnsupported);
    EXPECT_THAT(status.ToString(), HasSubstr(std::string(ProfileName(profile))));
    EXPECT_THAT(status.ToString(), HasSubstr("fp8_e4m3"));
  }
}

TEST(Segment, ReadsBackWhatWasWrittenForEveryProfileCodecAndShape) {
  for (uint32_t head_dim : {16u, 64u, 128u, 256u, 576u}) {
    for (Profile profile : kProfiles) {
      for (CodecId codec : {CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}) {
        SegmentShape shape = kShape;
        shape.head_dim = head_dim;
        shape.layers = {3, 1};
        const ObjectName name = NameOf(shape, profile, codec, kGroups);
        const Bytes object = BuildSegment(name, shape);
        Result<SegmentReader> reader = SegmentReader::Open(object, name, shape);
        ASSERT_TRUE(reader.ok()) << reader.status().ToString();
        const ProfileBytes bytes = *ProfileBytesOf(name.form(), shape);
        ASSERT_EQ(reader->block_count(), BlockCount(shape));
        ASSERT_EQ(reader->side().size(), bytes.side);
        for (uint32_t i = 0; i < reader->block_count(); ++i) {
          const BlockView block = reader->NextBlock();
          EXPECT_TRUE(block.Verify().ok());
          EXPECT_EQ(block.symbol_bytes, bytes.symbols(block.range.elements));
          EXPECT_EQ(block.plain().size(), bytes.plain(block.range.elements));
          EXPECT_EQ(block.codec, i % 2 == 0 ? codec : CodecId::kNone);
          EXPECT_EQ(block.coded().size(),
                    block.codec == CodecId::kNone ? block.symbol_bytes : 5 + i);
          Bytes expected(block.stored.size());
          Fill(expected, i + 2);
          EXPECT_TRUE(std::equal(expected.begin(), expected.end(), block.stored.begin()));
        }
        EXPECT_TRUE(VerifySegment(object, name).ok());
      }
    }
  }
}

TEST(Segment, IsAtMostItsStatedMaximum) {
  for (Profile profile : kProfiles) {
    const ObjectName name = Name(profile, CodecId::kNone);
    EXPECT_EQ(BuildSegment(name, kShape).size(), SegmentBytesMax(name.form(), kShape));
  }
}

TEST(Segment, TheBytesDoNotDependOnWhatTheBufferHeldBefore) {
  Bytes first = BuildSegment(Name(), kShape);
  Bytes buffer(SegmentBytesMax(Name().form(), kShape), std::byte{0});
  SegmentWriter writer(buffer, Name(), kShape);
  Fill(writer.side(), 1);
  for (uint32_t block = 0; !writer.done(); ++block) {
    const uint32_t size = block % 2 == 0 ? 5 + block : writer.block_range().elements;
    Fill(writer.BlockSpace().first(size), block + 2);
    writer.FinishBlock(block % 2 == 0 ? CodecId::kDeflate : CodecId::kNone, size);
  }
  const auto second = writer.Finish();
  EXPECT_TRUE(std::equal(first.begin(), first.end(), second.begin(), second.end()));
}

TEST(Segment, IsRefusedUnderEveryOtherName) {
  const Bytes object = BuildSegment(Name(), kShape);
  const std::vector<std::function<void(ObjectName&)>> changes = {
      [](ObjectName& n) { n.key[0] ^= std::byte{1}; },
      [](ObjectName& n) { n.key[31] ^= std::byte{128}; },
      [](ObjectName& n) { n.profile = Profile::kRaw; },
      [](ObjectName& n) { n.profile = Profile::kBalanced; },
      [](ObjectName& n) { n.codec = CodecId::kZstd; },
      [](ObjectName& n) { n.first_layer = 6; },
      [](ObjectName& n) { n.layer_count = 1; },
      [](ObjectName& n) { n.head_group = 0; },
      [](ObjectName& n) { n.head_groups = 4; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    ObjectName name = Name();
    changes[i](name);
    EXPECT_EQ(SegmentReader::Open(object, name, kShape).status().code(), StatusCode::kCorrupt) << i;
    EXPECT_EQ(VerifySegment(object, name).code(), StatusCode::kCorrupt) << i;
  }
}

TEST(Segment, IsRefusedForEveryOtherShape) {
  const Bytes object = BuildSegment(Name(), kShape);
  const std::vector<std::function<void(SegmentShape&)>> changes = {
      [](SegmentShape& s) { s.layers.first = 6; },
      [](SegmentShape& s) { s.layers.count = 1; },
      [](SegmentShape& s) { s.head_group = s.first_head = 0; },
      [](SegmentShape& s) { s.heads = s.first_head = 1; },
      [](SegmentShape& s) { s.head_dim = 32; },
      [](SegmentShape& s) { s.dtype = KvDtype::kFp16; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    SegmentShape shape = kShape;
    changes[i](shape);
    EXPECT_EQ(SegmentReader::Open(object, Name(), shape).status().code(), StatusCode::kCorrupt)
        << i;
  }
}

TEST(Segment, WhatCanNeverBeReadIsTheCallersError) {
  const Bytes object = BuildSegment(Name(), kShape);
  EXPECT_EQ(SegmentReader::Open(object, Name().AsKind(ObjectKind::kMarker), kShape).status().code(),
            StatusCode::kInvalidArgument);
  SegmentShape bad = kShape;
  bad.heads = 0;
  EXPECT_EQ(SegmentReader::Open(object, Name(), bad).status().code(), StatusCode::kInvalidArgument);
  SegmentShape fp8 = kShape;
  fp8.dtype = KvDtype::kFp8E4m3;
  EXPECT_EQ(SegmentReader::Open(object, Name(), fp8).status().code(), StatusCode::kUnsupported);
}

// One rule of the grammar: a change that breaks it under right checksums, and the field named.
struct Rule {
  std::string name;
  size_t at;
  uint64_t value;
  size_t width;
  std::string named;
};

std::ostream& operator<<(std::ostream& out, const Rule& rule) {
  return out << rule.name;
}

class SegmentRule : public ::testing::TestWithParam<Rule> {};

TEST_P(SegmentRule, IsEnforcedWithItsFieldNamed) {
  const Rule& rule = GetParam();
  Bytes object = BuildSegment(Name(), kShape);
  ASSERT_NE(Get(object, rule.at, rule.width), rule.value);
  Put(object, rule.at, rule.value, rule.width);
  Reseal(object);
  const Status opened = SegmentReader::Open(object, Name(), kShape).status();
  EXPECT_EQ(opened.code(), StatusCode::kCorrupt);
  EXPECT_THAT(std::string(opened.message()), HasSubstr(rule.named));
  EXPECT_EQ(VerifySegment(object, Name()).code(), StatusCode::kCorrupt);
}

std::vector<Rule> Rules() {
  std::vector<Rule> rules = {
      {"Magic", 0, 0x67735354, 4, "magic"},
      {"Version", 4, 2, 2, "version"},
      {"HeaderBytes", 6, 132, 2, "header bytes"},
      {"Profile", 8, 1, 1, "profile"},
      {"UnknownProfile", 8, 9, 1, "profile"},
      {"Codec", 9, 2, 1, "codec"},
      {"UnknownCodec", 9, 200, 1, "codec"},
      {"UnknownDtype", 10, 77, 1, "dtype"},
      {"ZeroByte", 11, 1, 1, "zero byte"},
      {"FirstLayer", 12, 5, 2, "layer range"},
      {"LayerCount", 14, 1, 2, "layer range"},
      {"NoLayers", 14, 0, 2, "layer range"},
      {"HeadGroup", 16, 0, 2, "head group"},
      {"HeadGroups", 18, 4, 2, "head group"},
      {"FirstHead", 20, 0, 2, "heads"},
      {"Heads", 22, 4, 2, "heads"},
      {"NoHeads", 22, 0, 2, "heads"},
      {"HeadDim", 24, 32, 2, "head_dim"},
      {"HugeHeadDim", 24, 65535, 2, "head_dim"},
      {"ChunkTokens", 26, 128, 2, "chunk tokens"},
      {"FewerBlocks", kBlockCountAt, kBlocks - 1, 4, "block count"},
      {"MoreBlocks", kBlockCountAt, kBlocks + 1, 4, "block count"},
      {"BlocksBeyondTheObject", kBlockCountAt, 0xFFFFFFFF, 4, "block count"},
      {"FewerSideBytes", kSideBytesAt, 4092, 8, "side bytes"},
      {"HugeSideBytes", kSideBytesAt, ~uint64_t{0}, 8, "side bytes"},
      {"TotalBytes", kTotalBytesAt, 1000, 8, "total bytes"},
      {"HugeTotalBytes", kTotalBytesAt, ~uint64_t{0}, 8, "total bytes"},
      {"NameDigest", kNameDigestAt, 0, 8, "name digest"},
      {"AuthTag", 80, 1, 1, "authentication"},
      {"AuthNonce", 107, 1, 1, "authentication"},
      {"AuthKeyId", 108, 1, 4, "authentication"},
      {"AuthAlgorithm", 112, 1, 1, "authentication"},
      {"AuthZeroBytes", 119, 1, 1, "authentication"},
      // The first block is coded (5 bytes), the second is not (32,768 bytes).
      {"NoCodedBytes", kHeaderBytes, 0, 4, "coded size"},
      {"CodedLargerThanItsSymbols", kHeaderBytes, 32769, 4, "coded size"},
      {"BlocksEndEarly", kHeaderBytes, 4, 4, "end where"},
      {"BlocksEndLate", kHeaderBytes, 6, 4, "end where"},
      {"UncodedSize", kHeaderBytes + kEntryBytes, 32767, 4, "uncoded size"},
      {"CodedBlockSaysNone", kHeaderBytes + 8, 0, 1, "uncoded size"},
      {"BlockOfAnotherCodec", kHeaderBytes + 8, 2, 1, "codec"},
      {"BlockOfAnUnknownCodec", kHeaderBytes + 8, 3, 1, "codec"},
  };
  for (size_t i = 9; i < kEntryBytes; ++i) {
    rules.push_back({"EntryZeroByte" + std::to_string(i), kHeaderBytes + i, 1, 1, "zero bytes"});
  }
  return rules;
}

INSTANTIATE_TEST_SUITE_P(Format, SegmentRule, ::testing::ValuesIn(Rules()),
                         [](const auto& rule) { return rule.param.name; });

TEST(Segment, OfAnotherDtypeIsRefusedByTheReaderWhoKnowsTheModel) {
  Bytes object = BuildSegment(Name(), kShape);
  Put(object, 10, static_cast<uint64_t>(KvDtype::kFp16), 1);
  Reseal(object);
  EXPECT_EQ(SegmentReader::Open(object, Name(), kShape).status().ToString(),
            "corrupt: segment: dtype");
  // Alone, the object is consistent: only the model tells bf16 from fp16.
  EXPECT_TRUE(VerifySegment(object, Name()).ok());
}

TEST(Segment, EveryReservedByteMustBeZero) {
  const Bytes object = BuildSegment(Name(), kShape);
  std::vector<size_t> reserved = {11};
  for (size_t at = 80; at < 120; ++at) reserved.push_back(at);
  for (size_t block = 0; block < kBlocks; ++block) {
    for (size_t at = 9; at < 12; ++at) reserved.push_back(kHeaderBytes + block * kEntryBytes + at);
  }
  for (size_t at : reserved) {
    Bytes changed = object;
    changed[at] = std::byte{0x40};
    Reseal(changed);
    EXPECT_EQ(SegmentReader::Open(changed, Name(), kShape).status().code(), StatusCode::kCorrupt)
        << at;
  }
}

TEST(Segment, ANameWithoutCodecHasOnlyUncodedBlocks) {
  const ObjectName name = NameOf(kTiny, Profile::kRaw, CodecId::kNone, 1);
  Bytes object = BuildSegment(name, kTiny);
  Put(object, kHeaderBytes + 8, static_cast<uint64_t>(CodecId::kDeflate), 1);
  Reseal(object);
  EXPECT_EQ(SegmentReader::Open(object, name, kTiny).status().code(), StatusCode::kCorrupt);
}

TEST(Segment, DamageIsReportedAtTheChecksumThatCoversIt) {
  const Bytes object = BuildSegment(Name(), kShape);
  const auto damaged = [&](size_t at) {
    Bytes copy = object;
    copy[at] ^= std::byte{1};
    return ReadAll(copy, Name(), kShape).ToString();
  };
  EXPECT_EQ(damaged(kHeadCrcAt), "corrupt: segment: head CRC");
  EXPECT_EQ(damaged(kHead - 1), "corrupt: segment: head CRC");
  EXPECT_EQ(damaged(kHead), "corrupt: segment: side CRC");
  EXPECT_EQ(damaged(kHead + 4095), "corrupt: segment: side CRC");
  EXPECT_EQ(damaged(kHead + 4096), "corrupt: segment: block CRC");
  EXPECT_EQ(damaged(object.size() - 1), "corrupt: segment: block CRC");
}

TEST(Segment, EveryFlippedBitIsRefused) {
  for (const StoredForm form :
       {StoredForm{Profile::kRaw, CodecId::kZstd}, StoredForm{Profile::kLossless, CodecId::kZstd},
        StoredForm{Profile::kQ8, CodecId::kZstd}, StoredForm{Profile::kBalanced, CodecId::kZstd},
        StoredForm{Profile::kBalanced, CodecId::kNone}}) {
    const ObjectName name = NameOf(kTiny, form.profile, form.codec, 1);
    Bytes object = BuildSegment(name, kTiny);
    ASSERT_TRUE(ReadAll(object, name, kTiny).ok());
    for (size_t bit = 0; bit < object.size() * 8; ++bit) {
      const std::byte mask = static_cast<std::byte>(1u << (bit % 8));
      object[bit / 8] ^= mask;
      ASSERT_EQ(ReadAll(object, name, kTiny).code(), StatusCode::kCorrupt) << "bit " << bit;
      ASSERT_EQ(VerifySegment(object, name).code(), StatusCode::kCorrupt) << "bit " << bit;
      object[bit / 8] ^= mask;
    }
  }
}

TEST(Segment, EveryTruncationAndAnyExtensionIsRefused) {
  const ObjectName name = NameOf(kTiny, Profile::kLossless, CodecId::kZstd, 1);
  Bytes object = BuildSegment(name, kTiny);
  for (size_t size = 0; size < object.size(); ++size) {
    // An own allocation, so that a sanitizer sees a read past the end.
    Bytes cut(object.begin(), object.begin() + static_cast<std::ptrdiff_t>(size));
    ASSERT_EQ(ReadAll(cut, name, kTiny).code(), StatusCode::kCorrupt) << size;
    ASSERT_EQ(VerifySegment(cut, name).code(), StatusCode::kCorrupt) << size;
    // Also when the object lies about its size under right checksums.
    if (size >= kHeaderBytes) Put(cut, kTotalBytesAt, size, 8);
    Reseal(cut);
    ASSERT_EQ(ReadAll(cut, name, kTiny).code(), StatusCode::kCorrupt) << size;
  }
  object.push_back(std::byte{0});
  EXPECT_EQ(ReadAll(object, name, kTiny).code(), StatusCode::kCorrupt);
  Put(object, kTotalBytesAt, object.size(), 8);
  Reseal(object);
  EXPECT_EQ(ReadAll(object, name, kTiny).code(), StatusCode::kCorrupt);
}

TEST(SegmentDeathTest, TheWriterRefusesWhatTheReaderWould) {
  Bytes buffer(SegmentBytesMax(Name().form(), kShape));
  const auto write = [&](CodecId codec, uint32_t coded_bytes) {
    SegmentWriter writer(buffer, Name(), kShape);
    writer.FinishBlock(codec, coded_bytes);
  };
  EXPECT_DEATH(write(CodecId::kZstd, 5), "codec is not the segment's");
  EXPECT_DEATH(write(CodecId::kDeflate, 0), "coded size");
  EXPECT_DEATH(write(CodecId::kDeflate, 32769), "coded size");
  EXPECT_DEATH(write(CodecId::kNone, 32767), "coded size");
  EXPECT_DEATH(SegmentWriter(buffer, Name(), kShape).Finish(), "unwritten blocks");
  EXPECT_DEATH(SegmentWriter(std::span(buffer).first(1000), Name(), kShape), "segment buffer");
  ObjectName other = Name();
  other.first_layer = 0;
  EXPECT_DEATH(SegmentWriter(buffer, other, kShape), "name and shape differ");
}

}  // namespace
}  // namespace shadowserve
