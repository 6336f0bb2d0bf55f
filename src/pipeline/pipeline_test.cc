// The pipelines over a real store and page memory in this process, turned by hand.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "pipeline/pipeline_testing.h"
#include "store/allocation_count_test.h"
#include "store/store_test_util.h"

namespace shadowserve::testing::pipeline_test {
namespace {

// 6 layers of 4 heads x 64: two head groups, several layer ranges only with large models, so a
// range holds all layers here; kWide has three ranges.
constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};
constexpr ModelShape kGrouped{6, 4, 64, KvDtype::kBf16, 2};
constexpr ModelShape kWide{5, 16, 128, KvDtype::kBf16, 1};
constexpr StoredForm kRaw{Profile::kRaw, CodecId::kNone};
constexpr StoredForm kLossless{Profile::kLossless, CodecId::kZstd};

struct Case {
  ModelShape shape;
  StoredForm form;
  uint32_t from_tokens;
  Form from;
  bool from_direct;
  uint32_t to_tokens;
  Form to;
  bool to_direct;
};

class RoundTrip : public ::testing::TestWithParam<Case> {};

TEST_P(RoundTrip, PagesOfAnyFormGetBackTheValuesThatWereSaved) {
  const Case& c = GetParam();
  PipelineBench bench;
  EngineMemory from(c.shape, c.from_tokens, 512 / c.from_tokens + 1, c.from, c.from_direct);
  EngineMemory to(c.shape, c.to_tokens, 512 / c.to_tokens + 1, c.to, c.to_direct);
  from.Fill(7);
  std::vector<uint32_t> from_pages(512 / c.from_tokens);
  std::vector<uint32_t> to_pages(512 / c.to_tokens);
  // Page tables out of order: pages 1.. backwards, page 0 stays unused.
  for (uint32_t i = 0; i < from_pages.size(); ++i) {
    from_pages[i] = static_cast<uint32_t>(from_pages.size()) - i;
  }
  for (uint32_t i = 0; i < to_pages.size(); ++i) {
    to_pages[i] = static_cast<uint32_t>(to_pages.size()) - i;
  }
  const size_t half = from_pages.size() / 2;
  bench.SaveChunk(1, from, KeyOf(0), {from_pages.begin(), from_pages.begin() + half}, c.form);
  bench.SaveChunk(2, from, KeyOf(1), {from_pages.begin() + half, from_pages.end()}, c.form);
  bench.Settle();
  ASSERT_EQ(bench.events.saves.at(1).outcome, SaveOutcome::kStored);
  ASSERT_EQ(bench.events.saves.at(2).outcome, SaveOutcome::kStored);

  bench.LoadChunks(3, to, {KeyOf(0), KeyOf(1)}, to_pages, c.form);
  bench.Settle();
  ASSERT_TRUE(bench.events.loads.at(3).status.ok()) << bench.events.loads.at(3).status.ToString();
  EXPECT_EQ(bench.events.loads.at(3).tokens, 512u);
  EXPECT_TRUE(SameTokens(from, from_pages, to, to_pages, 0, 512));
  EXPECT_EQ(bench.fetch_slabs->free_count(), bench.fetch_slabs->slab_count());
  EXPECT_EQ(bench.save_slabs->free_count(), bench.save_slabs->slab_count());
  EXPECT_EQ(bench.events.repeated, 0u);
}

INSTANTIATE_TEST_SUITE_P(
    AllWays, RoundTrip,
    ::testing::Values(Case{kShape, kRaw, 128, Form::kCpuVec, true, 128, Form::kCpuVec, true},
                      Case{kShape, kLossless, 128, Form::kCpuVec, true, 32, Form::kCpuVec, true},
                      Case{kShape, kLossless, 32, Form::kRows, true, 128, Form::kCpuVec, true},
                      Case{kShape, kLossless, 16, Form::kRows, false, 64, Form::kRows, false},
                      Case{kShape,
                           {Profile::kLossless, CodecId::kDeflate},
                           64,
                           Form::kCpuVec,
                           false,
                           32,
                           Form::kRows,
                           true},
                      Case{kGrouped, kLossless, 128, Form::kRows, true, 32, Form::kRows, false},
                      Case{kWide, kRaw, 128, Form::kRows, true, 128, Form::kCpuVec, false},
                      Case{kWide, kLossless, 256, Form::kCpuVec, true, 16, Form::kRows, true}));

class LossyRoundTrip : public ::testing::TestWithParam<StoredForm> {};

TEST_P(LossyRoundTrip, PagesOfEveryFormGetTheSameValues) {
  PipelineBench bench;
  EngineMemory from(kWide, 64, 4, Form::kRows, false);
  EngineMemory turned(kWide, 128, 2, Form::kCpuVec, true);
  EngineMemory rows(kWide, 32, 8, Form::kRows, false);
  from.Fill(7);
  const std::vector<uint32_t> from_pages = {3, 1, 0, 2};
  const std::vector<uint32_t> turned_pages = {1, 0};
  const std::vector<uint32_t> rows_pages = {7, 0, 6, 1, 5, 2, 4, 3};
  bench.SaveChunk(1, from, KeyOf(0), from_pages, GetParam());
  bench.Settle();
  ASSERT_EQ(bench.events.saves.at(1).outcome, SaveOutcome::kStored);
  bench.LoadChunks(2, turned, {KeyOf(0)}, turned_pages, GetParam());
  bench.LoadChunks(3, rows, {KeyOf(0)}, rows_pages, GetParam());
  bench.Settle();
  ASSERT_TRUE(bench.events.loads.at(2).status.ok()) << bench.events.loads.at(2).status.ToString();
  ASSERT_TRUE(bench.events.loads.at(3).status.ok()) << bench.events.loads.at(3).status.ToString();
  EXPECT_TRUE(SameTokens(turned, turned_pages, rows, rows_pages, 0, 256));
  EXPECT_FALSE(SameTokens(from, from_pages, rows, rows_pages, 0, 256));
}

INSTANTIATE_TEST_SUITE_P(AllForms, LossyRoundTrip,
                         ::testing::Values(StoredForm{Profile::kQ8, CodecId::kZstd},
                                           StoredForm{Profile::kBalanced, CodecId::kZstd},
                                           StoredForm{Profile::kBalanced, CodecId::kDeflate},
                                           StoredForm{Profile::kBalanced, CodecId::kNone}));

// Engines of two tensor-parallel sizes: the ranks of one save, the other one loads.
class HeadGroups : public ::testing::TestWithParam<bool> {
 protected:
  void Save(uint64_t id, const EngineMemory& rank) {
    bench_.SaveChunk(id, rank, KeyOf(0), {0, 1}, kLossless);
    bench_.Settle();
    EXPECT_EQ(bench_.events.saves.at(id).outcome, SaveOutcome::kStored);
  }
  uint32_t Present() {
    uint32_t present = 0;
    bench_.lookup.Start({kGrouped, kLossless, {KeyOf(0)}},
                        [&present](StatusCode, uint32_t chunks) { present = chunks; });
    return present;
  }
  StatusCode Load(uint64_t id, const EngineMemory& rank) {
    bench_.LoadChunks(id, rank, {KeyOf(0)}, {2, 3}, kLossless);
    bench_.Settle();
    return bench_.events.loads.at(id).status.code();
  }

