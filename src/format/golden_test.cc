// Golden objects: bytes that earlier builds wrote, under testdata/. A difference means that the
// format drifted: stored caches and other hosts would no longer be read. After a deliberate change
// (a new version number), write them anew:
//   SS_WRITE_GOLDEN=1 build/.../format_test --gtest_filter='*Golden*'
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "format/segment_testing.h"

namespace shadowserve {
namespace {

using segment_testing::BuildSegment;
using segment_testing::NameOf;

struct Golden {
  std::string file;
  Profile profile;
  CodecId codec;
  uint32_t head_groups;
  SegmentShape shape;
};

std::ostream& operator<<(std::ostream& out, const Golden& golden) {
  return out << golden.file;
}

// The object's name, then its bytes as hex, 32 to a line.
std::string ToText(const ObjectName& name, std::span<const std::byte> object) {
  std::string text = ToString(name) + "\n";
  while (!object.empty()) {
    const size_t count = std::min<size_t>(32, object.size());
    text += ToHex(object.first(count)) + "\n";
    object = object.subspan(count);
  }
  return text;
}

void CompareOrWrite(const std::string& file, const std::string& text) {
  const std::string path = std::string(SS_FORMAT_TESTDATA) + "/" + file;
  if (std::getenv("SS_WRITE_GOLDEN") != nullptr) {
    std::ofstream(path, std::ios::binary) << text;
  }
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream golden;
  golden << stream.rdbuf();
  EXPECT_EQ(text, golden.str()) << path;
}

class GoldenSegment : public ::testing::TestWithParam<Golden> {};

TEST_P(GoldenSegment, IsStillWrittenByteForByteWithItsMarker) {
  const Golden& golden = GetParam();
  const ObjectName name = NameOf(golden.shape, golden.profile, golden.codec, golden.head_groups);
  const std::vector<std::byte> object = BuildSegment(name, golden.shape);
  ASSERT_TRUE(VerifySegment(object, name).ok());
  CompareOrWrite(golden.file + ".segment.hex", ToText(name, object));

  const ObjectName marker_name = name.AsKind(ObjectKind::kMarker);
  std::array<std::byte, kMarkerBytes> marker;
  CompareOrWrite(golden.file + ".marker.hex",
                 ToText(marker_name, WriteMarker(*MarkerOf(object), marker_name, marker)));
}

INSTANTIATE_TEST_SUITE_P(
    Format, GoldenSegment,
    ::testing::Values(
        Golden{"raw_none",
               Profile::kRaw,
               CodecId::kNone,
               1,
               {.layers = {0, 1}, .heads = 1, .head_dim = 1, .dtype = KvDtype::kFp8E4m3}},
        Golden{"lossless_zstd",
               Profile::kLossless,
               CodecId::kZstd,
               4,
               {.layers = {31, 1},
                .head_group = 3,
                .first_head = 3,
                .heads = 1,
                .head_dim = 1,
                .dtype = KvDtype::kFp16}},
        Golden{"q8_deflate",
               Profile::kQ8,
               CodecId::kDeflate,
               2,
               {.layers = {7, 1}, .head_group = 1, .first_head = 1, .heads = 1, .head_dim = 1}},
        Golden{"balanced_deflate",
               Profile::kBalanced,
               CodecId::kDeflate,
               2,
               {.layers = {9, 1}, .head_group = 1, .first_head = 1, .heads = 1, .head_dim = 1}},
        Golden{"balanced_none",
               Profile::kBalanced,
               CodecId::kNone,
               1,
               {.layers = {0, 1}, .heads = 1, .head_dim = 1, .dtype = KvDtype::kFp16}}),
    [](const auto& golden) { return golden.param.file; });

// Objects that another implementation sealed (testdata/make_sealed.py) open, and hold what the
// unsealed ones do.
std::vector<std::byte> Load(const std::string& file, std::string* name) {
  std::ifstream stream(std::string(SS_FORMAT_TESTDATA) + "/" + file);
  std::getline(stream, *name);
  std::vector<std::byte> bytes;
  for (std::string line; std::getline(stream, line);) {
    for (size_t i = 0; i + 1 < line.size(); i += 2) {
      bytes.push_back(static_cast<std::byte>(std::stoi(line.substr(i, 2), nullptr, 16)));
    }
  }
  return bytes;
}

class GoldenSealed : public ::testing::TestWithParam<std::string> {};

TEST_P(GoldenSealed, OpensToTheUnsealedObject) {
  const auto seal = segment_testing::MakeSeal({8, 7});
  for (const std::string cipher : {"gmac", "aes-256-gcm"}) {
    std::string text;
    std::vector<std::byte> sealed = Load(GetParam() + "." + cipher + ".segment.hex", &text);
    const ObjectName name = ParseObjectName(text).value();
    std::vector<std::byte> copy = sealed;
    const Status verified = VerifySealedSegment(copy, name, seal.get());
    ASSERT_TRUE(verified.ok()) << verified.ToString();
    // Decrypted in place: all behind the tag of its one block is the unsealed object's.
    const std::vector<std::byte> plain = Load(GetParam() + ".segment.hex", &text);
    constexpr size_t kHead = segment_testing::kHeaderBytes + segment_testing::kEntryBytes;
    EXPECT_EQ(std::vector(copy.begin() + kHead + segment_testing::kBlockTagBytes, copy.end()),
              std::vector(plain.begin() + kHead, plain.end()));

    const std::vector<std::byte> marker = Load(GetParam() + "." + cipher + ".marker.hex", &text);
    const auto read = ReadMarker(marker, ParseObjectName(text).value(), seal.get());
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(*read, *MarkerOf(sealed));
    EXPECT_EQ(seal->refused(), 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(Format, GoldenSealed,
                         ::testing::Values("raw_none", "lossless_zstd", "q8_deflate",
                                           "balanced_deflate", "balanced_none"),
                         [](const auto& golden) { return golden.param; });

}  // namespace
}  // namespace shadowserve
