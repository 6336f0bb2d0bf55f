#include "store/faulty_store.h"

#include <gtest/gtest.h>

#include "store/memory_store.h"
#include "store/store_test_util.h"

namespace shadowserve {
namespace {

constexpr size_t kObjectBytes = 1000;

std::unique_ptr<Store> MakeStore(const FaultOptions& faults, const Clock* clock = nullptr) {
  return std::move(MakeFaultyStore(MakeMemoryStore({}), faults, clock)).value();
}

// What a fixed run of puts and gets sees: '.' right, 'x' kUnavailable, '0' not found, 'c' wrong
// contents, 't' too short.
std::string Drill(const FaultOptions& faults) {
  const auto store = MakeStore(faults);
  StoreDriver driver(store.get());
  std::string seen;
  for (uint64_t i = 0; i < 200; ++i) {
    const ObjectName name = SegmentName(i);
    const Bytes contents = MakeContents(name, kObjectBytes);
    seen += driver.Put(name, contents) == StatusCode::kOk ? '.' : 'x';
    StatusCode code = StatusCode::kInternal;
    const Bytes read = driver.Get(name, &code);
    if (code == StatusCode::kUnavailable) {
      seen += 'x';
    } else if (code == StatusCode::kNotFound) {
      seen += '0';
    } else {
      seen += read == contents ? '.' : read.size() == kObjectBytes ? 'c' : 't';
    }
  }
  return seen;
}

size_t Count(const std::string& text, char c) {
  return static_cast<size_t>(std::count(text.begin(), text.end(), c));
}

TEST(FaultyStore, ChangesNothingWithoutFaults) {
  EXPECT_EQ(Count(Drill({}), '.'), 400u);
}

TEST(FaultyStore, DropsRequests) {
  const std::string seen = Drill({.drop = 0.3});
  EXPECT_EQ(Count(seen, '.') + Count(seen, '0'), 400u);
  // 1 - 0.7^2 of 200 gets, plus or minus five standard deviations.
  EXPECT_NEAR(static_cast<double>(Count(seen, '0')), 102, 36);
}

TEST(FaultyStore, FailsRequests) {
  EXPECT_NEAR(static_cast<double>(Count(Drill({.fail = 0.3}), 'x')), 120, 46);
}

TEST(FaultyStore, FlipsBitsOfGets) {
  const std::string seen = Drill({.corrupt = 0.3});
  EXPECT_NEAR(static_cast<double>(Count(seen, 'c')), 60, 33);
  EXPECT_EQ(Count(seen, '.') + Count(seen, 'c'), 400u);
}

TEST(FaultyStore, CutsGetsShort) {
  EXPECT_NEAR(static_cast<double>(Count(Drill({.truncate = 0.3}), 't')), 60, 33);
}

TEST(FaultyStore, DoesTheSameForTheSameSeed) {
  const FaultOptions faults{.fail = 0.1, .drop = 0.1, .corrupt = 0.1, .truncate = 0.1, .seed = 9};
  EXPECT_EQ(Drill(faults), Drill(faults));
  FaultOptions other = faults;
  other.seed = 10;
  EXPECT_NE(Drill(faults), Drill(other));
}

TEST(FaultyStore, DamagesNeitherTheStoredObjectNorTheCallersPut) {
  const auto store = MakeStore({.corrupt = 0.5});
  StoreDriver driver(store.get());
  const Bytes contents = MakeContents(SegmentName(1), kObjectBytes);
  Bytes lent = contents;
  ASSERT_EQ(driver.Run(StoreOp::kPut, SegmentName(1), lent).code, StatusCode::kOk);
  EXPECT_EQ(lent, contents);
  int right = 0;
  for (int i = 0; i < 64; ++i) right += driver.Holds(SegmentName(1), contents) ? 1 : 0;
  EXPECT_GT(right, 0);
  EXPECT_LT(right, 64);
}

TEST(FaultyStore, HoldsCompletionsBackForTheDelay) {
  ManualClock clock;
  const auto store = MakeStore({.delay_ms = 20}, &clock);
  Bytes contents(10);
  const StoreRequest put{StoreOp::kPut, SegmentName(1), contents, 77};
  ASSERT_EQ(store->Submit(std::span(&put, 1)), 1u);
  std::array<StoreCompletion, 2> done;
  clock.AdvanceNs(20 * kNsPerMs - 1);
  EXPECT_EQ(store->Poll(done), 0u);
  clock.AdvanceNs(1);
  ASSERT_EQ(store->Poll(done), 1u);
  EXPECT_EQ(done[0].user_data, 77u);
}

}  // namespace
}  // namespace shadowserve