  PipelineBench bench_;
  EngineMemory whole_{kGrouped, 128, 4, Form::kCpuVec, true};
  EngineMemory first_{kGrouped, 128, 4, Form::kRows, GetParam(), {0, 2}};
  EngineMemory second_{kGrouped, 128, 4, Form::kRows, GetParam(), {2, 2}};
};

TEST_P(HeadGroups, WhatTwoRanksSavedIsOneChunkOfAnEngineWithAllHeads) {
  first_.Fill(1);
  second_.Fill(2);
  Save(1, first_);
  EXPECT_EQ(Present(), 0u);
  EXPECT_EQ(Load(2, whole_), StatusCode::kNotFound);
  Save(3, second_);
  EXPECT_EQ(Present(), 1u);
  ASSERT_EQ(Load(4, whole_), StatusCode::kOk);
  EXPECT_TRUE(SameTokens(first_, {0, 1}, whole_, {2, 3}, 0, 256));
  EXPECT_TRUE(SameTokens(second_, {0, 1}, whole_, {2, 3}, 0, 256));
}

TEST_P(HeadGroups, EachOfTwoRanksLoadsItsHeadsOfWhatOneEngineSaved) {
  whole_.Fill(3);
  Save(1, whole_);
  ASSERT_EQ(Load(2, first_), StatusCode::kOk);
  ASSERT_EQ(Load(3, second_), StatusCode::kOk);
  EXPECT_TRUE(SameTokens(first_, {2, 3}, whole_, {0, 1}, 0, 256));
  EXPECT_TRUE(SameTokens(second_, {2, 3}, whole_, {0, 1}, 0, 256));
}

INSTANTIATE_TEST_SUITE_P(Devices, HeadGroups, ::testing::Bool());

// One saved chunk of kShape in `kLossless`, an engine to load it into, and their page tables.
struct Saved {
  PipelineBench bench;
  EngineMemory from{kShape, 128, 4, Form::kCpuVec, true};
  EngineMemory to{kShape, 128, 4, Form::kCpuVec, true};
  explicit Saved(const BenchOptions& options = {}) : bench(options) {
    from.Fill(3);
    bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kLossless);
    bench.Settle();
  }
  LoadResult Load(uint64_t id) {
    bench.LoadChunks(id, to, {KeyOf(0)}, {2, 3}, kLossless);
    bench.Settle();
    return bench.events.loads.at(id);
  }
};

