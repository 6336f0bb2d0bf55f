// Loads through a codec engine by several threads, each with a queue of its own that misbehaves as
// told: the bytes are right, or the load fails; slabs, blocks and steps come home.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstring>

#include "pipeline/engine_testing.h"

namespace shadowserve::testing::engine_crew_test {
namespace {

using engine_test::EngineBench;
using engine_test::kDeflated;
using engine_test::kLimits;
using engine_test::kPagesPerChunk;
using engine_test::kShape;
using engine_test::SameBytes;

constexpr ModelShape kGrouped{5, 8, 128, KvDtype::kBf16, 2};  // two ranges, two groups
constexpr uint32_t kThreads = 3;
constexpr uint32_t kQueues = kThreads + 1;  // the last one is the test's own thread's
constexpr uint32_t kChunks = 3;             // to save one takes seconds under TSan
// Loads until something has happened that is up to the threads.
constexpr int kRoundsMax = 500;

struct CrewBench : EngineBench {
  struct Case {
    StoredForm form = kDeflated;
    ModelShape shape = kShape;
    bool direct = true;
    SealAlgorithm cipher = SealAlgorithm::kNone;
    EngineLimits limits = kLimits;
    uint32_t queues = kQueues;
    int64_t answer_ns = 60 * kNsPerSecond;
    uint32_t crew = kThreads;
  };
  CrewBench() : CrewBench(Case{}) {}
  explicit CrewBench(const Case& c)
      : EngineBench(c.form, c.limits, c.shape, c.direct, OptionsOf(c), kChunks, c.queues) {}
  static BenchOptions OptionsOf(const Case& c) {
    BenchOptions options{.crew = c.crew, .engine_answer_ns = c.answer_ns};
    if (c.cipher != SealAlgorithm::kNone) {
      options.keys = {KeyOfByte(1, 7)};
      options.cipher = c.cipher;
    }
    return options;
  }

