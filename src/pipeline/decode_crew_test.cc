// Loads whose segments are decoded by several threads.
#include "pipeline/decode_crew.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>

#include "pipeline/pipeline_testing.h"
#include "store/allocation_count_test.h"

namespace shadowserve::testing::decode_crew_test {
namespace {

constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};    // one segment to a chunk
constexpr ModelShape kGrouped{6, 4, 64, KvDtype::kBf16, 2};  // two
constexpr StoredForm kForm{Profile::kLossless, CodecId::kZstd};
constexpr uint32_t kChunks = 6;
constexpr uint32_t kThreads = 3;

// Some chunks, saved, and an engine to load them into: its second half of pages.
struct Kept {
  PipelineBench bench;
  EngineMemory memory;
  std::vector<ChunkKey> keys;
  std::vector<uint32_t> from;
  std::vector<uint32_t> to;
  StoredForm form;

  explicit Kept(BenchOptions options, const ModelShape& shape = kShape, bool direct = true,
                StoredForm stored = kForm)
      : bench(options), memory(shape, 128, 4 * kChunks, Form::kCpuVec, direct), form(stored) {
    memory.Fill(5);
    for (uint32_t i = 0; i < kChunks; ++i) {
      keys.push_back(KeyOf(i));
      bench.SaveChunk(1000 + i, memory, KeyOf(i), {2 * i, 2 * i + 1}, form);
      bench.Settle();
      EXPECT_EQ(bench.events.saves.at(1000 + i).outcome, SaveOutcome::kStored);
    }
    from.resize(size_t{2} * kChunks);
    std::iota(from.begin(), from.end(), 0);
    to.resize(size_t{2} * kChunks);
    std::iota(to.begin(), to.end(), 2 * kChunks);
    Clear();
  }
  void Clear() {
    for (uint32_t layer = 0; layer < memory.rank->shape().layers; ++layer) {
      std::memset(TargetPages(layer).data(), 0xA5, TargetPages(layer).size());
    }
  }
  // Nothing has come since Clear.
  bool Clean() {
    for (uint32_t layer = 0; layer < memory.rank->shape().layers; ++layer) {
      const auto bytes = TargetPages(layer);
      // Each byte is as the one before it.
      if (bytes[0] != std::byte{0xA5} ||
          std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) != 0) {
        return false;
      }
    }
    return true;
  }
  std::span<std::byte> TargetPages(uint32_t layer) {
    const PageLayout& layout = memory.rank->layout();
    return std::span(memory.bytes)
        .subspan(layout.layer_offset[layer] + 2 * kChunks * layout.page_stride,
                 2 * kChunks * layout.page_stride);
  }
  void Start(uint64_t id) { bench.LoadChunks(id, memory, keys, to, form); }
  const LoadResult& Load(uint64_t id) {
    Start(id);
    bench.Settle();
    return bench.events.loads.at(id);
  }
  bool Same() { return SameTokens(memory, from, memory, to, 0, kChunks * kChunkTokens); }
  bool AllSlabsFree() const {
    return bench.fetch_slabs->free_count() == bench.fetch_slabs->slab_count();
  }
};

struct Case {
  ModelShape shape;
  StoredForm form;
  bool direct;
  SealAlgorithm cipher;
};

class CrewRoundTrip : public ::testing::TestWithParam<Case> {};