TEST(FetchPipeline, LeavesPagesInFrontOfTheFirstTokenAlone) {
  Saved saved;
  saved.bench.LoadChunks(2, saved.to, {KeyOf(0)}, {2, 3}, kLossless, 128);
  saved.bench.Settle();
  ASSERT_TRUE(saved.bench.events.loads.at(2).status.ok());
  EXPECT_EQ(saved.bench.events.loads.at(2).tokens, 128u);
  EXPECT_TRUE(SameTokens(saved.from, {0, 1}, saved.to, {2, 3}, 128, 256));
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    EXPECT_EQ(saved.to.Value(2, layer, 0, false, 5, 5), 0) << "page 2 was written";
  }
}

TEST(FetchPipeline, AMissingSegmentFailsTheLoadAndTakesItsMarkerAway) {
  Saved saved;
  for (const ObjectName& name : saved.bench.Objects()) {
    if (name.kind == ObjectKind::kSegment) saved.bench.Delete(name);
  }
  EXPECT_EQ(saved.Load(2).status.code(), StatusCode::kNotFound);
  EXPECT_TRUE(saved.bench.Objects().empty());
  // The next save repairs it, and then it hits again.
  saved.bench.SaveChunk(3, saved.from, KeyOf(0), {0, 1}, kLossless);
  saved.bench.Settle();
  EXPECT_EQ(saved.bench.events.saves.at(3).outcome, SaveOutcome::kStored);
  EXPECT_TRUE(saved.Load(4).status.ok());
}

TEST(FetchPipeline, AnyDamageToAnObjectIsAMissThatIsCountedAndRepaired) {
  Saved saved;
  const size_t objects = saved.bench.Objects().size();
  ASSERT_EQ(objects, 2u);
  uint64_t id = 10;
  for (size_t object = 0; object < objects; ++object) {
    const std::vector<std::function<void(std::vector<std::byte>&)>> damages = {
        [](auto& bytes) { bytes.front() ^= std::byte{1}; },
        [](auto& bytes) { bytes[bytes.size() / 2] ^= std::byte{0x10}; },
        [](auto& bytes) { bytes.back() ^= std::byte{0x80}; },
        [](auto& bytes) { bytes.resize(bytes.size() - 1); },
        [](auto& bytes) { bytes.push_back(std::byte{0}); },
        [](auto& bytes) { bytes.clear(); },
    };
    for (size_t damage = 0; damage < damages.size(); ++damage) {
      std::vector<ObjectName> names = saved.bench.Objects();
      std::sort(names.begin(), names.end(),
                [](const auto& a, const auto& b) { return a.kind < b.kind; });
      saved.bench.Tamper(names[object], damages[damage]);
      const LoadResult result = saved.Load(id++);
      EXPECT_EQ(result.status.code(), StatusCode::kCorrupt) << object << " " << damage;
      EXPECT_TRUE(saved.bench.Objects().empty());
      saved.bench.SaveChunk(id, saved.from, KeyOf(0), {0, 1}, kLossless);
      saved.bench.Settle();
      ASSERT_EQ(saved.bench.events.saves.at(id++).outcome, SaveOutcome::kStored);
    }
  }
  const auto& corrupt = saved.bench.metrics.corrupt;
  EXPECT_EQ(corrupt[CorruptLabel::kSegment].value() + corrupt[CorruptLabel::kBlock].value() +
                corrupt[CorruptLabel::kMarker].value(),
            12u);
}

TEST(FetchPipeline, AValidObjectUnderAWrongNameIsRefused) {
  Saved saved;
  saved.from.Fill(99);
  saved.bench.SaveChunk(2, saved.from, KeyOf(1), {0, 1}, kLossless);
  saved.bench.Settle();
  std::vector<std::byte> other;
  for (const ObjectName& name : saved.bench.Objects()) {
    if (name.kind == ObjectKind::kSegment && name.key == KeyOf(1)) {
      saved.bench.Tamper(name, [&](auto& bytes) { other = bytes; });
    }
  }
  for (const ObjectName& name : saved.bench.Objects()) {
    if (name.kind == ObjectKind::kSegment && name.key == KeyOf(0)) {
      saved.bench.Tamper(name, [&](auto& bytes) { bytes = other; });
    }
  }
  EXPECT_EQ(saved.Load(3).status.code(), StatusCode::kCorrupt);
}