  void LoadRightly() {
    const Status status = Load();
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_TRUE(Same());
  }
  // Loads, rightly, until `done` says so.
  template <typename Done>
  void LoadUntil(const Done& done) {
    int round = 0;
    for (; round < kRoundsMax && !done(); ++round) ASSERT_NO_FATAL_FAILURE(LoadRightly());
    ASSERT_TRUE(done());
  }
  void Mark() { std::memset(to.bytes.data(), 0xA5, to.bytes.size()); }
  bool Marked() const {
    // Each byte is as the one before it.
    return to.bytes[0] == std::byte{0xA5} &&
           std::memcmp(to.bytes.data(), to.bytes.data() + 1, to.bytes.size() - 1) == 0;
  }
};

class EngineCrewRoundTrip : public ::testing::TestWithParam<CrewBench::Case> {};

TEST_P(EngineCrewRoundTrip, PagesAreThoseOfSoftwareAndEveryThreadUsesTheEngine) {
  CrewBench bench(GetParam());
  ASSERT_TRUE(bench.Load().ok());
  const std::vector<std::byte> first = bench.to.bytes;
  for (int round = 0; round < kRoundsMax; ++round) {
    ASSERT_TRUE(bench.Load().ok());
    ASSERT_TRUE(SameBytes(bench.to.bytes, first));
    ASSERT_TRUE(bench.AtRest());
    bool all = true;
    for (uint32_t queue = 0; queue < kThreads; ++queue) all &= bench.engine.answered(queue) > 0;
    if (all) break;
    ASSERT_LT(round, kRoundsMax - 1) << "a thread never had a block";
  }
  EXPECT_EQ(bench.decoded(), bench.engine.asked.load());
  EXPECT_EQ(bench.fallbacks(), 0u);
  EXPECT_TRUE(bench.up());
  EXPECT_EQ(bench.bench.events.repeated, 0u);

  bench.bench.fetch_options.engine = nullptr;
  const auto& c = GetParam();
  bench.bench.Rekey(CrewBench::OptionsOf(c).keys, c.cipher);
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(SameBytes(bench.to.bytes, first));
}

INSTANTIATE_TEST_SUITE_P(
    Forms, EngineCrewRoundTrip,
    ::testing::Values(CrewBench::Case{}, CrewBench::Case{.shape = kGrouped},
                      CrewBench::Case{.shape = kGrouped, .direct = false},
                      CrewBench::Case{.form = {Profile::kQ8, CodecId::kDeflate}},
                      CrewBench::Case{.cipher = SealAlgorithm::kGmac},
                      CrewBench::Case{.shape = kGrouped, .cipher = SealAlgorithm::kAes256Gcm},
                      CrewBench::Case{.limits = {65'535, 3}},
                      CrewBench::Case{.limits = {65'535, 500}}));

TEST(EngineCrewTest, EveryThreadHasAQueueAndTheSlabsAreLentOnce) {
  CrewBench bench;
  EXPECT_EQ(bench.engine.open_queues(), kQueues);
  EXPECT_EQ(bench.bench.crew->engine_threads(), kThreads);
  EXPECT_TRUE(bench.bench.fetch->has_engine());
  EXPECT_EQ(bench.engine.memory.size(), 1 + kQueues);
  bench.LoadRightly();
  bench.bench.fetch.reset();
  bench.bench.crew.reset();
  EXPECT_EQ(bench.engine.open_queues(), 0u);
  EXPECT_EQ(bench.engine.memory.size(), 1u);
  EXPECT_FALSE(bench.engine.stopped);
}

TEST(EngineCrewTest, AThreadWithoutAQueueDecodesInSoftware) {
  for (const uint32_t queues : {0U, 1U, kThreads}) {
    CrewBench bench({.queues = queues});
    EXPECT_EQ(bench.bench.crew->engine_threads(), queues);
    EXPECT_FALSE(bench.bench.fetch->has_engine());
    EXPECT_EQ(bench.engine.memory.size(), 1 + queues);
    EXPECT_EQ(bench.up(), queues > 0);
    bench.LoadRightly();
    if (queues > 0) bench.LoadUntil([&] { return bench.decoded() > 0; });
    EXPECT_EQ(bench.fallbacks(), 0u);
    EXPECT_TRUE(bench.AtRest());
  }
}

TEST(EngineCrewTest, ZstdBlocksAreDecodedInSoftwareByAllThreads) {
  CrewBench bench({.form = {Profile::kLossless, CodecId::kZstd}});
  for (int round = 0; round < 5; ++round) bench.LoadRightly();
  EXPECT_EQ(bench.engine.asked, 0u);
  EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kCodec), 10u);
  EXPECT_TRUE(bench.up());
}

TEST(EngineCrewTest, AnyMixOfDelayRefusalFailureAndOrderGivesTheRightBytes) {
  for (const bool direct : {true, false}) {
    CrewBench bench({.shape = kGrouped, .direct = direct, .limits = {65'535, 7}});
    std::minstd_rand random(3);
    bench.engine.faults_of_queue.resize(kQueues);
    constexpr uint32_t kRounds = Rounds(8);
    for (uint32_t round = 0; round < kRounds; ++round) {
      for (FakeEngine::Faults& faults : bench.engine.faults_of_queue) {
        faults = {.refuse = static_cast<uint32_t>(random() % 60),
                  .fail = static_cast<uint32_t>(random() % 50),
                  .hold = static_cast<uint32_t>(random() % 60),
                  .reorder = random() % 2 == 0};
      }
      ASSERT_NO_FATAL_FAILURE(bench.LoadRightly()) << round;
      ASSERT_TRUE(bench.AtRest());
    }
    EXPECT_GT(bench.decoded(), 30 * kRounds);
    EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kFailed), 3 * kRounds);
    EXPECT_TRUE(bench.up());
  }
}

TEST(EngineCrewTest, OneThreadsQueueThatRefusesOrFailsIsNoLossForTheOthers) {
  for (const bool refuses : {true, false}) {
    CrewBench bench;
    bench.engine.faults_of_queue.resize(1);
    bench.engine.faults_of_queue[0] = {.refuse = refuses ? 100U : 0U, .fail = refuses ? 0U : 100U};
    const auto label = refuses ? CodecFallbackLabel::kRefused : CodecFallbackLabel::kFailed;
    bench.LoadUntil([&] { return bench.fallbacks(label) > 10 && bench.decoded() > 10; });
    EXPECT_EQ(bench.fallbacks(), bench.fallbacks(label));
    EXPECT_TRUE(bench.up());
    EXPECT_TRUE(bench.AtRest());
  }
}

// Late, or wrong, under load: that thread goes on in software, the others with the engine.
TEST(EngineCrewTest, AnEngineThatIsGoneForOneThreadGoesOnForTheOthers) {
  for (const bool silent : {true, false}) {
    CrewBench bench({.answer_ns = 2 * kNsPerMs});
    bench.engine.faults_of_queue.resize(1);
    if (silent) bench.engine.faults_of_queue[0].vanish_after = 5;
    if (!silent) bench.engine.faults_of_queue[0].answers_twice = true;
    bench.LoadUntil([&] { return !bench.up(); });
    EXPECT_EQ(bench.engine.outstanding() > 0, silent);
    EXPECT_EQ(bench.bench.metrics.codec_engine_inflight.value(), 0);
    EXPECT_EQ(bench.fallbacks(CodecFallbackLabel::kGone) > 0, silent || bench.fallbacks() > 0);
    const uint64_t answered = bench.engine.answered(0);
    const uint64_t decoded = bench.decoded();
    bench.LoadUntil([&] {
      bench.engine.WriteLate();
      return bench.decoded() > decoded + 100;
    });
    EXPECT_EQ(bench.engine.answered(0), answered);
    EXPECT_FALSE(bench.up());
    // The memory goes only once the engine is stopped.
    bench.bench.fetch.reset();
    EXPECT_FALSE(bench.engine.stopped);
    bench.bench.crew.reset();
    EXPECT_TRUE(bench.engine.stopped);
    EXPECT_EQ(bench.engine.memory.size(), 1u);
  }
}

TEST(EngineCrewTest, AnEngineThatIsGoneForAllThreadsLeavesAllToSoftware) {
  CrewBench bench({.answer_ns = kNsPerMs});
  bench.engine.faults = {.vanish_after = 0};
  bench.LoadUntil([&] { return !bench.up(); });
  for (uint32_t round = 0; round < Rounds(20); ++round) {
    const uint64_t id = bench.Start();
    while (!bench.bench.events.loads.contains(id)) {
      bench.engine.WriteLate();
      bench.bench.Turn();
    }
    EXPECT_TRUE(bench.bench.events.loads.at(id).status.ok());
    ASSERT_TRUE(bench.Same());
  }
  EXPECT_EQ(bench.decoded(), 0u);
}

TEST(EngineCrewTest, DamageIsOneMissAndCountedOnce) {
  CrewBench bench({.shape = kGrouped});
  bench.engine.faults = {.hold = 30, .reorder = true};
  for (const uint32_t damaged : {0U, kChunks - 1}) {
    for (const ObjectName& name : bench.bench.Objects()) {
      if (name.kind != ObjectKind::kSegment || name.key != KeyOf(damaged)) continue;
      bench.bench.Tamper(name, [](auto& bytes) { bytes.back() ^= std::byte{1}; });
      break;
    }
    const uint64_t before = bench.bench.metrics.corrupt[CorruptLabel::kBlock].value();
    EXPECT_EQ(bench.Load().code(), StatusCode::kCorrupt);
    EXPECT_EQ(bench.bench.metrics.corrupt[CorruptLabel::kBlock].value(), before + 1);
    EXPECT_TRUE(bench.AtRest());
    bench.SaveChunk(damaged);
    bench.LoadRightly();
  }
  EXPECT_EQ(bench.bench.events.repeated, 0u);
}

// The fence: once a load is reported, its pages and slabs belong to somebody else.
TEST(EngineCrewTest, AnEndedLoadIsReportedOnlyWhenNothingOfItIsOutAnyMore) {
  CrewBench bench({.shape = kGrouped});
  std::minstd_rand random(4);
  uint32_t met = 0;  // rounds in which steps were out when the load was ended
  constexpr uint32_t kRounds = Rounds(50);
  for (uint32_t round = 0; round < kRounds; ++round) {
    bench.engine.faults = {.hold = static_cast<uint32_t>(random() % 80), .reorder = true};
    const uint64_t id = bench.Start();
    const uint32_t turns = static_cast<uint32_t>(random() % 40);
    for (uint32_t turn = 0; turn < turns; ++turn) bench.bench.Turn();
    const bool out = bench.bench.steps_out();
    if (round % 2 == 0) {
      bench.bench.fetch->Cancel(id, StatusCode::kCancelled, "test");
    } else {
      bench.bench.fetch->CancelRank(bench.to.rank.get());
    }
    if (out) {
      EXPECT_FALSE(bench.bench.events.loads.contains(id));
      EXPECT_TRUE(bench.bench.fetch->UsesRank(bench.to.rank.get()));
      ++met;
    }
    while (!bench.bench.events.loads.contains(id)) bench.bench.Turn();
    EXPECT_EQ(bench.engine.outstanding(), 0u);
    bench.Mark();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(bench.Marked()) << round;
    bench.bench.Settle();
    ASSERT_TRUE(bench.AtRest());
  }
  EXPECT_GT(met, kRounds / 10);
  EXPECT_EQ(bench.bench.events.repeated, 0u);
  bench.engine.faults = {};
  bench.LoadRightly();
}

TEST(EngineCrewTest, AnEndedLoadWaitsNoLongerThanTheEngineMayStaySilent) {
  CrewBench bench({.shape = kGrouped, .answer_ns = 2 * kNsPerMs});
  bench.engine.faults = {.vanish_after = 0};
  const uint64_t id = bench.Start();
  while (bench.engine.asked == 0) bench.bench.Turn();
  bench.bench.fetch->Cancel(id, StatusCode::kCancelled, "test");
  bench.bench.Settle();
  EXPECT_EQ(bench.bench.events.loads.at(id).status.code(), StatusCode::kCancelled);
  EXPECT_EQ(bench.bench.fetch_slabs->free_count(), bench.bench.fetch_slabs->slab_count());
  bench.LoadRightly();
}

TEST(EngineCrewTest, WithNothingOutNobodyLooksForIt) {
  CrewBench bench;
  bench.engine.faults = {.hold = 50};
  for (int round = 0; round < 5; ++round) {
    bench.LoadRightly();
    const uint64_t polls = bench.engine.polls;
    std::this_thread::sleep_for(std::chrono::milliseconds(3));
    EXPECT_EQ(bench.engine.polls, polls);
  }
}

TEST(EngineCrewTest, BlocksCostNoAllocation) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  CrewBench bench;
  bench.engine.faults = {.refuse = 20, .fail = 20, .hold = 50, .reorder = true};
  for (int round = 0; round < 20; ++round) bench.LoadRightly();  // warm-up: every thread had some
  const size_t one = bench.LoadAllocations(1);
  EXPECT_EQ(bench.LoadAllocations(kChunks), one);
#endif
}

}  // namespace
}  // namespace shadowserve::testing::engine_crew_test
