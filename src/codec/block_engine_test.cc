// One suite for every block engine, DPDK's software drivers among them; then what loading a plug-in
// promises.
#include "codec/block_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <future>
#include <map>
#include <string>
#include <vector>

#include "codec/codec_table.h"
#include "codec/fake_engine_testing.h"
#include "codec/plugin_engine.h"
#include "codec/plugin_testing.h"
#include "codec/sample_symbols.h"
#include "codec/zlib_testing.h"
#include "mem/guarded_buffer.h"
#include "mem/slab_pool.h"

namespace shadowserve::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint32_t kDepth = 16;
constexpr size_t kBlockBytes = 32 * 1024;
constexpr std::chrono::seconds kPatience(30);

std::vector<std::byte> Encoded(std::span<const std::byte> symbols) {
  std::vector<std::byte> coded(symbols.size());
  coded.resize(MakeDeflateCodec()->Encode(symbols, coded));
  EXPECT_FALSE(coded.empty());
  return coded;
}

Result<std::unique_ptr<BlockEngine>> OpenNamed(const std::string& name, uint32_t queues) {
  if (name == "fake") {
    return std::unique_ptr<BlockEngine>(
        std::make_unique<FakeEngine>(EngineLimits{65'535, kDepth}, queues));
  }
  PluginEngineOptions options;
  options.queues = queues;
  options.depth = kDepth;
  options.device = name;
  if (name == "good") options.library = FakePlugin();
  return OpenPluginEngine(options);
}

class EveryEngine : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (GetParam().rfind("compress_", 0) == 0 && !HasCompressdev()) GTEST_SKIP() << kNoCompressdev;
    Open(1);
    queue_ = engine_->OpenQueue().value();
  }
  void Open(uint32_t queues) {
    queue_.reset();
    engine_.reset();
    Result<std::unique_ptr<BlockEngine>> engine = OpenNamed(GetParam(), queues);
    ASSERT_TRUE(engine.ok()) << engine.status().ToString();
    engine_ = std::move(engine).value();
  }

  // Waits for `count` completions; by tag.
  std::map<uint64_t, StatusCode> Collect(size_t count) {
    std::map<uint64_t, StatusCode> codes;
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (codes.size() < count && std::chrono::steady_clock::now() < end) {
      std::array<EngineDone, 5> done;
      const size_t got = queue_->Poll(done);
      for (const EngineDone& one : std::span(done).first(got)) {
        EXPECT_TRUE(codes.emplace(one.tag, one.code).second) << "twice: " << one.tag;
      }
      if (got == 0) sched_yield();
    }
    EXPECT_GE(codes.size(), count);
    return codes;
  }
  StatusCode Run(std::span<const std::byte> coded, std::span<std::byte> symbols) {
    const EngineOp op{coded, symbols, 77};
    EXPECT_EQ(queue_->Submit(std::span(&op, 1)), 1u);
    return Collect(1)[77];
  }

  std::unique_ptr<BlockEngine> engine_;
  std::unique_ptr<EngineQueue> queue_;
};

TEST_P(EveryEngine, DecodesBlocksOfAllSizesAndTouchesNothingAroundThem) {
  for (const SymbolKind kind : {SymbolKind::kInt8, SymbolKind::kBf16Exponent}) {
    for (const size_t size : {size_t{2000}, kBlockBytes, size_t{65'535}}) {
      std::vector<std::byte> symbols = SampleSymbols(kind, 600, 128, 3);
      symbols.resize(size);
      const std::vector<std::byte> coded = Encoded(symbols);
      const GuardedBuffer input{std::span<const std::byte>(coded)};
      const GuardedBuffer output(size);
      EXPECT_EQ(Run(input.bytes(), output.bytes()), StatusCode::kOk);
      EXPECT_TRUE(std::ranges::equal(output.bytes(), symbols));
    }
  }
}

TEST_P(EveryEngine, DecodesEveryKindOfDeflateBlock) {
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kBf16Exponent, 100, 128, 4);
  for (const auto& [level, strategy] :
       {std::pair{6, Z_FIXED}, {6, Z_DEFAULT_STRATEGY}, {1, Z_HUFFMAN_ONLY}, {0, 0}}) {
    const std::vector<std::byte> coded = EncodedByZlib(symbols, level, strategy);
    std::vector<std::byte> out(symbols.size());
    EXPECT_EQ(Run(coded, out), StatusCode::kOk) << level << " " << strategy;
    EXPECT_EQ(out, symbols);
  }
}

TEST_P(EveryEngine, CompletesEachOfManyOperationsOnceWithItsOwnOutput) {
  constexpr size_t kBlocks = 200;
  std::vector<std::vector<std::byte>> symbols;
  std::vector<std::vector<std::byte>> coded;
  std::vector<std::vector<std::byte>> out;
  for (uint32_t i = 0; i < kBlocks; ++i) {
    symbols.push_back(SampleSymbols(SymbolKind::kBf16Exponent, 40 + i, 64, i));
    coded.push_back(Encoded(symbols.back()));
    out.emplace_back(symbols.back().size());
  }
  size_t asked = 0;
  std::map<uint64_t, StatusCode> codes;
  while (codes.size() < kBlocks) {
    std::vector<EngineOp> ops;
    for (size_t i = asked; i < std::min(asked + 7, kBlocks); ++i) {
      ops.push_back({coded[i], out[i], 1000 + i});
    }
    const size_t taken = queue_->Submit(ops);
    asked += taken;
    ASSERT_LE(asked - codes.size(), kDepth);
    for (const auto& [tag, code] : Collect(std::min<size_t>(asked - codes.size(), 3))) {
      ASSERT_TRUE(codes.emplace(tag, code).second);
    }
  }
  for (size_t i = 0; i < kBlocks; ++i) {
    EXPECT_EQ(codes.at(1000 + i), StatusCode::kOk);
    EXPECT_EQ(out[i], symbols[i]) << i;
  }
}

TEST_P(EveryEngine, TakesNoMoreThanItsDepth) {
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kInt8, 100, 128, 1);
  const std::vector<std::byte> coded = Encoded(symbols);
  std::vector<std::vector<std::byte>> out(kDepth + 9, std::vector<std::byte>(symbols.size()));
  std::vector<EngineOp> ops;
  for (size_t i = 0; i < out.size(); ++i) ops.push_back({coded, out[i], i});
  EXPECT_EQ(engine_->limits().depth, kDepth);
  EXPECT_EQ(queue_->Submit(ops), kDepth);
  EXPECT_EQ(queue_->Submit(std::span(ops).subspan(kDepth)), 0u);
  Collect(kDepth);
  EXPECT_EQ(queue_->Submit(std::span(ops).subspan(kDepth)), 9u);
  Collect(9);
}

TEST_P(EveryEngine, TakesNothingOutsideItsLimits) {
  std::vector<std::byte> large(70'000);
  std::vector<std::byte> small(100);
  const std::span<std::byte> none;
  for (const EngineOp& op : {EngineOp{large, small, 1}, EngineOp{small, large, 2},
                             EngineOp{none, small, 3}, EngineOp{small, none, 4}}) {
    EXPECT_EQ(queue_->Submit(std::span(&op, 1)), 0u) << op.tag;
  }
}

TEST_P(EveryEngine, NeverCallsADamagedBlockGood) {
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kBf16Exponent, 256, 128, 9);
  const std::vector<std::byte> coded = Encoded(symbols);
  const auto try_one = [this](std::span<const std::byte> bytes, size_t size) {
    const GuardedBuffer input(bytes);
    const GuardedBuffer output(size);
    return Run(input.bytes(), output.bytes());
  };
  // ISA-L does not miss the last bits of the code that ends the block, when all symbols are there.
  for (const size_t cut : {size_t{3}, size_t{5}, coded.size() / 2, coded.size() - 1}) {
    EXPECT_NE(try_one(std::span(coded).first(coded.size() - cut), symbols.size()), StatusCode::kOk)
        << cut;
  }
  for (const size_t size :
       {size_t{1}, symbols.size() / 2, symbols.size() - 1, symbols.size() + 1}) {
    EXPECT_NE(try_one(coded, size), StatusCode::kOk) << size;
  }
  std::vector<std::byte> longer = coded;
  longer.resize(coded.size() + 3);
  EXPECT_NE(try_one(longer, symbols.size()), StatusCode::kOk);
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::byte> noise(1 + random() % 3000);
    for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
    // What the engine calls good must be what software makes of it.
    const GuardedBuffer input{std::span<const std::byte>(noise)};
    const GuardedBuffer output(1 + random() % 3000);
    if (Run(input.bytes(), output.bytes()) != StatusCode::kOk) continue;
    std::vector<std::byte> expected(output.bytes().size());
    EXPECT_TRUE(MakeDeflateCodec()->Decode(noise, expected).ok());
    EXPECT_TRUE(std::ranges::equal(output.bytes(), expected));
  }
  EXPECT_EQ(try_one(coded, symbols.size()), StatusCode::kOk);
}