TEST(FetchPipeline, WritesNothingBeforeTheGrantAndHoldsAtMostHalfOfTheSlabs) {
  Saved saved({.fetch_slabs = 4, .joins = 4});
  for (uint32_t i = 1; i < 4; ++i) {
    saved.bench.SaveChunk(i + 1, saved.from, KeyOf(i), {0, 1}, kLossless);
  }
  saved.bench.Settle();
  saved.bench.LoadChunks(10, saved.to, {KeyOf(0), KeyOf(1), KeyOf(2), KeyOf(3)},
                         {0, 1, 0, 1, 0, 1, 0, 1}, kLossless, 0, /*granted=*/false);
  saved.bench.Settle();
  EXPECT_TRUE(std::all_of(saved.to.bytes.begin(), saved.to.bytes.end(),
                          [](std::byte b) { return b == std::byte{0}; }));
  EXPECT_EQ(saved.bench.fetch_slabs->free_count(), 2u);
  // Granted work goes on beside it.
  EXPECT_TRUE(saved.Load(11).status.ok());
  saved.bench.fetch->Grant(10);
  saved.bench.Settle();
  EXPECT_TRUE(saved.bench.events.loads.at(10).status.ok());
  EXPECT_EQ(saved.bench.fetch_slabs->free_count(), 4u);
}

TEST(FetchPipeline, ACancelledLoadEndsOnceAndGivesItsSlabsBack) {
  Saved saved;
  saved.bench.LoadChunks(2, saved.to, {KeyOf(0)}, {2, 3}, kLossless, 0, /*granted=*/false);
  (void)saved.bench.Turn();
  saved.bench.fetch->Cancel(2, StatusCode::kCancelled, "test");
  saved.bench.fetch->Cancel(2, StatusCode::kCancelled, "again");
  saved.bench.Settle();
  EXPECT_EQ(saved.bench.events.loads.at(2).status.code(), StatusCode::kCancelled);
  EXPECT_EQ(saved.bench.events.repeated, 0u);
  EXPECT_EQ(saved.bench.fetch_slabs->free_count(), saved.bench.fetch_slabs->slab_count());
}

// A chunk whose segment arrives by hand; the marker is there.
struct Stepped : Saved {
  Stepped() : Saved({.by_hand = true}) {
    bench.stepped().stepping = true;
    bench.LoadChunks(2, to, {KeyOf(0)}, {2, 3}, kLossless);
    Turns();
  }
  void Turns() {
    for (int i = 0; i < 100; ++i) (void)bench.Turn();
  }
  uint64_t size() { return bench.stepped().object().size(); }
  uint64_t blocks_read() const { return bench.metrics.stage_bytes[StageLabel::kDecode].value(); }
  bool ended() const { return bench.events.loads.contains(2); }
};

TEST(FetchPipeline, DecodesWhatHasArrivedWhileTheRestIsOnItsWay) {
  Stepped load;
  load.bench.stepped().Arrive(64);  // part of the header
  load.Turns();
  EXPECT_EQ(load.blocks_read(), 0u);
  load.bench.stepped().Arrive(load.size() / 2);
  load.Turns();
  const uint64_t half = load.blocks_read();
  EXPECT_GT(half, 0u);
  load.bench.stepped().Arrive(load.size());
  load.Turns();
  EXPECT_GT(load.blocks_read(), half);
  EXPECT_FALSE(load.ended());  // nothing is reported before the read is over
  load.bench.stepped().End(StatusCode::kOk, load.size());
  load.bench.Settle();
  ASSERT_TRUE(load.ended());
  EXPECT_TRUE(load.bench.events.loads.at(2).status.ok());
  EXPECT_TRUE(SameTokens(load.from, {0, 1}, load.to, {2, 3}, 0, 256));
}

TEST(FetchPipeline, ATraceShowsPagesWrittenBeforeTheSegmentHasArrived) {
  Stepped load;
  StageTrace& trace = load.bench.metrics.trace;
  trace.Begin();
  load.bench.clock.AdvanceNs(1000);
  load.bench.stepped().Arrive(load.size() / 2);
  load.Turns();
  load.bench.clock.AdvanceNs(1000);
  load.bench.stepped().Arrive(load.size());
  load.bench.stepped().End(StatusCode::kOk, load.size());
  load.bench.Settle();
  ASSERT_TRUE(load.ended());
  const StageTrace::Taken taken = trace.End();
  EXPECT_EQ(taken.dropped, 0u);
  const auto first = [&](StageLabel stage) {
    const auto found = std::ranges::find(taken.spans, stage, &StageSpan::stage);
    EXPECT_NE(found, taken.spans.end());
    return found == taken.spans.end() ? StageSpan{} : *found;
  };
  const StageSpan read = first(StageLabel::kNetwork);
  const StageSpan decode = first(StageLabel::kDecode);
  const StageSpan write = first(StageLabel::kDequantize);  // straight into the pages
  EXPECT_LT(read.start_ns, decode.start_ns);
  EXPECT_LE(decode.end_ns, write.start_ns);
  EXPECT_LT(write.end_ns, read.end_ns);
  EXPECT_EQ(write.chunk, read.chunk);
  EXPECT_FALSE(trace.on());
}

