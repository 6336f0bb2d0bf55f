#include "store/store_url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/disk_store.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

TEST(StoreUrl, SplitsItsParts) {
  const Result<StoreUrl> url = ParseStoreUrl("redis+cluster://user:pw@a:1,b:2/3?x=1&path=%2Fa%20b");
  ASSERT_TRUE(url.ok()) << url.status().ToString();
  EXPECT_EQ(url->scheme, "redis+cluster");
  EXPECT_EQ(url->authority, "user:pw@a:1,b:2");
  EXPECT_EQ(url->path, "/3");
  ASSERT_EQ(url->options.size(), 2u);
  EXPECT_EQ(url->options[1].name, "path");
  EXPECT_EQ(url->options[1].value, "/a b");
}

TEST(StoreUrl, UnescapesADirectory) {
  const Result<StoreUrl> url = ParseStoreUrl("disk:///a%3Fb/c?capacity=1MiB&fsync=1&io=sync");
  ASSERT_TRUE(url.ok());
  const Result<DiskStoreOptions> options = ParseDiskStoreUrl(*url);
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->path, "/a?b/c");
  EXPECT_EQ(options->capacity_bytes, kMiB);
  EXPECT_TRUE(options->fsync);
  EXPECT_EQ(options->io, DiskStoreOptions::Io::kSync);
}

TEST(StoreUrl, HasDefaults) {
  const Result<DiskStoreOptions> options = ParseDiskStoreUrl(*ParseStoreUrl("disk:///cache"));
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->capacity_bytes, 10 * kGiB);
  EXPECT_FALSE(options->fsync);
}

TEST(StoreUrl, AcceptsTheUrlsOfTheDocumentation) {
  for (const char* url : {"memory://", "memory://?capacity=1GiB", "disk:///var/cache/shadowserve",
                          "disk:///dir?capacity=10GiB", "faulty+memory://?fault.drop=0.5",
                          "faulty+disk:///d?fault.corrupt=0.01&capacity=1GiB&fault.seed=3"}) {
    EXPECT_TRUE(CheckStoreUrl(url).ok()) << CheckStoreUrl(url).ToString();
  }
}

struct BadUrl {
  std::string url;
  const char* names;  // the message must
};

class RefusedStoreUrl : public testing::TestWithParam<BadUrl> {};

TEST_P(RefusedStoreUrl, NamesThePartThatIsWrong) {
  const Status status = CheckStoreUrl(GetParam().url);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(GetParam().names));
  EXPECT_THAT(std::string(status.message()), testing::Not(testing::HasSubstr("secret")));
  EXPECT_EQ(OpenStore(GetParam().url, {}).status().code(), StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(
    Urls, RefusedStoreUrl,
    testing::Values(
        BadUrl{"", "scheme"}, BadUrl{"disk", "scheme"}, BadUrl{"://x", "scheme"},
        BadUrl{"DISK:///x", "scheme"}, BadUrl{"tape://u:secret@h/", "unknown scheme 'tape'"},
        BadUrl{"disk://host/x", "no host"}, BadUrl{"disk://", "path"}, BadUrl{"disk:///", "path"},
        BadUrl{"disk:////", "path"}, BadUrl{"disk:///a%2", "path: bad % escape"},
        BadUrl{"disk:///a%00", "path: bad % escape"}, BadUrl{"disk:///a b", "space"},
        BadUrl{"disk:///a?capacity", "'capacity' is not name=value"},
        BadUrl{"disk:///a?=1", "'=1' is not name=value"},
        BadUrl{"disk:///a?capacity=1&capacity=2", "'capacity' is given twice"},
        BadUrl{"disk:///a?capacity=lots", "option 'capacity': 'lots'"},
        BadUrl{"disk:///a?capacity=0", "option 'capacity'"},
        BadUrl{"disk:///a?fsync=yes", "option 'fsync'"}, BadUrl{"disk:///a?io=fast", "option 'io'"},
        BadUrl{"disk:///a?size=1", "unknown option 'size' of disk (known: capacity, fsync, io)"},
        BadUrl{"memory://secret", "memory has neither host nor path"},
        BadUrl{"memory:///p", "memory has neither host nor path"},
        BadUrl{"memory://?fault.drop=1", "unknown option 'fault.drop'"},
        BadUrl{"faulty+memory://?fault.drop=2", "option 'fault.drop'"},
        BadUrl{"faulty+memory://?fault.drop=nan", "option 'fault.drop'"},
        BadUrl{"faulty+memory://?fault.delay_ms=-1", "option 'fault.delay_ms'"},
        BadUrl{"faulty+memory://?fault.luck=1", "unknown option 'fault.luck'"},
        BadUrl{"faulty+faulty+memory://", "unknown scheme 'faulty+memory'"},
        BadUrl{"disk:///" + std::string(5000, 'a'), "longer"}));

}  // namespace
}  // namespace shadowserve
