// Fail-over of a Redis Cluster under loads: what is not there for a while is a miss, never an error
// of another kind, and the hits come back by themselves.
#include <gtest/gtest.h>

#include "pipeline/pipeline_testing.h"
#include "store/redis_process_test.h"

namespace shadowserve::testing::failover_test {
namespace {

constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};
constexpr StoredForm kLossless{Profile::kLossless, CodecId::kZstd};
constexpr uint32_t kChunks = 12;
// Longer than any fail-over here takes, on a slow machine too.
constexpr auto kPatience = std::chrono::seconds(60);

class FailOver : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    SS_NEEDS_REDIS();
    cluster_ = std::make_unique<RedisClusterProcesses>();
    BenchOptions options;
    options.store = cluster_->url() + "?timeout_ms=500" + GetParam();
    bench_ = std::make_unique<PipelineBench>(options);
    from_.Fill(11);
    for (uint32_t i = 0; i < kChunks; ++i) {
      bench_->SaveChunk(i + 1, from_, KeyOf(i), {0, 1}, kLossless);
      bench_->Settle();
      ASSERT_EQ(bench_->events.saves.at(i + 1).outcome, SaveOutcome::kStored);
    }
    // Replication is asynchronous: what a replica had not seen would be lost with its master.
    for (size_t i = 0; i < cluster_->masters(); ++i) {
      (void)cluster_->master(i).Ask({"WAIT", "1", "5000"});
    }
  }

  // Loads every chunk, several at a time, calls `meanwhile` with the first ones under way, and
  // returns how many were hits.
  uint32_t LoadAll(const std::function<void()>& meanwhile = {}) {
    uint32_t hits = 0;
    for (uint32_t first = 0; first < kChunks; first += kAtOnce) {
      std::ranges::fill(to_.bytes, std::byte{0});
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        bench_->LoadChunks(++load_id_, to_, {KeyOf(first + i)}, {2 * i, 2 * i + 1}, kLossless);
      }
      if (first == 0 && meanwhile) {
        bench_->Turn();
        meanwhile();
      }
      bench_->Settle();
      for (uint32_t i = 0; i < kAtOnce; ++i) hits += IsHit(load_id_ - kAtOnce + 1 + i, i) ? 1 : 0;
    }
    return hits;
  }
  bool IsHit(uint64_t load_id, uint32_t i) {
    const Status& status = bench_->events.loads.at(load_id).status;
    if (status.ok()) {
      EXPECT_TRUE(SameTokens(from_, {0, 1}, to_, {2 * i, 2 * i + 1}, 0, 256));
      return true;
    }
    // Nothing is lost, so nothing may be taken for absent or damaged, and deleted as such.
    EXPECT_EQ(status.code(), StatusCode::kUnavailable) << status.ToString();
    return false;
  }
  // Loads until all are hits again; false when they are not in time.
  bool HitsComeBack() {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < end) {
      if (LoadAll() == kChunks) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }
  void TearDown() override {
    if (bench_ == nullptr) return;
    EXPECT_EQ(bench_->events.loads.size(), load_id_);
    EXPECT_EQ(bench_->events.repeated, 0u);
    EXPECT_EQ(bench_->fetch_slabs->free_count(), bench_->fetch_slabs->slab_count());
    for (size_t i = 0; i < static_cast<size_t>(CorruptLabel::kCount); ++i) {
      EXPECT_EQ(bench_->metrics.corrupt[static_cast<CorruptLabel>(i)].value(), 0u);
    }
  }

  static constexpr uint32_t kAtOnce = 4;
  static_assert(kChunks % kAtOnce == 0);

  std::unique_ptr<RedisClusterProcesses> cluster_;
  std::unique_ptr<PipelineBench> bench_;
  EngineMemory from_{kShape, 128, 2, Form::kCpuVec, true};
  EngineMemory to_{kShape, 128, 2 * kAtOnce, Form::kCpuVec, true};
  uint64_t load_id_ = 0;
};

TEST_P(FailOver, AKilledMasterCostsMissesUntilItsReplicaHasTakenOver) {
  ASSERT_EQ(LoadAll(), kChunks);
  (void)LoadAll([this] { cluster_->master(1).Kill(); });
  EXPECT_TRUE(HitsComeBack());
  // Saves of its share work again as well.
  for (uint32_t i = 0; i < kChunks; ++i) {
    bench_->SaveChunk(1000 + i, from_, KeyOf(1000 + i), {0, 1}, kLossless);
    bench_->Settle();
    EXPECT_EQ(bench_->events.saves.at(1000 + i).outcome, SaveOutcome::kStored);
  }
  // The old master comes back, empty, as a replica of its successor.
  cluster_->master(1).Start();
  EXPECT_EQ(LoadAll(), kChunks);
}

TEST_P(FailOver, OneByHandUnderLoadsCostsMissesAtMost) {
  (void)LoadAll([this] {
    ASSERT_EQ(cluster_->replica(0).Ask({"CLUSTER", "FAILOVER"}), "+OK\r\n");
  });
  for (int i = 0; i < 10; ++i) (void)LoadAll();
  EXPECT_TRUE(HitsComeBack());
  EXPECT_NE(cluster_->replica(0).Ask({"ROLE"}).find("master"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Reading, FailOver, ::testing::Values("", "&read_replicas=1"),
                         [](const auto& test) {
                           return std::string(test.index == 0 ? "masters" : "replicas_too");
                         });

}  // namespace
}  // namespace shadowserve::testing::failover_test