TEST(StageTrace, KeepsTheFirstSpansAndCountsTheRest) {
  StageTrace trace;
  trace.Begin();
  for (size_t i = 0; i < StageTrace::kSpansMax + 3; ++i) {
    trace.Add({.start_ns = static_cast<int64_t>(i)});
  }
  const StageTrace::Taken taken = trace.End();
  EXPECT_EQ(taken.spans.size(), StageTrace::kSpansMax);
  EXPECT_EQ(taken.spans.back().start_ns, static_cast<int64_t>(StageTrace::kSpansMax) - 1);
  EXPECT_EQ(taken.dropped, 3u);
}

TEST(FetchPipeline, AReadThatFailsAfterAllItsBlocksFailsTheLoad) {
  for (const auto& [code, longer] :
       {std::pair(StatusCode::kUnavailable, 0), {StatusCode::kOk, 1}}) {
    Stepped load;
    load.bench.stepped().Arrive(load.size());
    load.Turns();
    EXPECT_FALSE(load.ended());
    load.bench.stepped().End(code, load.size() + static_cast<uint64_t>(longer));
    load.bench.Settle();
    ASSERT_TRUE(load.ended());
    EXPECT_FALSE(load.bench.events.loads.at(2).status.ok());
    EXPECT_EQ(load.bench.fetch_slabs->free_count(), load.bench.fetch_slabs->slab_count());
  }
}

