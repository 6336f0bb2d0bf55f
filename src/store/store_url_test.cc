#include "store/store_url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "store/disk_store.h"
#include "store/redis_url.h"
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
                          "faulty+disk:///d?fault.corrupt=0.01&capacity=1GiB&fault.seed=3",
                          "redis://host:6379", "redis://user:password@host:6379/2",
                          "rediss://:p%40ss@[::1]:6379/?ca_file=/ca.pem&server_name=cache",
                          "redis+cluster://a:7000,b:7001,c:7002?connections=2&key_prefix=kv:",
                          "redis+cluster://a:7000?read_replicas=1",
                          "rediss+cluster://u:p@a:1?cert_file=/c&key_file=/k&ttl_s=3600",
                          "faulty+redis://host:1?fault.delay_ms=5&timeout_ms=100"}) {
    EXPECT_TRUE(CheckStoreUrl(url).ok()) << CheckStoreUrl(url).ToString();
  }
}

TEST(StoreUrl, ReadsTheRedisOnes) {
  const Result<RedisStoreOptions> options = ParseRedisStoreUrl(
      *ParseStoreUrl("rediss+cluster://us%3Aer:p%40s:s@h@a:1,[::1]:2?connections=7&ttl_s=9"
                     "&timeout_ms=50&connect_timeout_ms=60&key_prefix=x:&server_name=n"));
  ASSERT_TRUE(options.ok()) << options.status().ToString();
  EXPECT_TRUE(options->tls);
  EXPECT_TRUE(options->cluster);
  EXPECT_EQ(options->user, "us:er");
  EXPECT_EQ(options->password, "p@s:s@h");
  ASSERT_EQ(options->servers.size(), 2u);
  EXPECT_EQ(options->servers[1].host, "[::1]");
  EXPECT_EQ(options->servers[1].port, 2);
  EXPECT_EQ(options->connections, 7u);
  EXPECT_EQ(options->ttl_s, 9u);
  EXPECT_EQ(options->timeout_ms, 50u);
  EXPECT_EQ(options->connect_timeout_ms, 60u);
  EXPECT_EQ(options->key_prefix, "x:");
  EXPECT_EQ(options->tls_options.server_name, "n");
  EXPECT_EQ(DescribeRedisStore(*options), "rediss+cluster://a:1,[::1]:2");
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
        BadUrl{"redis://", "host: write redis://host:port"}, BadUrl{"redis://h", "'h' is not"},
        BadUrl{"redis://h:0", "'h:0' is not"}, BadUrl{"redis://h:x", "'h:x' is not"},
        BadUrl{"redis://secret@h:1", "write user:password@"},
        BadUrl{"redis://u:secret%4@h:1", "bad % escape"},
        BadUrl{"redis://u:secret@", "host: write redis://host:port"},
        BadUrl{"redis://a:1,b:2", "several hosts need redis+cluster"},
        BadUrl{"redis+cluster://a:1,", "'' is not host:port"},
        BadUrl{"redis://h:1/x", "database: 'x'"}, BadUrl{"redis://h:1/-1", "database: '-1'"},
        BadUrl{"redis+cluster://h:1/1", "database: a cluster has only 0"},
        BadUrl{"redis+cluster://h:1?read_replicas=2", "read_replicas"},
        BadUrl{"redis://h:1?read_replicas=1", "read_replicas"},
        BadUrl{"redis://h:1?connections=0", "'connections'"},
        BadUrl{"redis://h:1?connections=65", "'connections'"},
        BadUrl{"redis://h:1?timeout_ms=0", "'timeout_ms'"},
        BadUrl{"redis://h:1?key_prefix={a}", "'key_prefix'"},
        BadUrl{"redis://h:1?key_prefix=" + std::string(65, 'a'), "'key_prefix'"},
        BadUrl{"redis://u:secret@h:1?password_file=/f", "has a password already"},
        BadUrl{"redis://h:1?ca_file=/f", "unknown option 'ca_file'"},
        BadUrl{"rediss://h:1?cert_file=/f", "belong together"},
        BadUrl{"redis://h:1?capacity=1GiB", "unknown option 'capacity' of redis"},
        BadUrl{"disk:///" + std::string(5000, 'a'), "longer"}));

}  // namespace
}  // namespace shadowserve
