// Loads through a codec engine that is in this process and misbehaves as told: the bytes are right,
// or the load fails; slabs and blocks come home.
#include <gtest/gtest.h>

#include <cstdio>

#include "pipeline/engine_testing.h"

namespace shadowserve::testing::engine_test {
namespace {

TEST(CodecEngineTest, AllBlocksOfADeflatedLoadGoThroughTheEngine) {
  for (const bool direct : {true, false}) {
    EngineBench bench(kDeflated, kLimits, kWide, direct);
    ASSERT_TRUE(bench.Load().ok());
    EXPECT_TRUE(bench.Same());
    EXPECT_TRUE(bench.AtRest());
    EXPECT_GT(bench.decoded(), 100u);
    EXPECT_EQ(bench.decoded(), bench.engine.asked);
    EXPECT_EQ(bench.fallbacks(), 0u);
    EXPECT_TRUE(bench.up());
  }
}

TEST(CodecEngineTest, TheEngineKnowsTheSlabsAndItsOutputBuffersWhileThePipelineLives) {
  EngineBench bench;
  EXPECT_EQ(bench.engine.memory.size(), 2u);
  bench.bench.Rekey({});
  EXPECT_EQ(bench.engine.memory.size(), 2u);
  bench.bench.fetch.reset();
  EXPECT_EQ(bench.engine.memory.size(), 1u);
  bench.bench.wire = {};
  EXPECT_TRUE(bench.engine.memory.empty());
  EXPECT_FALSE(bench.engine.stopped);
}

TEST(CodecEngineTest, QuantizedSealedAndEncryptedLoadsGoThroughTheEngineToo) {
  for (const SealAlgorithm cipher : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
    EngineBench sealed(kDeflated, kLimits, kShape, true,
                       {.keys = {KeyOfByte(1, 7)}, .cipher = cipher});
    ASSERT_TRUE(sealed.Load().ok());
    EXPECT_TRUE(sealed.Same());
    EXPECT_GT(sealed.decoded(), 10u);
  }
  EngineBench bench({Profile::kQ8, CodecId::kDeflate});
  ASSERT_TRUE(bench.Load().ok());
  const std::vector<std::byte> through_engine = bench.to.bytes;
  EXPECT_GT(bench.decoded(), 10u);
  bench.bench.fetch_options.engine = nullptr;
  bench.bench.Rekey({});
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_EQ(bench.to.bytes, through_engine);
}

TEST(CodecEngineTest, BlocksOfAnotherCodecAndThoseTooLargeAreDecodedInSoftware) {
  EngineBench zstd({Profile::kLossless, CodecId::kZstd});
  ASSERT_TRUE(zstd.Load().ok());
  EXPECT_TRUE(zstd.Same());
  EXPECT_EQ(zstd.engine.asked, 0u);
  EXPECT_GT(zstd.fallbacks(CodecFallbackLabel::kCodec), 10u);

  // Raw bf16 has two bytes of symbols per element: blocks of up to 64 KiB.
  EngineBench raw({Profile::kRaw, CodecId::kDeflate}, {40'000, 16});
  ASSERT_TRUE(raw.Load().ok());
  EXPECT_TRUE(raw.Same());
  EXPECT_EQ(raw.engine.asked, 0u);
  EXPECT_GT(raw.fallbacks(CodecFallbackLabel::kSize), 10u);
}

TEST(CodecEngineTest, AnEngineWithTooSmallOperationsIsRefusedAtStart) {
  for (const EngineLimits limits : {EngineLimits{20'000, 16}, EngineLimits{65'535, 0}}) {
    FakeEngine engine(limits);
    Metrics metrics;
    EXPECT_EQ(EnginePort::Create({.engine = &engine}, &metrics).status().code(),
              StatusCode::kUnsupported);
    EXPECT_TRUE(engine.memory.empty());
  }
}

TEST(CodecEngineTest, WhatTheEngineRefusesOrFailsSoftwareDecodes) {
  EngineBench bench;
  bench.engine.faults = {.refuse = 100};
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(bench.Same());
  EXPECT_EQ(bench.decoded(), 0u);
  EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kRefused), 10u);

  bench.engine.faults = {.fail = 100};
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(bench.Same());
  EXPECT_EQ(bench.decoded(), 0u);
  EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kFailed), 10u);

  // It is not gone: what it does well counts again.
  bench.engine.faults = {};
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(bench.Same());
  EXPECT_GT(bench.decoded(), 10u);
  EXPECT_TRUE(bench.AtRest());
}