TEST_P(CrewRoundTrip, PagesGetBackTheValuesThatWereSaved) {
  const Case& c = GetParam();
  BenchOptions options{.crew = kThreads};
  if (c.cipher != SealAlgorithm::kNone) {
    options.keys = {KeyOfByte(1, 0x11)};
    options.cipher = c.cipher;
  }
  Kept kept(options, c.shape, c.direct, c.form);
  for (uint64_t id = 1; id <= 2; ++id) {
    kept.Clear();
    ASSERT_TRUE(kept.Load(id).status.ok()) << kept.bench.events.loads.at(id).status.ToString();
    EXPECT_TRUE(kept.Same());
  }
  EXPECT_EQ(kept.bench.metrics.kv_bytes[DirectionLabel::kIn].value(), kept.memory.bytes.size());
  EXPECT_TRUE(kept.AllSlabsFree());
  EXPECT_EQ(kept.bench.events.repeated, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    Forms, CrewRoundTrip,
    ::testing::Values(Case{kShape, kForm, true, SealAlgorithm::kNone},
                      Case{kShape, {Profile::kRaw, CodecId::kNone}, true, SealAlgorithm::kNone},
                      Case{kGrouped, kForm, true, SealAlgorithm::kGmac},
                      Case{kGrouped, kForm, false, SealAlgorithm::kNone},
                      Case{kShape, kForm, false, SealAlgorithm::kAes256Gcm}));

TEST(DecodeCrew, ATraceTellsWhichThreadDidWhat) {
  Kept kept({.crew = kThreads});
  kept.bench.metrics.trace.Begin();
  constexpr uint32_t kLoads = Rounds(20);
  for (uint64_t id = 1; id <= kLoads; ++id) ASSERT_TRUE(kept.Load(id).status.ok());
  std::array<uint64_t, kThreads + 1> spans = {};
  for (const StageSpan& span : kept.bench.metrics.trace.End().spans) {
    ASSERT_LE(span.thread, kThreads);
    if (span.stage == StageLabel::kDecode) ++spans[span.thread];
  }
  // The pipeline's own thread helps when the others are busy; how the rest is shared is theirs.
  EXPECT_GT(spans[1] + spans[2] + spans[3], 0u);
  EXPECT_EQ(std::accumulate(spans.begin(), spans.end(), uint64_t{0}),
            kLoads * kChunks * BlockCount(SegmentShapeOf(kShape, 0, 0)));
}

TEST(DecodeCrew, DamageIsOneMissAndCountedOnce) {
  Kept kept({.crew = kThreads});
  uint64_t id = 1;
  for (const CorruptLabel label : {CorruptLabel::kBlock, CorruptLabel::kSegment}) {
    for (const ObjectName& name : kept.bench.Objects()) {
      if (name.kind != ObjectKind::kSegment || name.key != KeyOf(3)) continue;
      kept.bench.Tamper(name, [label](auto& bytes) {
        (label == CorruptLabel::kBlock ? bytes.back() : bytes.front()) ^= std::byte{1};
      });
    }
    EXPECT_EQ(kept.Load(id++).status.code(), StatusCode::kCorrupt);
    EXPECT_EQ(kept.bench.metrics.corrupt[label].value(), 1u);
    EXPECT_TRUE(kept.AllSlabsFree());
    kept.bench.SaveChunk(100 + id, kept.memory, KeyOf(3), {6, 7}, kForm);
    kept.bench.Settle();
    EXPECT_TRUE(kept.Load(id++).status.ok());
  }
  EXPECT_EQ(kept.bench.events.repeated, 0u);
}

TEST(DecodeCrew, AForgedBlockIsRefusedByWhicheverThreadMeetsIt) {
  Kept kept({.crew = kThreads, .keys = {KeyOfByte(1, 0x11)}});
  for (const ObjectName& name : kept.bench.Objects()) {
    if (name.kind != ObjectKind::kSegment || name.key != KeyOf(5)) continue;
    kept.bench.Tamper(name, [](auto& bytes) { bytes.back() ^= std::byte{1}; });
  }
  EXPECT_EQ(kept.Load(1).status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(kept.bench.metrics.corrupt[CorruptLabel::kBlock].value() +
                kept.bench.metrics.corrupt[CorruptLabel::kAuth].value(),
            1u);
}

// The fence: once a load is reported, its pages belong to somebody else.
TEST(DecodeCrew, ACancelledLoadIsReportedOnlyWhenNoThreadWritesItsPagesAnyMore) {
  Kept kept({.crew = kThreads});
  uint32_t met = 0;  // rounds in which a step was out when the load was cancelled
  constexpr uint32_t kRounds = Rounds(100);
  for (uint64_t id = 1; id <= kRounds; ++id) {
    kept.Start(id);
    for (uint64_t turns = 0; turns < id % 20; ++turns) (void)kept.bench.Turn();
    const bool out = kept.bench.steps_out();
    kept.bench.fetch->Cancel(id, StatusCode::kCancelled, "test");
    if (out) {
      // Nobody has taken the step back yet.
      EXPECT_FALSE(kept.bench.events.loads.contains(id));
      ++met;
    }
    while (!kept.bench.events.loads.contains(id)) (void)kept.bench.Turn();
    kept.Clear();
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(kept.Clean()) << "round " << id;
    kept.bench.Settle();
    ASSERT_TRUE(kept.AllSlabsFree());
  }
  EXPECT_GT(met, kRounds / 10);
  EXPECT_EQ(kept.bench.events.repeated, 0u);
}

TEST(DecodeCrew, ManyLoadsOverFewSlabsAllEnd) {
  Kept kept({.fetch_slabs = 3, .joins = 3, .crew = kThreads}, kGrouped, false);
  for (uint64_t id = 1; id <= 12; ++id) kept.Start(id);
  kept.bench.Settle();
  ASSERT_EQ(kept.bench.events.loads.size(), 12u);
  for (const auto& [id, load] : kept.bench.events.loads) {
    EXPECT_TRUE(load.status.ok()) << id << ": " << load.status.ToString();
  }
  EXPECT_TRUE(kept.Same());
  EXPECT_TRUE(kept.AllSlabsFree());
}

TEST(DecodeCrew, SteadyStateAllocatesOnlyForTheRequestItself) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  Kept kept({.crew = kThreads});
  uint64_t id = 1;
  for (; id < 10; ++id) (void)kept.Load(id);  // warm-up
  const auto count = [&](size_t chunks) {
    kept.bench.LoadChunks(++id, kept.memory, {kept.keys.begin(), kept.keys.begin() + chunks},
                          {kept.to.begin(), kept.to.begin() + 2 * chunks}, kForm);
    const size_t started = CountAllocations().calls;
    kept.bench.Settle();
    EXPECT_TRUE(kept.bench.events.loads.at(id).status.ok());
    return CountAllocations().calls - started;
  };
  const size_t one = count(1);
  EXPECT_EQ(count(kChunks), one);
#endif
}

}  // namespace
}  // namespace shadowserve::testing::decode_crew_test
