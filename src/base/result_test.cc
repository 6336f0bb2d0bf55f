#include "base/result.h"

#include <gtest/gtest.h>

namespace shadowserve {
namespace {

Result<int> Half(int n) {
  if (n % 2 != 0) return Status(StatusCode::kInvalidArgument, "odd");
  return n / 2;
}

Result<int> Quarter(int n) {
  SS_TRY_ASSIGN(const int half, Half(n));
  SS_TRY_ASSIGN(const int quarter, Half(half));
  return quarter;
}

TEST(Result, CarriesTheValueThroughTryAssign) {
  EXPECT_EQ(*Quarter(8), 2);
}

TEST(Result, StopsAtTheFirstError) {
  const Result<int> result = Quarter(6);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
}

TEST(Result, AbortsWhenTheValueOfAnErrorIsRead) {
  EXPECT_DEATH((void)*Half(1), "invalid_argument: odd");
}

TEST(Status, OkIsFreeAndContextNamesThePlace) {
  EXPECT_EQ(sizeof(Status), sizeof(void*));
  EXPECT_EQ(OkStatus().WithContext("chunk 1").ToString(), "ok");
  EXPECT_EQ(Status(StatusCode::kCorrupt, "bad magic").WithContext("chunk 1").ToString(),
            "corrupt: chunk 1: bad magic");
}

}  // namespace
}  // namespace shadowserve
