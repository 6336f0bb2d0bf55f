#include "base/address.h"

#include <string>

#include "gtest/gtest.h"

namespace shadowserve {
namespace {

TEST(Address, TakesAnAbsoluteSocketPath) {
  const auto address = ParseAddress("unix:///run/shadowserve.sock");
  ASSERT_TRUE(address.ok()) << address.status().ToString();
  EXPECT_EQ(address->path, "/run/shadowserve.sock");
}

TEST(Address, TakesHostAndPort) {
  const auto address = ParseAddress("tcp://[::1]:7000");
  ASSERT_TRUE(address.ok()) << address.status().ToString();
  EXPECT_TRUE(address->path.empty());
  EXPECT_EQ(address->tcp.host, "[::1]");
  EXPECT_EQ(address->tcp.port, 7000);
}

TEST(Address, RefusesAndNamesWhatIsNoAddress) {
  for (const std::string text :
       {"", "unix://relative", "unix:/x", "http://a:1", "tcp://host", "tcp://:1", "tcp://a:65536",
        "tcp://a:", "tcp://a:1x", "tcp://::1:7", "tcp://a b:1"}) {
    const auto address = ParseAddress(text);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(Address, RefusesAPathThatNoSocketCanHave) {
  EXPECT_TRUE(ParseAddress("unix:///" + std::string(106, 'a')).ok());
  EXPECT_FALSE(ParseAddress("unix:///" + std::string(107, 'a')).ok());
}

}  // namespace
}  // namespace shadowserve
