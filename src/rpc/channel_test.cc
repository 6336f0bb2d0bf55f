#include "rpc/channel.h"

#include <gtest/gtest.h>

namespace shadowserve {
namespace {

TEST(GrpcTarget, NamesAUnixSocketByItsPath) {
  EXPECT_EQ(GrpcTarget(*ParseAddress("unix:///run/shadowserve.sock")),
            "unix:/run/shadowserve.sock");
}

TEST(GrpcTarget, KeepsTheBracketsOfAnIpv6Host) {
  EXPECT_EQ(GrpcTarget(*ParseAddress("tcp://[::1]:50051")), "[::1]:50051");
}

}  // namespace
}  // namespace shadowserve
