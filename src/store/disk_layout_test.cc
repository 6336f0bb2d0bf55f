#include "store/disk_layout.h"

#include <gtest/gtest.h>

#include "store/store_test_util.h"

namespace shadowserve {
namespace {

struct Split {
  std::string shard;
  std::string file;
};
Split PathOf(const ObjectName& name) {
  const std::string path(ObjectPath(name).view());
  return {path.substr(0, 2), path.substr(3)};
}

TEST(DiskLayout, PutsAnObjectWhereItsNameSays) {
  ObjectName name = SegmentName(1).AsKind(ObjectKind::kMarker);
  name.key.fill(std::byte{0xA7});
  std::string hex;
  for (int i = 0; i < 32; ++i) hex += "a7";
  EXPECT_EQ(ObjectPath(name).view(), "a7/" + hex + ".lossless.deflate.l4+2.h0of1.mark");
}

TEST(DiskLayout, RecoversEveryNameFromItsPath) {
  for (uint64_t i = 0; i < 300; ++i) {
    ObjectName name = SegmentName(i);
    name.profile = kProfiles[i % kProfiles.size()];
    name.codec = std::array{CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}[i / 3 % 3];
    name.kind = i % 2 == 0 ? ObjectKind::kSegment : ObjectKind::kMarker;
    name.first_layer = static_cast<uint16_t>(i);
    name.head_groups = static_cast<uint16_t>(1 + i % 8);
    name.head_group = static_cast<uint16_t>(i % name.head_groups);
    const auto [shard, file] = PathOf(name);
    const Result<ObjectName> parsed = ParseObjectPath(shard, file);
    ASSERT_TRUE(parsed.ok()) << file;
    EXPECT_EQ(*parsed, name);
  }
}

TEST(DiskLayout, RefusesEveryOtherFile) {
  const auto [shard, file] = PathOf(SegmentName(1));
  const std::string other_shard = shard == "00" ? "01" : "00";
  EXPECT_FALSE(ParseObjectPath(other_shard, file).ok());
  EXPECT_FALSE(ParseObjectPath(shard, file + "x").ok());
  EXPECT_FALSE(ParseObjectPath(shard, file + ".").ok());
  EXPECT_FALSE(ParseObjectPath(shard, "x" + file).ok());
  EXPECT_FALSE(ParseObjectPath(shard, "").ok());
  EXPECT_FALSE(ParseObjectPath(shard, std::string(64, 'a')).ok());
  EXPECT_FALSE(ParseObjectPath(shard, std::string(255, 'a')).ok());
  for (size_t i = 0; i < file.size(); ++i) {
    std::string shorter = file;
    shorter.erase(i, 1);
    const Result<ObjectName> parsed = ParseObjectPath(shard, shorter);
    // "l4+2" without a digit may be another valid name, but never this one.
    EXPECT_FALSE(parsed.ok() && *parsed == SegmentName(1)) << i;
    std::string changed = file;
    changed[i] = ':';
    EXPECT_FALSE(ParseObjectPath(shard, changed).ok()) << i;
  }
}

TEST(DiskLayout, KnowsItsTemporaryFiles) {
  EXPECT_EQ(TempPath(17).view(), "tmp/ss1-17.part");
  EXPECT_TRUE(IsTempFile("ss1-17.part"));
  for (const char* foreign : {"ss1-.part", "ss1-1x.part", "ss1-1", "1.part", "ss1-1.part~", ""}) {
    EXPECT_FALSE(IsTempFile(foreign)) << foreign;
  }
}

}  // namespace
}  // namespace shadowserve
