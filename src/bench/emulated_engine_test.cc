#include "bench/emulated_engine.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "base/metrics.h"
#include "codec/deflate_codec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "pipeline/engine_port.h"

namespace shadowserve {
namespace {

using ::testing::HasSubstr;

// An engine of which only time is asked: what it is given is no Deflate.
struct TimedEngine {
  ManualClock clock;
  // They outlive the engine, which may be at work on them when it ends.
  std::vector<std::byte> coded = std::vector<std::byte>(16, std::byte{0xff});
  std::vector<std::byte> symbols;
  EmulatedEngine engine;
  std::unique_ptr<EngineQueue> queue;
  uint64_t next_tag = 0;

  explicit TimedEngine(const CardProfile& card, size_t symbol_bytes)
      : symbols(symbol_bytes), engine(card, {}, &clock), queue(engine.OpenQueue().value()) {}

  size_t Submit(size_t count) {
    size_t taken = 0;
    for (; taken < count; ++taken) {
      const EngineOp op{coded, symbols, next_tag};
      if (queue->Submit(std::span(&op, 1)) == 0) break;
      ++next_tag;
    }
    return taken;
  }
  // Waits for the engine's own thread: from now on time alone decides.
  void WaitUntilDecoded() {
    while (engine.counts().tasks < next_tag) std::this_thread::yield();
  }
  size_t Poll() {
    std::array<EngineDone, 64> done;
    return queue->Poll(done);
  }
  // How long until `count` more are answered, with as many submitted again as were answered.
  int64_t RunNs(size_t count) {
    constexpr int64_t kStepNs = 10;
    const int64_t start_ns = clock.NowNs();
    while (count > 0) {
      WaitUntilDecoded();
      const size_t answered = Poll();
      count -= std::min(count, answered);
      if (count == 0) break;
      Submit(answered);
      clock.AdvanceNs(kStepNs);
    }
    return clock.NowNs() - start_ns;
  }
};

CardProfile Bf3() {
  return *FindCard("bf3").value();
}

TEST(CardProfileTest, UnknownCardsAreNamedBesideTheKnownOnes) {
  const Status status = FindCard("bf9").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("'bf9'"));
  EXPECT_THAT(status.message(), HasSubstr("known: bf3"));
}

TEST(CardProfileTest, TasksOfABlueFieldHoldEveryBlockOfTheFormat) {
  EXPECT_GE(Bf3().engine.op_bytes_max, kBlockSymbolsMax);
}

TEST(EmulatedEngineTest, AnswersNoEarlierThanTheCardAndInOrder) {
  const CardProfile card = Bf3();
  constexpr size_t kBytes = 47'000;  // 2 us of the server
  TimedEngine timed(card, kBytes);
  ASSERT_EQ(timed.Submit(3), 3u);
  timed.WaitUntilDecoded();
  EXPECT_EQ(timed.Poll(), 0u);
  timed.clock.AdvanceNs(card.engine_task_ns + 2'000 - 1);
  EXPECT_EQ(timed.Poll(), 0u);
  timed.clock.AdvanceNs(1);
  EXPECT_EQ(timed.Poll(), 1u);
  timed.clock.AdvanceNs(2'000 - 1);
  EXPECT_EQ(timed.Poll(), 0u);
  timed.clock.AdvanceNs(1);
  EXPECT_EQ(timed.Poll(), 1u);
  timed.clock.AdvanceNs(2'000);
  EXPECT_EQ(timed.Poll(), 1u);
  EXPECT_EQ(timed.engine.counts().late_ns, 0u);
}

TEST(EmulatedEngineTest, CountsByHowMuchAnswersAreLaterThanTheCards) {
  // Every look at it takes a second.
  class SlowClock final : public Clock {
   public:
    int64_t NowNs() const override { return now_ns_ += kNsPerSecond; }

   private:
    mutable std::atomic<int64_t> now_ns_ = 0;
  };
  const SlowClock clock;
  const CardProfile card = Bf3();
  std::vector<std::byte> symbols(1000);
  EmulatedEngine engine(card, {}, &clock);
  const std::unique_ptr<EngineQueue> queue = engine.OpenQueue().value();
  const std::vector<std::byte> coded(16, std::byte{0xff});
  const EngineOp op{coded, symbols, 0};
  ASSERT_EQ(queue->Submit(std::span(&op, 1)), 1u);
  EngineDone done;
  while (queue->Poll(std::span(&done, 1)) == 0) std::this_thread::yield();
  const EmulatedEngine::Counts counts = engine.counts();
  EXPECT_GE(counts.late_ns, static_cast<uint64_t>(kNsPerSecond));
  EXPECT_GE(counts.busy_ns, static_cast<uint64_t>(kNsPerSecond));
  EXPECT_EQ(counts.bytes, symbols.size());
}

// What the profile's constants come from: rates of a real card by task size and tasks in flight.
// The last two were told without a size; one task at a time says that it was about 16 KiB.
TEST(EmulatedEngineTest, IsAsFastAsTheCardThatWasMeasured) {
  struct Row {
    size_t bytes;
    uint32_t depth;
    double gigabits_per_s;
  };
  for (const Row& row :
       {Row{4 << 10, 1, 6.5}, Row{64 << 10, 1, 75}, Row{256 << 10, 1, 141}, Row{1 << 20, 1, 180},
        Row{2 << 20, 1, 188}, Row{16 << 10, 1, 22.5}, Row{16 << 10, 64, 182.5}}) {
    CardProfile card = Bf3();
    card.engine = {.op_bytes_max = 2 << 20, .depth = row.depth};
    TimedEngine timed(card, row.bytes);
    constexpr size_t kTasks = 256;
    ASSERT_EQ(timed.Submit(row.depth), row.depth);
    const double seconds = static_cast<double>(timed.RunNs(kTasks)) * 1e-9;
    const double rate = static_cast<double>(kTasks * row.bytes) * 8e-9 / seconds;
    EXPECT_NEAR(rate / row.gigabits_per_s, 1, 0.12) << row.bytes << " " << row.depth;
  }
}

TEST(EmulatedEngineTest, QueuesShareOneServer) {
  const CardProfile card = Bf3();
  TimedEngine timed(card, 47'000);
  const std::unique_ptr<EngineQueue> other = timed.engine.OpenQueue().value();
  ASSERT_EQ(timed.Submit(1), 1u);
  const EngineOp op{timed.coded, timed.symbols, 7};
  ASSERT_EQ(other->Submit(std::span(&op, 1)), 1u);
  ++timed.next_tag;
  timed.WaitUntilDecoded();
  timed.clock.AdvanceNs(card.engine_task_ns + 4'000 - 1);
  EngineDone done;
  EXPECT_EQ(timed.Poll(), 1u);
  EXPECT_EQ(other->Poll(std::span(&done, 1)), 0u);
  timed.clock.AdvanceNs(1);
  EXPECT_EQ(other->Poll(std::span(&done, 1)), 1u);
  EXPECT_EQ(done.tag, 7u);
}

TEST(EmulatedEngineTest, RefusesAtSubmitWhatTheCardWouldNotTake) {
  const CardProfile card = Bf3();
  std::vector<std::byte> large(size_t{card.engine.op_bytes_max} + 1);  // outlives the engine
  TimedEngine timed(card, 100);
  const std::span<std::byte> most = std::span(large).first(card.engine.op_bytes_max);
  for (const EngineOp& op : {EngineOp{large, timed.symbols, 0}, EngineOp{timed.coded, large, 0},
                             EngineOp{{}, timed.symbols, 0}, EngineOp{timed.coded, {}, 0}}) {
    EXPECT_EQ(timed.queue->Submit(std::span(&op, 1)), 0u);
  }
  // A prefix is taken.
  const EngineOp ops[] = {{timed.coded, most, 0}, {timed.coded, large, 1}, {timed.coded, most, 2}};
  EXPECT_EQ(timed.queue->Submit(ops), 1u);
  EXPECT_EQ(timed.Submit(100), card.engine.depth - 1);
}

TEST(EmulatedEngineTest, ABlockAboveItsCapGoesToSoftware) {
  const ManualClock clock;
  CardProfile card = Bf3();
  card.engine.op_bytes_max = kBlockSymbolsTarget;
  EmulatedEngine engine(card, {}, &clock);
  Metrics metrics;
  EnginePort::Options options;
  options.engine = &engine;
  const auto port = EnginePort::Create(options, &metrics).value();
  const std::vector<std::byte> stored(100);
  BlockView block;
  block.codec = CodecId::kDeflate;
  block.stored = stored;
  block.symbol_bytes = card.engine.op_bytes_max;
  EXPECT_TRUE(port->Takes(block));
  block.symbol_bytes += 1;
  EXPECT_FALSE(port->Takes(block));
  EXPECT_EQ(metrics.codec_engine_fallbacks[CodecFallbackLabel::kSize].value(), 1u);
}

TEST(EmulatedEngineTest, DeliversRealBytesKnowsThemAgainAndTellsDamage) {
  std::vector<std::byte> symbols(30'000);
  for (size_t i = 0; i < symbols.size(); ++i) symbols[i] = static_cast<std::byte>(i * i % 11);
  std::vector<std::byte> coded(symbols.size());
  coded.resize(MakeDeflateCodec()->Encode(symbols, coded));
  ASSERT_GT(coded.size(), 0u);
  ManualClock clock;
  EmulatedEngine engine(Bf3(), {}, &clock);
  const std::unique_ptr<EngineQueue> queue = engine.OpenQueue().value();
  const auto decode = [&](std::span<const std::byte> from, std::vector<std::byte>* to) {
    const EngineOp op{from, *to, 1};
    EXPECT_EQ(queue->Submit(std::span(&op, 1)), 1u);
    clock.AdvanceNs(kNsPerSecond);
    EngineDone done;
    while (queue->Poll(std::span(&done, 1)) == 0) std::this_thread::yield();
    return done.code;
  };
  for (uint64_t round = 0; round < 3; ++round) {
    std::vector<std::byte> out(symbols.size());
    EXPECT_EQ(decode(coded, &out), StatusCode::kOk);
    EXPECT_EQ(out, symbols);
    EXPECT_EQ(engine.counts().decoded_here, 1u);
    EXPECT_EQ(engine.counts().tasks, round + 1);
  }
  // Another length, and other bytes, are other blocks.
  std::vector<std::byte> shorter(symbols.size() - 1);
  EXPECT_EQ(decode(coded, &shorter), StatusCode::kCorrupt);
  coded[coded.size() / 2] ^= std::byte{0x10};
  std::vector<std::byte> out(symbols.size());
  for (int round = 0; round < 2; ++round) {
    EXPECT_TRUE(decode(coded, &out) == StatusCode::kCorrupt || out != symbols);
  }
  EXPECT_GE(engine.counts().decoded_here, 3u);
}

TEST(EmulatedEngineTest, SeveralThreadsDecodeAndAnswersStayInOrder) {
  std::vector<std::byte> symbols(30'000, std::byte{5});
  for (size_t i = 0; i < symbols.size(); i += 7) symbols[i] = std::byte{9};
  std::vector<std::byte> coded(symbols.size());
  coded.resize(MakeDeflateCodec()->Encode(symbols, coded));
  const CardProfile card = Bf3();
  std::vector<std::vector<std::byte>> out(card.engine.depth);
  ManualClock clock;
  EmulatedEngine engine(card, {0, 1}, &clock);
  EXPECT_EQ(engine.threads(), 2u);
  const std::unique_ptr<EngineQueue> queue = engine.OpenQueue().value();
  for (uint64_t i = 0; i < out.size(); ++i) {
    out[i].resize(symbols.size());
    const EngineOp op{coded, out[i], i};
    ASSERT_EQ(queue->Submit(std::span(&op, 1)), 1u);
  }
  clock.AdvanceNs(kNsPerSecond);
  for (uint64_t i = 0; i < out.size(); ++i) {
    EngineDone done;
    while (queue->Poll(std::span(&done, 1)) == 0) std::this_thread::yield();
    EXPECT_EQ(done.tag, i);
    EXPECT_EQ(done.code, StatusCode::kOk);
    EXPECT_EQ(out[i], symbols);
  }
}

TEST(EmulatedEngineTest, StoppedItTakesNothingAndTouchesNothing) {
  TimedEngine timed(Bf3(), 1000);
  timed.Submit(10);
  EXPECT_TRUE(timed.engine.Stop());
  EXPECT_EQ(timed.Submit(1), 0u);
  EXPECT_TRUE(timed.engine.Stop());
}

}  // namespace
}  // namespace shadowserve