TEST_P(EveryEngine, GivesEachQueueOutOnce) {
  EXPECT_EQ(engine_->OpenQueue().status().code(), StatusCode::kExhausted);
  queue_.reset();
  queue_ = engine_->OpenQueue().value();
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kInt8, 100, 128, 1);
  const std::vector<std::byte> coded = Encoded(symbols);
  std::vector<std::byte> out(symbols.size());
  EXPECT_EQ(Run(coded, out), StatusCode::kOk);
  EXPECT_EQ(out, symbols);
}

TEST_P(EveryEngine, QueuesOfSeveralThreadsGiveEachItsOwnBlocks) {
  constexpr uint32_t kThreads = 4;
  constexpr uint32_t kRounds = 40;
  Open(kThreads);
  const auto decode = [this](uint32_t thread) {
    const std::unique_ptr<EngineQueue> queue = engine_->OpenQueue().value();
    std::vector<std::vector<std::byte>> symbols;
    std::vector<std::vector<std::byte>> coded;
    for (uint32_t i = 0; i < kDepth; ++i) {
      symbols.push_back(SampleSymbols(SymbolKind::kBf16Exponent, 40 + i, 64, 100 * thread + i));
      coded.push_back(Encoded(symbols.back()));
    }
    uint32_t wrong = 0;
    for (uint32_t round = 0; round < kRounds; ++round) {
      std::vector<std::vector<std::byte>> out;
      std::vector<EngineOp> ops;
      for (uint32_t i = 0; i < kDepth; ++i) out.emplace_back(symbols[i].size());
      for (uint32_t i = 0; i < kDepth; ++i) ops.push_back({coded[i], out[i], i});
      if (queue->Submit(ops) != kDepth) return UINT32_MAX;
      std::array<EngineDone, kDepth> done;
      for (size_t left = kDepth; left > 0;) {
        const size_t got = queue->Poll(done);
        for (const EngineDone& one : std::span(done).first(got)) {
          wrong += one.code == StatusCode::kOk && out[one.tag] == symbols[one.tag] ? 0 : 1;
        }
        left -= got;
        if (got == 0) sched_yield();
      }
    }
    return wrong;
  };
  std::vector<std::future<uint32_t>> wrong;
  for (uint32_t i = 0; i < kThreads; ++i) {
    wrong.push_back(std::async(std::launch::async, decode, i));
  }
  for (std::future<uint32_t>& each : wrong) EXPECT_EQ(each.get(), 0u);
}