TEST(CodecEngineTest, AnyMixOfDelayRefusalFailureAndOrderGivesTheRightBytes) {
  EngineBench bench(kDeflated, {65'535, 7}, kWide);
  std::minstd_rand random(3);
  constexpr uint32_t kRounds = Rounds(12);
  for (uint32_t round = 0; round < kRounds; ++round) {
    bench.engine.faults = {.refuse = static_cast<uint32_t>(random() % 60),
                           .fail = static_cast<uint32_t>(random() % 50),
                           .hold = static_cast<uint32_t>(random() % 95),
                           .reorder = random() % 2 == 0};
    ASSERT_TRUE(bench.Load().ok());
    ASSERT_TRUE(bench.Same()) << round;
    ASSERT_TRUE(bench.AtRest());
  }
  EXPECT_GT(bench.decoded(), 25 * kRounds);
  EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kFailed), 2 * kRounds);
}

TEST(CodecEngineTest, AVanishedEngineIsGivenUpOnceAndItsLateWritesHarmNobody) {
  for (const uint64_t after : {uint64_t{0}, uint64_t{1}, uint64_t{17}}) {
    EngineBench bench(kDeflated, kLimits, kShape, true, {.engine_answer_ns = 2 * kNsPerMs});
    bench.engine.faults = {.vanish_after = after};
    ASSERT_TRUE(bench.Load().ok());
    EXPECT_TRUE(bench.Same());
    EXPECT_EQ(bench.decoded(), after);
    EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kGone), 10u);
    EXPECT_FALSE(bench.up());
    EXPECT_GT(bench.engine.outstanding(), 0u);
    const uint64_t asked = bench.engine.asked;
    bench.Start();
    for (int turn = 0; turn < 2000; ++turn) {
      bench.engine.WriteLate();
      bench.bench.Turn();
    }
    EXPECT_TRUE(bench.bench.events.loads.rbegin()->second.status.ok());
    EXPECT_TRUE(bench.Same());
    // It may even come back: nobody asks.
    bench.engine.faults = {};
    ASSERT_TRUE(bench.Load().ok());
    EXPECT_TRUE(bench.Same());
    EXPECT_EQ(bench.engine.asked, asked);
    EXPECT_FALSE(bench.engine.stopped);
    bench.bench.fetch.reset();  // takes the memory away: only from a stopped engine
    EXPECT_TRUE(bench.engine.stopped);
  }
}

TEST(CodecEngineDeathTest, MemoryIsNotUnmappedUnderAnEngineThatDoesNotStop) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        EngineBench bench(kDeflated, kLimits, kShape, true, {.engine_answer_ns = kNsPerMs});
        bench.engine.faults = {.vanish_after = 0};
        bench.engine.stoppable = false;
        (void)bench.Load();
        bench.bench.fetch.reset();
      },
      "does not stop");
}

TEST(CodecEngineTest, AnEngineThatAnswersWhatWasNotAskedIsGone) {
  EngineBench bench;
  bench.engine.faults.answers_twice = true;
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(bench.Same());
  EXPECT_FALSE(bench.up());
}

TEST(CodecEngineTest, ACancelledLoadGivesItsSlabsBackWhenTheEngineIsDoneWithThem) {
  EngineBench bench(kDeflated, kLimits, kWide);
  std::minstd_rand random(4);
  for (int round = 0; round < 60; ++round) {
    bench.engine.faults = {.hold = static_cast<uint32_t>(random() % 99), .reorder = true};
    const uint64_t id = bench.Start();
    const uint32_t turns = static_cast<uint32_t>(random() % 40);
    for (uint32_t turn = 0; turn < turns; ++turn) bench.bench.Turn();
    bench.bench.fetch->Cancel(id, StatusCode::kCancelled, "test");
    // At once, but for reads of the store.
    EXPECT_EQ(bench.engine.outstanding(), 0u);
    bench.bench.Settle();
    ASSERT_EQ(bench.bench.events.loads.count(id), 1u);
    ASSERT_TRUE(bench.AtRest());
  }
  bench.engine.faults = {};
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(bench.Same());
}

TEST(CodecEngineTest, ACancelledLoadWaitsNoLongerThanTheEngineMayStaySilent) {
  EngineBench bench(kDeflated, kLimits, kWide, true, {.engine_answer_ns = 2 * kNsPerMs});
  bench.engine.faults = {.vanish_after = 0};
  const uint64_t id = bench.Start();
  while (bench.engine.asked == 0) bench.bench.Turn();
  bench.bench.fetch->Cancel(id, StatusCode::kCancelled, "test");
  bench.bench.Settle();
  EXPECT_EQ(bench.bench.events.loads.at(id).status.code(), StatusCode::kCancelled);
  EXPECT_EQ(bench.bench.fetch_slabs->free_count(), bench.bench.fetch_slabs->slab_count());
  ASSERT_TRUE(bench.Load().ok());
  EXPECT_TRUE(bench.Same());
}