TEST(FetchPipeline, ABadBlockEndsTheLoadOnlyWhenTheReadOfItsSlabIsOver) {
  Stepped load;
  const uint64_t half = load.size() / 2;
  load.bench.stepped().object()[half - 1] ^= std::byte{1};
  load.bench.stepped().Arrive(half);
  load.bench.stepped().Arrive(load.size() - 1);
  load.Turns();
  EXPECT_FALSE(load.ended());  // the store still writes into the slab
  EXPECT_LT(load.bench.fetch_slabs->free_count(), load.bench.fetch_slabs->slab_count());
  load.bench.stepped().End(StatusCode::kOk, load.size());
  load.bench.Settle();
  ASSERT_TRUE(load.ended());
  EXPECT_EQ(load.bench.events.loads.at(2).status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(load.bench.metrics.corrupt[CorruptLabel::kBlock].value(), 1u);
  EXPECT_EQ(load.bench.fetch_slabs->free_count(), load.bench.fetch_slabs->slab_count());
  EXPECT_EQ(load.bench.events.repeated, 0u);
}

TEST(FetchPipeline, ACancelledLoadTouchesNoPageWhileItsReadComesHome) {
  Stepped load;
  load.bench.stepped().Arrive(load.size() / 2);
  load.Turns();
  const uint64_t before = load.blocks_read();
  load.bench.fetch->Cancel(2, StatusCode::kCancelled, "test");
  load.bench.stepped().Arrive(load.size());
  load.Turns();
  EXPECT_EQ(load.blocks_read(), before);
  EXPECT_FALSE(load.ended());
  load.bench.stepped().End(StatusCode::kOk, load.size());
  load.bench.Settle();
  EXPECT_EQ(load.bench.events.loads.at(2).status.code(), StatusCode::kCancelled);
  EXPECT_EQ(load.bench.events.repeated, 0u);
}

TEST(FetchPipeline, ALoadOverItsDeadlineFailsWithoutItsGrant) {
  Saved saved;
  saved.bench.LoadChunks(2, saved.to, {KeyOf(0)}, {2, 3}, kLossless, 0, /*granted=*/false);
  saved.bench.Settle();
  saved.bench.clock.AdvanceNs(2 * kNsPerSecond);
  saved.bench.Settle();
  EXPECT_EQ(saved.bench.events.loads.at(2).status.code(), StatusCode::kDeadline);
  EXPECT_EQ(saved.bench.fetch_slabs->free_count(), saved.bench.fetch_slabs->slab_count());
}

TEST(FetchPipeline, LoadsOfARankThatLeavesEndUnavailable) {
  Saved saved;
  saved.bench.LoadChunks(2, saved.to, {KeyOf(0)}, {2, 3}, kLossless);
  saved.bench.fetch->CancelRank(saved.to.rank.get());
  saved.bench.Settle();
  EXPECT_EQ(saved.bench.events.loads.at(2).status.code(), StatusCode::kUnavailable);
  EXPECT_FALSE(saved.bench.fetch->UsesRank(saved.to.rank.get()));
}

TEST(FetchPipeline, RefusesALoadThatDoesNotFitItsRank) {
  Saved saved;
  LoadSpec spec;
  spec.rank = saved.to.rank.get();
  spec.form = kLossless;
  EXPECT_EQ(saved.bench.fetch->Start(LoadSpec(spec)).code(), StatusCode::kInvalidArgument);
  spec.keys = {KeyOf(0)};
  spec.pages = {1};
  EXPECT_EQ(saved.bench.fetch->Start(LoadSpec(spec)).code(), StatusCode::kInvalidArgument);
  spec.pages = {1, 4};  // four pages are registered: 0..3
  EXPECT_EQ(saved.bench.fetch->Start(LoadSpec(spec)).code(), StatusCode::kInvalidArgument);
  spec.pages = {1, 2};
  spec.first_token = 100;
  EXPECT_EQ(saved.bench.fetch->Start(LoadSpec(spec)).code(), StatusCode::kInvalidArgument);
}

TEST(FetchPipeline, ManyMixedLoadsAndSavesOverFewSlabsAllEnd) {
  PipelineBench bench({.fetch_slabs = 3, .save_slabs = 2, .joins = 3});
  EngineMemory direct(kShape, 128, 64, Form::kCpuVec, true);
  EngineMemory transfer(kGrouped, 64, 128, Form::kRows, false);
  direct.Fill(1);
  transfer.Fill(2);
  const StoredForm forms[] = {kRaw,
                              kLossless,
                              {Profile::kQ8, CodecId::kDeflate},
                              {Profile::kBalanced, CodecId::kZstd},
                              {Profile::kBalanced, CodecId::kNone}};
  for (uint32_t i = 0; i < 24; ++i) {
    bench.SaveChunk(100 + i, i % 2 == 0 ? direct : transfer, KeyOf(i),
                    i % 2 == 0 ? std::vector<uint32_t>{0, 1} : std::vector<uint32_t>{0, 1, 2, 3},
                    forms[i % std::size(forms)]);
  }
  // Loads before, beside and after the saves they want: hits and misses, all must end.
  for (uint32_t i = 0; i < 48; ++i) {
    const uint32_t chunk = i % 24;
    bench.LoadChunks(
        200 + i, chunk % 2 == 0 ? direct : transfer, {KeyOf(chunk)},
        chunk % 2 == 0 ? std::vector<uint32_t>{2, 3} : std::vector<uint32_t>{4, 5, 6, 7},
        forms[chunk % std::size(forms)]);
    if (i == 23) bench.Settle();
  }
  bench.Settle();
  EXPECT_EQ(bench.events.loads.size(), 48u);
  EXPECT_EQ(bench.events.saves.size(), 24u);
  for (uint32_t i = 24; i < 48; ++i) {
    EXPECT_TRUE(bench.events.loads.at(200 + i).status.ok())
        << i << " " << bench.events.loads.at(200 + i).status.ToString();
  }
  EXPECT_EQ(bench.events.repeated, 0u);
  EXPECT_EQ(bench.fetch_slabs->free_count(), 3u);
  EXPECT_EQ(bench.save_slabs->free_count(), 2u);
}

TEST(FetchPipeline, ASmallLoadDoesNotStandBehindAHugeOne) {
  constexpr uint32_t kHugeChunks = 48;
  PipelineBench bench;
  EngineMemory memory(kShape, 128, 2 * kHugeChunks + 4, Form::kCpuVec, true);
  memory.Fill(3);
  bench.SaveChunk(1, memory, KeyOf(0), {0, 1}, kLossless);
  bench.Settle();
  std::vector<uint32_t> pages(size_t{2} * kHugeChunks);
  std::iota(pages.begin(), pages.end(), 4);
  bench.LoadChunks(2, memory, std::vector<ChunkKey>(kHugeChunks, KeyOf(0)), pages, kLossless);
  for (int i = 0; i < 5; ++i) (void)bench.Turn();  // all that may be in flight is the huge one's
  bench.LoadChunks(3, memory, {KeyOf(0)}, {2, 3}, kLossless);
  const auto turns_until_done = [&bench](uint64_t load_id) {
    int turns = 0;
    for (; turns < 100'000 && !bench.events.loads.contains(load_id); ++turns) (void)bench.Turn();
    return turns;
  };
  const int small = turns_until_done(3);
  EXPECT_FALSE(bench.events.loads.contains(2));
  const int huge = turns_until_done(2);
  EXPECT_TRUE(bench.events.loads.at(3).status.ok());
  EXPECT_TRUE(bench.events.loads.at(2).status.ok());
  // It waits for what was in flight and its own chunk, beside some of the other's.
  EXPECT_LT(4 * small, huge);
}

TEST(FetchPipeline, ASessionWithOneLoadGetsAsMuchAsOneWithMany) {
  constexpr uint32_t kLoads = 8;
  constexpr uint32_t kLoadChunks = 12;
  PipelineBench bench;
  EngineMemory crowd(kShape, 128, 2 * kLoadChunks + 4, Form::kCpuVec, true);
  EngineMemory single(kShape, 128, 2 * kLoadChunks + 4, Form::kCpuVec, true);
  crowd.Fill(3);
  bench.SaveChunk(1, crowd, KeyOf(0), {0, 1}, kLossless);
  bench.Settle();
  std::vector<uint32_t> pages(size_t{2} * kLoadChunks);
  std::iota(pages.begin(), pages.end(), 4);
  const std::vector<ChunkKey> keys(kLoadChunks, KeyOf(0));
  for (uint32_t i = 0; i < kLoads; ++i) bench.LoadChunks(10 + i, crowd, keys, pages, kLossless);
  for (int i = 0; i < 5; ++i) (void)bench.Turn();
  const uint64_t before = bench.metrics.kv_bytes[DirectionLabel::kIn].value();
  bench.LoadChunks(30, single, keys, pages, kLossless);
  for (int i = 0; i < 100'000 && !bench.events.loads.contains(30); ++i) (void)bench.Turn();
  const uint64_t moved = bench.metrics.kv_bytes[DirectionLabel::kIn].value() - before;
  ASSERT_TRUE(bench.events.loads.at(30).status.ok());
  // Half of everything, and what was in flight.
  EXPECT_LE(moved, 2 * bench.events.loads.at(30).kv_bytes * (kLoadChunks + 4) / kLoadChunks);
  bench.Settle();
  EXPECT_EQ(bench.events.loads.size(), kLoads + 1);
}

TEST(FetchPipeline, SteadyStateAllocatesOnlyForTheRequestItself) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  Saved saved;
  // Warm-up: every join of the pool is used once.
  saved.bench.LoadChunks(2, saved.to, std::vector<ChunkKey>(8, KeyOf(0)),
                         {2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3}, kLossless);
  saved.bench.Settle();
  // The same load, once with one chunk and once with four: what a chunk costs is the difference.
  const auto count = [&](uint64_t id, size_t chunks) {
    std::vector<uint32_t> pages;
    for (size_t i = 0; i < chunks; ++i) pages.insert(pages.end(), {2, 3});
    const size_t before = CountAllocations().calls;
    saved.bench.LoadChunks(id, saved.to, std::vector<ChunkKey>(chunks, KeyOf(0)), pages, kLossless);
    const size_t started = CountAllocations().calls;
    saved.bench.Settle();
    EXPECT_TRUE(saved.bench.events.loads.at(id).status.ok());
    return std::pair(started - before, CountAllocations().calls - started);
  };
  const auto one = count(3, 1);
  const auto four = count(4, 4);
  EXPECT_EQ(one.second, four.second);
#endif
}

TEST(SavePipeline, SteadyStateAllocatesOnlyForTheRequestItself) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  const TempDir directory;
  PipelineBench bench({.store = "disk://" + directory.path()});
  EngineMemory from(kWide, 128, 4, Form::kCpuVec, true);
  from.Fill(5);
  bench.events.reads.reserve(100);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kLossless);
  bench.Settle();
  ASSERT_EQ(bench.Objects().size(), 6u);  // three layer ranges, each with its marker
  // The same save, with one and with three ranges to store: what a range costs is the difference.
  const auto count = [&](uint64_t id, uint16_t ranges) {
    for (const ObjectName& name : bench.Objects()) {
      if (name.first_layer < 2 * ranges) bench.Delete(name);
    }
    EXPECT_EQ(bench.Objects().size(), 6u - 2u * ranges);
    bench.SaveChunk(id, from, KeyOf(0), {0, 1}, kLossless);
    const size_t started = CountAllocations().calls;
    bench.Settle();
    const size_t calls = CountAllocations().calls - started;
    EXPECT_EQ(bench.events.saves.at(id).outcome, SaveOutcome::kStored);
    return calls;
  };
  (void)count(2, 3);  // warm-up
  const size_t one = count(3, 1);
  EXPECT_EQ(count(4, 3), one);
#endif
}