TEST_P(EveryEngine, TakesMemoryThatItShallReachAndGivesItBack) {
  Region region = Region::Create(1 << 20).value();
  ASSERT_TRUE(engine_->AddMemory(region.bytes()).ok());
  const std::vector<std::byte> symbols = SampleSymbols(SymbolKind::kInt8, 100, 128, 1);
  const std::vector<std::byte> coded = Encoded(symbols);
  std::copy(coded.begin(), coded.end(), region.bytes().begin());
  const std::span<std::byte> out = region.bytes().subspan(1 << 19, symbols.size());
  EXPECT_EQ(Run(region.bytes().first(coded.size()), out), StatusCode::kOk);
  EXPECT_TRUE(std::ranges::equal(out, symbols));
  engine_->RemoveMemory(region.bytes());
  ASSERT_TRUE(engine_->AddMemory(region.bytes()).ok());
  engine_->RemoveMemory(region.bytes());
}

TEST_P(EveryEngine, StopsForGood) {
  EXPECT_TRUE(engine_->Stop());
  EXPECT_TRUE(engine_->Stop());
  std::vector<std::byte> bytes(100);
  const EngineOp op{bytes, bytes, 1};
  EXPECT_EQ(queue_->Submit(std::span(&op, 1)), 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, EveryEngine,
                         ::testing::Values("fake", "good", "compress_isal", "compress_zlib"));

std::string Refusal(const PluginEngineOptions& options) {
  const Result<std::unique_ptr<BlockEngine>> engine = OpenPluginEngine(options);
  if (engine.ok()) return "it opened";
  EXPECT_THAT(std::string(engine.status().message()), Not(HasSubstr("\n")));
  return std::string(engine.status().message());
}

TEST(PluginEngineTest, RefusesAMissingPluginAndNamesTheRemedy) {
  EXPECT_THAT(Refusal({.library = "/nowhere/plugin.so"}), HasSubstr("install libdpdk-dev"));
}

TEST(PluginEngineTest, RefusesAnotherVersionAndWhatIsNoPlugin) {
  EXPECT_THAT(Refusal({.library = OtherVersionPlugin(), .device = "good"}),
              HasSubstr("has version 2, version 1 is needed"));
  EXPECT_THAT(Refusal({.library = PluginPath("codec_test").string()}),
              HasSubstr("cannot be loaded"));
  EXPECT_THAT(Refusal({.library = "libz.so.1"}), HasSubstr("there is no plug-in"));
}

TEST(PluginEngineTest, PassesOnInOneLineWhyADeviceIsRefused) {
  EXPECT_EQ(Refusal({.library = FakePlugin(), .device = "none"}),
            "codec.engine_device: none: no device of that name on this machine");
  EXPECT_THAT(Refusal({.library = FakePlugin(), .device = "boundless"}), HasSubstr("no limits"));
}

TEST(CompressdevTest, RefusesWrongLimitsAndUnknownDevicesAtStart) {
  if (!HasCompressdev()) GTEST_SKIP() << kNoCompressdev;
  EXPECT_THAT(Refusal({.device = "compress_isal", .queues = 0}), HasSubstr("not 1 or more"));
  EXPECT_THAT(Refusal({.device = "compress_isal", .depth = 100'000}), HasSubstr("not 1 or more"));
  EXPECT_THAT(Refusal({.device = "compress_nothing"}),
              HasSubstr("compress_nothing: no DPDK driver"));
  EXPECT_THAT(Refusal({.device = "0000:ff:1f.7,class=compress"}),
              HasSubstr("DPDK runs in this process already"));
  // What was refused can still be opened rightly, and opened once.
  const auto engine = OpenPluginEngine({.device = "compress_isal"});
  ASSERT_TRUE(engine.ok()) << engine.status().ToString();
  EXPECT_THAT(Refusal({.device = "compress_isal"}), HasSubstr("open already"));
}

TEST(CompressdevTest, GivesThoseOfTheQueuesThatItHas) {
  if (!HasCompressdev()) GTEST_SKIP() << kNoCompressdev;
  for (const char* device : {"compress_isal", "compress_zlib"}) {
    const auto engine = OpenPluginEngine({.device = device, .queues = 1000});
    ASSERT_TRUE(engine.ok()) << engine.status().ToString();
    std::vector<std::unique_ptr<EngineQueue>> queues;
    Result<std::unique_ptr<EngineQueue>> queue = (*engine)->OpenQueue();
    for (; queue.ok(); queue = (*engine)->OpenQueue()) queues.push_back(std::move(queue).value());
    EXPECT_EQ(queue.status().code(), StatusCode::kExhausted);
    EXPECT_EQ(queues.size(), 16u);
  }
}

TEST(CompressdevTest, LeavesAffinityAndSignalsAsTheyWere) {
  if (!HasCompressdev()) GTEST_SKIP() << kNoCompressdev;
  cpu_set_t before;
  pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
  const auto handler = std::signal(SIGBUS, SIG_IGN);
  sigset_t blocked_before;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked_before);
  const auto engine = OpenPluginEngine({.device = "compress_zlib"});
  ASSERT_TRUE(engine.ok()) << engine.status().ToString();
  cpu_set_t after;
  pthread_getaffinity_np(pthread_self(), sizeof(after), &after);
  EXPECT_TRUE(CPU_EQUAL(&before, &after));
  EXPECT_EQ(std::signal(SIGBUS, handler), SIG_IGN);
  sigset_t blocked_after;
  pthread_sigmask(SIG_SETMASK, nullptr, &blocked_after);
  for (int i = 1; i < SIGRTMAX; ++i) {
    EXPECT_EQ(sigismember(&blocked_before, i), sigismember(&blocked_after, i)) << i;
  }
}

}  // namespace
}  // namespace shadowserve::testing
