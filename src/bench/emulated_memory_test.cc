#include "bench/emulated_memory.h"

#include <poll.h>

#include <vector>

#include "gtest/gtest.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

constexpr double kBytesPerS = 1e9;  // a byte a nanosecond
constexpr int64_t kAhead = EmulatedMemory::kAheadNs;

struct Memory {
  Metrics metrics;
  ManualClock clock;
  EmulatedMemory memory{kBytesPerS, &metrics, &clock};

  Memory() { memory.WaitNs(); }
  void Move(StageLabel stage, uint64_t bytes) { metrics.stage_bytes[stage].Add(bytes); }
};

TEST(EmulatedMemoryTest, WaitsUntilTheCardWouldHaveMovedAsMuch) {
  Memory m;
  m.Move(StageLabel::kDecode, kAhead + 5000);
  EXPECT_EQ(m.memory.WaitNs(), 5000);
  m.clock.AdvanceNs(4999);
  EXPECT_EQ(m.memory.WaitNs(), 1);
  m.clock.AdvanceNs(1);
  EXPECT_EQ(m.memory.WaitNs(), 0);
  EXPECT_EQ(m.memory.waited_ns(), 5000);
  // What is moved while it is busy comes on top.
  m.Move(StageLabel::kNetwork, 300);
  EXPECT_EQ(m.memory.WaitNs(), 300);
}

TEST(EmulatedMemoryTest, NeverWaitsBelowTheCardsRateHoweverRarelyItLooks) {
  Memory m;
  for (int i = 0; i < 50; ++i) {
    m.Move(StageLabel::kDequantize, 9 * kNsPerMs);
    m.clock.AdvanceNs(10 * kNsPerMs);
    EXPECT_EQ(m.memory.WaitNs(), 0);
  }
  EXPECT_EQ(m.memory.waited_ns(), 0);
}

TEST(EmulatedMemoryTest, KeepsTheRateOfTheCard) {
  Memory m;
  constexpr int64_t kStepNs = 10'000;
  int64_t moved = 0;
  const int64_t start_ns = m.clock.NowNs();
  while (m.clock.NowNs() - start_ns < kNsPerSecond) {
    if (m.memory.WaitNs() == 0) {
      m.Move(StageLabel::kDecode, 7 * kStepNs);
      moved += 7 * kStepNs;
    }
    m.clock.AdvanceNs(kStepNs);
  }
  EXPECT_NEAR(static_cast<double>(moved), 1e9, 0.01e9);
  EXPECT_GT(m.memory.waited_ns(), kNsPerSecond * 8 / 10);
}

TEST(EmulatedMemoryTest, CountsWhatACardStagesTwiceAndSavesNotAtAll) {
  Metrics metrics;
  metrics.stage_bytes[StageLabel::kNetwork].Add(1);
  metrics.stage_bytes[StageLabel::kDecode].Add(20);
  metrics.stage_bytes[StageLabel::kDequantize].Add(300);
  metrics.stage_bytes[StageLabel::kWrite].Add(4000);
  metrics.stage_bytes[StageLabel::kEncode].Add(50000);
  EXPECT_EQ(LoadBytesMoved(metrics), 4321u);
  EXPECT_EQ(LoadBytesMovedOnCard(metrics), 8321u);
}

TEST(ThrottledStoreTest, GivesNothingWhileTheMemoryIsBusyAndLosesNothing) {
  Memory m;
  const auto store =
      MakeThrottledStore(OpenStore("memory://?capacity=1MiB", {}).value(), &m.memory).value();
  std::vector<std::byte> value(100, std::byte{7});
  std::vector<std::byte> read(100);
  const ObjectName name;
  StoreCompletion done;
  const auto run = [&](const StoreRequest& request) {
    ASSERT_EQ(store->Submit(std::span(&request, 1)), 1u);
    ASSERT_EQ(store->Poll(std::span(&done, 1)), 1u);
    ASSERT_EQ(done.code, StatusCode::kOk);
  };
  run({StoreOp::kPut, name, value, 1});
  m.Move(StageLabel::kDecode, kAhead + 2 * kNsPerMs);
  const StoreRequest get{StoreOp::kGet, name, read, 2};
  ASSERT_EQ(store->Submit(std::span(&get, 1)), 1u);
  EXPECT_EQ(store->Poll(std::span(&done, 1)), 0u);
  // Who waits is woken when the memory has caught up.
  pollfd entry{store->event_fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&entry, 1, 10'000), 1);
  m.clock.AdvanceNs(2 * kNsPerMs);
  ASSERT_EQ(store->Poll(std::span(&done, 1)), 1u);
  EXPECT_EQ(done.user_data, 2u);
  EXPECT_EQ(read, value);
  EXPECT_EQ(::poll(&entry, 1, 0), 0);
}

}  // namespace
}  // namespace shadowserve