TEST(SavePipeline, PublishesNothingBeforeTheEngineSaysThatItHeldThePages) {
  PipelineBench bench;
  bench.confirm = false;
  EngineMemory from(kShape, 128, 4, Form::kCpuVec, true);
  from.Fill(5);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kLossless);
  bench.Settle();
  ASSERT_EQ(bench.events.reads.size(), 1u);
  EXPECT_TRUE(bench.events.reads[0].second);
  EXPECT_TRUE(bench.Objects().empty());
  bench.save->Confirm(1, true);
  bench.Settle();
  EXPECT_EQ(bench.Objects().size(), 2u);
}

TEST(SavePipeline, ARevokedSaveStoresNothing) {
  PipelineBench bench;
  bench.held = false;
  EngineMemory from(kShape, 128, 4, Form::kCpuVec, true);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kLossless);
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(1).outcome, SaveOutcome::kDropped);
  EXPECT_EQ(bench.events.saves.at(1).reason, DropLabel::kNotHeld);
  EXPECT_TRUE(bench.Objects().empty());
  EXPECT_EQ(bench.save_slabs->free_count(), bench.save_slabs->slab_count());
}

TEST(SavePipeline, ASilentEngineCostsTheSaveNotTheSlabs) {
  PipelineBench bench;
  bench.confirm = false;
  EngineMemory from(kShape, 128, 4, Form::kCpuVec, true);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kLossless);
  bench.Settle();
  bench.clock.AdvanceNs(SavePipeline::kConfirmWaitNs + 1);
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(1).reason, DropLabel::kNotHeld);
  EXPECT_EQ(bench.save_slabs->free_count(), bench.save_slabs->slab_count());
}

