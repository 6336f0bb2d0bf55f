#include "format/marker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "format/segment_testing.h"

namespace shadowserve {
namespace {

using segment_testing::BuildSegment;
using segment_testing::kHeadCrcAt;
using segment_testing::NameOf;
using segment_testing::Put;
using ::testing::HasSubstr;
using MarkerBytes = std::array<std::byte, kMarkerBytes>;

constexpr SegmentShape kTiny = {.layers = {0, 1}, .heads = 1, .head_dim = 1};
constexpr size_t kCrcAt = 124;

ObjectName SegmentName() {
  return NameOf(kTiny, Profile::kRaw, CodecId::kDeflate, 1);
}
ObjectName MarkerName() {
  return SegmentName().AsKind(ObjectKind::kMarker);
}

MarkerBytes Example() {
  MarkerBytes bytes;
  bytes.fill(std::byte{0xEE});
  (void)WriteMarker({.segment_bytes = 1234, .segment_crc = 0xABCD0123}, MarkerName(), bytes);
  return bytes;
}

StatusCode Read(std::span<const std::byte> bytes) {
  return ReadMarker(bytes, MarkerName()).status().code();
}

TEST(Marker, RoundTrips) {
  const Marker marker = {.segment_bytes = 1234, .segment_crc = 0xABCD0123};
  EXPECT_EQ(*ReadMarker(Example(), MarkerName()), marker);
}

TEST(Marker, OfASegmentHoldsItsSizeAndHeadCrc) {
  const std::vector<std::byte> object = BuildSegment(SegmentName(), kTiny);
  const Result<Marker> marker = MarkerOf(object);
  ASSERT_TRUE(marker.ok());
  EXPECT_EQ(marker->segment_bytes, object.size());
  EXPECT_EQ(marker->segment_crc, segment_testing::Get(object, kHeadCrcAt, 4));
}

TEST(Marker, OfADamagedSegmentIsNotMade) {
  std::vector<std::byte> object = BuildSegment(SegmentName(), kTiny);
  EXPECT_EQ(MarkerOf(std::span(object).first(object.size() - 1)).status().code(),
            StatusCode::kCorrupt);
  object[20] ^= std::byte{1};
  EXPECT_EQ(MarkerOf(object).status().code(), StatusCode::kCorrupt);
}

TEST(Marker, EveryFlippedBitIsRefused) {
  MarkerBytes bytes = Example();
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    const std::byte mask = static_cast<std::byte>(1u << (bit % 8));
    bytes[bit / 8] ^= mask;
    ASSERT_EQ(Read(bytes), StatusCode::kCorrupt) << "bit " << bit;
    bytes[bit / 8] ^= mask;
  }
}

TEST(Marker, EveryOtherSizeIsRefused) {
  const MarkerBytes bytes = Example();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<std::byte> cut(bytes.begin(), bytes.begin() + static_cast<int>(size));
    ASSERT_EQ(Read(cut), StatusCode::kCorrupt) << size;
  }
  std::vector<std::byte> longer(bytes.begin(), bytes.end());
  longer.push_back(std::byte{0});
  EXPECT_EQ(Read(longer), StatusCode::kCorrupt);
}

TEST(Marker, IsRefusedUnderEveryOtherName) {
  const MarkerBytes bytes = Example();
  EXPECT_EQ(ReadMarker(bytes, SegmentName()).status().code(), StatusCode::kCorrupt);
  for (int change = 0; change < 5; ++change) {
    ObjectName name = MarkerName();
    if (change == 0) name.key[7] ^= std::byte{1};
    if (change == 1) name.profile = Profile::kLossless;
    if (change == 2) name.codec = CodecId::kZstd;
    if (change == 3) name.layer_count = 2;
    if (change == 4) name.head_groups = 2;
    EXPECT_EQ(ReadMarker(bytes, name).status().code(), StatusCode::kCorrupt) << change;
  }
}

TEST(Marker, RulesHoldUnderARightChecksum) {
  const auto refusal = [](size_t at, uint64_t value, size_t width) {
    MarkerBytes bytes = Example();
    Put(bytes, at, value, width);
    Put(bytes, kCrcAt, Crc32c(std::span(bytes).first(kCrcAt)), 4);
    return ReadMarker(bytes, MarkerName()).status().ToString();
  };
  EXPECT_THAT(refusal(0, 0, 4), HasSubstr("corrupt: marker: magic"));
  EXPECT_THAT(refusal(4, 2, 2), HasSubstr("corrupt: marker: version"));
  EXPECT_THAT(refusal(6, 127, 2), HasSubstr("corrupt: marker: marker bytes"));
  EXPECT_THAT(refusal(8, 139, 8), HasSubstr("corrupt: marker: segment bytes"));
  EXPECT_THAT(refusal(24, 0, 8), HasSubstr("corrupt: marker: name digest"));
  for (size_t at = 20; at < 24; ++at) EXPECT_THAT(refusal(at, 1, 1), HasSubstr("zero bytes")) << at;
  for (size_t at = 56; at < 96; ++at) {
    EXPECT_THAT(refusal(at, 1, 1), HasSubstr("authentication")) << at;
  }
  for (size_t at = 96; at < kCrcAt; ++at) {
    EXPECT_THAT(refusal(at, 1, 1), HasSubstr("zero bytes")) << at;
  }
}

}  // namespace
}  // namespace shadowserve
