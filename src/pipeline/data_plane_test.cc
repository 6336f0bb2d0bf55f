// The data plane with its own threads.
#include "pipeline/data_plane.h"

#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <numeric>

#include "codec/fake_engine_testing.h"
#include "pipeline/pipeline_testing.h"

namespace shadowserve::testing::data_plane_test {
namespace {

constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};  // one segment to a chunk
constexpr StoredForm kForm{Profile::kLossless, CodecId::kZstd};
constexpr auto kWait = std::chrono::seconds(30);

// A data plane over a memory store, and an engine's pages.
class DataPlaneTest : public ::testing::Test, public PipelineEvents {
 protected:
  static constexpr uint32_t kPages = 64;

  void Open(std::vector<int> cpus, BlockEngine* engine = nullptr) {
    DataPlane::Options options;
    options.fetch.engine = engine;
    options.fetch.engine_answer_ns = 60 * kNsPerSecond;
    options.slab_bytes = uint64_t{5} << 20;
    options.fetch_slabs = 8;
    options.save_slabs = 4;
    options.fetch.joins_inflight_max = 8;
    options.cpus = std::move(cpus);
    plane_ = DataPlane::Create(options, OpenStore("memory://?capacity=256MiB", {}).value(),
                               &metrics_, &clock_, this)
                 .value();
    memory_.Fill(9);
    plane_->Start();
  }
  void TearDown() override {
    if (plane_ != nullptr) plane_->Stop();
  }
  // Once: a load's end is told once.
  void SaveAndLoadTenChunks() {
    ASSERT_TRUE(plane_->Post([this] { StartSave(1, 0); }));
    WaitForSaves(1);
    std::vector<uint32_t> pages(20);
    std::iota(pages.begin(), pages.end(), 4);
    ASSERT_TRUE(plane_->Post([&] { StartLoad(2, pages); }));
    const LoadResult result = WaitForLoad();
    EXPECT_TRUE(result.status.ok()) << result.status.ToString();
    for (uint32_t page = 4; page < 24; page += 2) {
      ASSERT_TRUE(SameTokens(memory_, {0, 1}, memory_, {page, page + 1}, 0, 256)) << page;
    }
  }

  // On the data plane's thread.
  void StartSave(uint64_t id, uint32_t key) {
    SaveSpec spec;
    spec.save_id = id;
    spec.rank = memory_.rank.get();
    spec.form = form_;
    spec.key = KeyOf(key);
    spec.pages = {0, 1};
    EXPECT_TRUE(plane_->save().Start(std::move(spec)).ok());
  }
  void StartLoad(uint64_t id, std::vector<uint32_t> pages) {
    LoadSpec spec;
    spec.load_id = id;
    spec.rank = memory_.rank.get();
    spec.form = form_;
    spec.keys.assign(pages.size() / 2, KeyOf(0));
    spec.pages = std::move(pages);
    spec.granted = true;
    spec.deadline_ns = clock_.NowNs() + 20 * kNsPerSecond;
    EXPECT_TRUE(plane_->fetch().Start(std::move(spec)).ok());
  }
  LoadResult WaitForLoad() {
    auto loaded = loaded_.get_future();
    SS_CHECK(loaded.wait_for(kWait) == std::future_status::ready, "the load does not end");
    return loaded.get();
  }
  void WaitForSaves(uint32_t count) {
    const auto give_up = std::chrono::steady_clock::now() + kWait;
    while (saved_ < count) {
      SS_CHECK(std::chrono::steady_clock::now() < give_up, "the saves do not end");
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

  void OnLoadDone(const LoadResult& result) override {
    loaded_ns_ = clock_.NowNs();
    loaded_.set_value(result);
  }
  void OnSaveRead(uint64_t save_id, bool) override {
    EXPECT_TRUE(plane_->Post([this, save_id] { plane_->save().Confirm(save_id, true); }));
  }
  void OnSaveDone(const SaveResult& result) override {
    EXPECT_EQ(result.outcome, SaveOutcome::kStored);
    ++saved_;
  }

  SteadyClock clock_;
  Metrics metrics_;
  StoredForm form_ = kForm;
  EngineMemory memory_{kShape, 128, kPages, Form::kCpuVec, true};
  std::promise<LoadResult> loaded_;
  int64_t loaded_ns_ = 0;
  std::atomic<uint32_t> saved_ = 0;
  std::unique_ptr<DataPlane> plane_;
};

TEST_F(DataPlaneTest, OnSeveralCoresItSleepsUntilAStepComesBack) {
  Open(CrewCpus(3));
  ASSERT_TRUE(plane_->Post([this] { StartSave(1, 0); }));
  WaitForSaves(1);
  ASSERT_TRUE(plane_->Post([this] { StartLoad(2, {2, 3}); }));
  const LoadResult result = WaitForLoad();
  EXPECT_TRUE(result.status.ok()) << result.status.ToString();
  EXPECT_TRUE(SameTokens(memory_, {0, 1}, memory_, {2, 3}, 0, 256));
}

TEST_F(DataPlaneTest, ACodecEngineHasAQueueForEveryCore) {
  FakeEngine engine({65'535, 16}, 3);
  engine.faults = {.hold = 50, .reorder = true};
  form_ = {Profile::kLossless, CodecId::kDeflate};
  Open(CrewCpus(3), &engine);
  EXPECT_EQ(engine.open_queues(), 3u);
  SaveAndLoadTenChunks();
  EXPECT_EQ(metrics_.codec_engine_blocks.value(), 10 * BlockCount(SegmentShapeOf(kShape, 0, 0)));
  plane_.reset();
  EXPECT_EQ(engine.open_queues(), 0u);
  EXPECT_TRUE(engine.memory.empty());
}

TEST_F(DataPlaneTest, CoresBeyondTheQueuesOfACodecEngineDecodeInSoftware) {
  FakeEngine engine({65'535, 16}, 1);
  form_ = {Profile::kLossless, CodecId::kDeflate};
  Open(CrewCpus(3), &engine);
  EXPECT_EQ(engine.memory.size(), 2u);
  SaveAndLoadTenChunks();
  EXPECT_EQ(metrics_.codec_engine_up.value(), 1);
  plane_.reset();
  EXPECT_TRUE(engine.memory.empty());
}

TEST_F(DataPlaneTest, SavesWaitWhileFetchesHaveWork) {
  constexpr uint32_t kSaves = 8;
  Open({});
  ASSERT_TRUE(plane_->Post([this] { StartSave(1, 0); }));
  WaitForSaves(1);
  std::vector<uint32_t> pages(kPages - 2);
  std::iota(pages.begin(), pages.end(), 2);
  ASSERT_TRUE(plane_->Post([&] {
    metrics_.trace.Begin();
    for (uint32_t i = 0; i < kSaves; ++i) StartSave(10 + i, 1 + i);
    StartLoad(2, pages);
  }));
  EXPECT_TRUE(WaitForLoad().status.ok());
  WaitForSaves(1 + kSaves);
  uint32_t during = 0;
  uint32_t all = 0;
  for (const StageSpan& span : metrics_.trace.End().spans) {
    if (span.stage != StageLabel::kEncode) continue;
    ++all;
    if (span.end_ns <= loaded_ns_) ++during;
  }
  EXPECT_EQ(all, kSaves * BlockCount(SegmentShapeOf(kShape, 0, 0)));
  EXPECT_LT(during, all / 10);
}

}  // namespace
}  // namespace shadowserve::testing::data_plane_test
