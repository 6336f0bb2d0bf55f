#include "bench/emulated_link.h"

#include <poll.h>

#include <array>
#include <vector>

#include "gtest/gtest.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

constexpr double kGigabitsPerS = 8;  // a byte a nanosecond
constexpr size_t kBytes = 1'000'000;

class EmulatedLinkTest : public testing::Test {
 protected:
  void SetUp() override {
    for (uint8_t i = 0; i < names_.size(); ++i) {
      names_[i].key.fill(std::byte{i});
      ASSERT_EQ(Submit({StoreOp::kPut, names_[i], value_, i}), 1u);
      ASSERT_EQ(Poll(), 1u);
      ASSERT_EQ(done_[0].code, StatusCode::kOk);
    }
  }
  size_t Submit(const StoreRequest& request) { return store_->Submit(std::span(&request, 1)); }
  size_t Poll() { return store_->Poll(done_); }

  ManualClock clock_;
  const std::unique_ptr<Store> store_ =
      MakeLinkedStore(OpenStore("memory://?capacity=8MiB", {}).value(), kGigabitsPerS, &clock_)
          .value();
  std::array<ObjectName, 3> names_;
  std::vector<std::byte> value_ = std::vector<std::byte>(kBytes, std::byte{7});
  std::vector<std::byte> first_ = std::vector<std::byte>(kBytes);
  std::vector<std::byte> second_ = std::vector<std::byte>(kBytes);
  std::array<StoreCompletion, 4> done_;
};

TEST_F(EmulatedLinkTest, ObjectsArriveOneAfterAnotherAtTheRate) {
  uint64_t first_arrived = 0;
  uint64_t second_arrived = 0;
  ASSERT_EQ(Submit({StoreOp::kGet, names_[0], first_, 10, &first_arrived}), 1u);
  ASSERT_EQ(Submit({StoreOp::kGet, names_[1], second_, 11, &second_arrived}), 1u);
  EXPECT_EQ(Poll(), 0u);
  clock_.AdvanceNs(kBytes / 4);
  EXPECT_EQ(Poll(), 0u);
  EXPECT_EQ(first_arrived, kBytes / 4);
  EXPECT_EQ(second_arrived, 0u);
  clock_.AdvanceNs(kBytes);
  ASSERT_EQ(Poll(), 1u);
  EXPECT_EQ(done_[0].user_data, 10u);
  EXPECT_EQ(done_[0].bytes, kBytes);
  EXPECT_EQ(first_, value_);
  EXPECT_EQ(second_arrived, kBytes / 4);
  clock_.AdvanceNs(kBytes);
  ASSERT_EQ(Poll(), 1u);
  EXPECT_EQ(done_[0].user_data, 11u);
  EXPECT_EQ(second_, value_);
}

TEST_F(EmulatedLinkTest, TimeInWhichNothingWasAskedForIsLost) {
  clock_.AdvanceNs(10 * kNsPerSecond);
  ASSERT_EQ(Submit({StoreOp::kGet, names_[0], first_, 1}), 1u);
  EXPECT_EQ(Poll(), 0u);
  clock_.AdvanceNs(kBytes - 1);
  EXPECT_EQ(Poll(), 0u);
  clock_.AdvanceNs(1);
  EXPECT_EQ(Poll(), 1u);
}

TEST_F(EmulatedLinkTest, WhatIsNotThereTakesNoTimeOfTheLink) {
  ObjectName absent;
  absent.key.fill(std::byte{0xee});
  ASSERT_EQ(Submit({StoreOp::kGet, absent, first_, 1}), 1u);
  ASSERT_EQ(Poll(), 1u);
  EXPECT_EQ(done_[0].code, StatusCode::kNotFound);
}

TEST_F(EmulatedLinkTest, WakesWhoeverWaits) {
  ASSERT_EQ(Submit({StoreOp::kGet, names_[0], first_, 1}), 1u);
  EXPECT_EQ(Poll(), 0u);
  pollfd entry{store_->event_fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 10'000), 1);
  clock_.AdvanceNs(kBytes);
  EXPECT_EQ(Poll(), 1u);
  EXPECT_EQ(::poll(&entry, 1, 0), 0);
}

}  // namespace
}  // namespace shadowserve