TEST(SavePipeline, AsksForEveryUnitAndSaysWhichReadIsTheLast) {
  PipelineBench bench;
  EngineMemory from(kWide, 128, 4, Form::kCpuVec, true);
  ASSERT_EQ(from.rank->range_count(), 3u);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kRaw);
  bench.Settle();
  ASSERT_EQ(bench.events.reads.size(), 3u);
  EXPECT_FALSE(bench.events.reads[0].second);
  EXPECT_FALSE(bench.events.reads[1].second);
  EXPECT_TRUE(bench.events.reads[2].second);
}

class SaveOverAnyStore : public ::testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Stores, SaveOverAnyStore, ::testing::Bool(), [](const auto& test) {
  return std::string(test.param ? "indexed" : "unindexed");
});

TEST_P(SaveOverAnyStore, ReadsOnlyWhatTheStoreLacks) {
  PipelineBench bench({.indexed = GetParam()});
  EngineMemory from(kWide, 128, 4, Form::kCpuVec, true);
  from.Fill(1);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kRaw);
  bench.Settle();
  bench.SaveChunk(2, from, KeyOf(0), {0, 1}, kRaw);
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(2).outcome, SaveOutcome::kPresent);
  const size_t reads = bench.events.reads.size();
  for (const ObjectName& name : bench.Objects()) {
    if (name.first_layer == 2 && name.kind == ObjectKind::kMarker) bench.Delete(name);
  }
  bench.SaveChunk(3, from, KeyOf(0), {0, 1}, kRaw);
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(3).outcome, SaveOutcome::kStored);
  EXPECT_EQ(bench.events.reads.size(), reads + 1);
}

TEST(SavePipeline, AStoreThatCannotAnswerDropsTheSaveBeforeAnythingIsRead) {
  PipelineBench bench({.indexed = false});
  static_cast<UnindexedStore&>(*bench.store).fail_from = 1;
  EngineMemory from(kWide, 128, 4, Form::kCpuVec, true);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kRaw);
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(1).outcome, SaveOutcome::kDropped);
  EXPECT_EQ(bench.events.saves.at(1).reason, DropLabel::kStoreError);
  EXPECT_TRUE(bench.events.reads.empty());
}

TEST(SavePipeline, ASaveThatIsCancelledWhileItAsksEndsOnce) {
  PipelineBench bench({.indexed = false});
  EngineMemory from(kWide, 128, 4, Form::kCpuVec, true);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kRaw);
  (void)bench.save->Turn();
  bench.save->Cancel(1, DropLabel::kEngineGone);
  (void)bench.save->Turn();
  EXPECT_FALSE(bench.events.saves.contains(1));  // its questions are still out
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(1).outcome, SaveOutcome::kDropped);
  EXPECT_EQ(bench.events.repeated, 0u);
}

TEST(SavePipeline, AFullStoreDropsTheSaveAndCountsIt) {
  PipelineBench bench({.store = "memory://?capacity=64KiB"});
  EngineMemory from(kShape, 128, 4, Form::kCpuVec, true);
  from.Fill(1);
  bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kRaw);
  bench.Settle();
  EXPECT_EQ(bench.events.saves.at(1).reason, DropLabel::kStoreFull);
  EXPECT_EQ(bench.metrics.saves_dropped[DropLabel::kStoreFull].value(), 1u);
}

TEST(PageMap, RefusesARankThatHoldsPartOfAHeadGroup) {
  const auto refusal = [](Heads heads) {
    PageLayout layout = MakeLayout(kGrouped, 128, 4, Form::kRows, heads);
    std::vector<std::byte> bytes(layout.page_stride * 4 * kGrouped.layers);
    const auto rank = RankMemory::Create(
        kGrouped, layout, std::make_unique<LocalDevice>(bytes, true), uint64_t{5} << 20);
    return rank.ok() ? "" : std::string(rank.status().message());
  };
  EXPECT_EQ(refusal({2, 2}), "");
  EXPECT_NE(refusal({1, 1}).find("set format.head_groups to 4"), std::string::npos);
  EXPECT_NE(refusal({1, 2}).find("heads 1..3 of 4"), std::string::npos);
}

TEST(PageMap, RefusesAJoinThatNoSlabHolds) {
  PageLayout layout = MakeLayout(kShape, 128, 4, Form::kRows, {0, kShape.kv_heads});
  std::vector<std::byte> bytes(layout.page_stride * 4 * kShape.layers);
  const auto rank = RankMemory::Create(kShape, layout, std::make_unique<LocalDevice>(bytes, true),
                                       uint64_t{1} << 20);
  ASSERT_FALSE(rank.ok());
  EXPECT_NE(rank.status().message().find("memory.slab_size"), std::string_view::npos);
}

}  // namespace
}  // namespace shadowserve::testing::pipeline_test