TEST(CodecEngineTest, BlocksCostNoAllocation) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  EngineBench bench;
  bench.engine.faults = {.refuse = 20, .fail = 20, .hold = 50, .reorder = true};
  (void)bench.LoadAllocations(8);  // warm-up: every join is used once
  const size_t one = bench.LoadAllocations(1);
  EXPECT_EQ(bench.LoadAllocations(6), one);
#endif
}

// What software would refuse is refused, whatever the engine says about blocks beside it.
TEST(CodecEngineTest, DamageIsFoundBeforeABlockReachesTheEngine) {
  EngineBench bench;
  std::minstd_rand random(6);
  std::vector<ObjectName> segments;
  for (const ObjectName& name : bench.bench.Objects()) {
    if (name.kind == ObjectKind::kSegment) segments.push_back(name);
  }
  bench.engine.faults = {.hold = 50, .reorder = true};
  for (uint32_t round = 0; round < Rounds(20) && !segments.empty(); ++round) {
    const uint64_t decoded_before = bench.decoded();
    size_t at = 0;
    std::byte old{};
    const ObjectName& name = segments[random() % segments.size()];
    const auto flip = [&](std::vector<std::byte>& bytes) {
      at = bytes.size() / 2 + random() % (bytes.size() / 2);
      old = bytes[at];
      bytes[at] ^= std::byte{0x10};
    };
    bench.bench.Tamper(name, flip);
    const Status status = bench.Load();
    EXPECT_EQ(status.code(), StatusCode::kCorrupt) << status.ToString();
    EXPECT_TRUE(bench.AtRest());
    EXPECT_GE(bench.decoded(), decoded_before);
    // The damaged object is gone: save it again.
    for (uint32_t i = 0; i < bench.chunks; ++i) bench.SaveChunk(i);
    ASSERT_TRUE(bench.Load().ok());
    ASSERT_TRUE(bench.Same());
  }
}

// Without keys anybody can write an object that is sound, but whose blocks are no Deflate streams.
TEST(CodecEngineTest, ASoundBlockThatIsNoDeflateStreamFailsTheLoad) {
  EngineBench bench;
  ObjectName name;
  for (const ObjectName& each : bench.bench.Objects()) {
    if (each.kind == ObjectKind::kSegment) name = each;
  }
  const SegmentShape shape = SegmentShapeOf(kShape, 0, 0);
  std::vector<std::byte> buffer(SegmentBytesMax(name.form(), shape));
  SegmentWriter writer(buffer, name, shape);
  constexpr uint32_t kCoded = 100;
  while (!writer.done()) {
    const uint32_t plain = writer.block_range().elements;
    std::ranges::fill(writer.BlockSpace().first(plain + kCoded), std::byte{0xFF});
    writer.FinishBlock(CodecId::kDeflate, kCoded);
  }
  const std::span<const std::byte> segment = writer.Finish();
  std::array<std::byte, kMarkerBytes> marker;
  (void)WriteMarker(MarkerOf(segment).value(), name.AsKind(ObjectKind::kMarker), marker);
  bench.bench.Tamper(name, [&](auto& bytes) { bytes.assign(segment.begin(), segment.end()); });
  bench.bench.Tamper(name.AsKind(ObjectKind::kMarker),
                     [&](auto& bytes) { bytes.assign(marker.begin(), marker.end()); });
  bench.engine.faults = {.hold = 5, .reorder = true};
  const Status status = bench.Load();
  EXPECT_EQ(status.code(), StatusCode::kCorrupt) << status.ToString();
  EXPECT_TRUE(bench.AtRest());
  EXPECT_GT(bench.fallbacks(CodecFallbackLabel::kFailed), 0u);
  EXPECT_EQ(bench.bench.metrics.corrupt[CorruptLabel::kBlock].value(), 1u);
}

TEST(CodecEngineTest, BlocksReachTheEngineWhileTheirSegmentIsStillOnItsWay) {
  EngineBench bench(kDeflated, kLimits, kShape, true, {.joins = 1, .by_hand = true});
  bench.bench.stepped().stepping = true;
  const uint64_t id = bench.Start();
  while (!bench.bench.stepped().waiting()) bench.bench.Turn();
  const size_t bytes = bench.bench.stepped().object().size();
  bench.bench.stepped().Arrive(bytes / 2);
  for (int turn = 0; turn < 200; ++turn) bench.bench.Turn();
  EXPECT_GT(bench.decoded(), 3u);
  bench.bench.fetch->Cancel(id, StatusCode::kCancelled, "test");
  EXPECT_EQ(bench.engine.outstanding(), 0u);
  bench.bench.stepped().End(StatusCode::kOk, bytes);
  bench.bench.stepped().stepping = false;
  bench.bench.Settle();
  EXPECT_TRUE(bench.AtRest());
}

}  // namespace
}  // namespace shadowserve::testing::engine_test
