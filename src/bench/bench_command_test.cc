#include "bench/bench_command.h"

#include <sched.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "bench/bench_options.h"
#include "bench/bench_rig.h"
#include "bench/kv_sample.h"
#include "cli/commands.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shadowserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

const std::vector<std::string> kSmall = {
    "--layers",  "2", "--kv-heads",       "2",    "--head-dim",       "64",  "--chunks", "2",
    "--windows", "3", "--window-seconds", "0.05", "--warmup-seconds", "0.05"};

struct Ran {
  int code = 0;
  std::string out;
  std::string err;
};

Ran RunSmall(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), kSmall.begin(), kSmall.end());
  std::ostringstream out;
  std::ostringstream err;
  const int code = RunBench(arguments, true, out, err);
  return {code, out.str(), err.str()};
}

class BenchCommand : public testing::TestWithParam<std::vector<std::string>> {};

TEST_P(BenchCommand, ReportsEveryFigureOfThePipeline) {
  std::vector<std::string> arguments = GetParam();
  arguments.insert(arguments.begin(), "pipeline");
  const Ran ran = RunSmall(arguments);
  ASSERT_EQ(ran.code, kExitDone) << ran.err;
  const Json json = Json::parse(ran.out);
  for (const char* key : {"kv_gigabytes_per_s", "wire_gigabytes_per_s", "ratio_to_slowest",
                          "ratio_to_serial_bound", "bytes_moved_per_wire_byte"}) {
    EXPECT_GT(json.at(key).get<double>(), 0) << key;
  }
  for (const char* stage : {"network", "decode", "dequantize", "write"}) {
    EXPECT_GT(json.at("stage_alone_gigabytes_per_s").at(stage).get<double>(), 0) << stage;
  }
  for (const char* key : {"segments", "median", "p99", "p99_to_median"}) {
    EXPECT_GT(json.at("segment_latency_ms").at(key).get<double>(), 0) << key;
  }
  EXPECT_GT(json.at("fused_gigabytes_per_s").get<double>(), 0);
  EXPECT_GT(json.at("fused_ratio").get<double>(), 0);
  EXPECT_TRUE(json.at("cores").is_array());
  EXPECT_EQ(json.at("device"), "mapped");
  EXPECT_EQ(json.at("emulated"), true);
  // Every byte of the wire is at least written once, read once, and gives one byte or more of KV.
  EXPECT_GE(json.at("bytes_moved_per_wire_byte").get<double>(), 2.9);
  EXPECT_NE(json.at("pages_equal_saved"), Json(false));
}

INSTANTIATE_TEST_SUITE_P(
    Routes, BenchCommand,
    testing::Values(std::vector<std::string>{"--profile", "raw"},
                    std::vector<std::string>{"--profile", "q8", "--lossless", "zstd"},
                    std::vector<std::string>{"--profile", "balanced", "--lossless", "none"},
                    std::vector<std::string>{"--lossless", "deflate", "--store",
                                             "memory://?capacity=64MiB"},
                    std::vector<std::string>{"--pages", "rows", "--page-tokens", "16"}));

TEST(BenchCommandTest, NoneIsFasterThanAnEmulatedLink) {
  const Ran ran = RunSmall({"pipeline", "--profile", "raw", "--link", "0.5"});
  ASSERT_EQ(ran.code, kExitDone) << ran.err;
  const Json json = Json::parse(ran.out);
  EXPECT_EQ(json.at("emulated_link_gigabits_per_s"), 0.5);
  // 0.0625 GB/s, and what a window's edges add: loads that ended within it, begun before.
  EXPECT_LT(json.at("stage_alone_gigabytes_per_s").at("network").get<double>(), 0.07);
  EXPECT_LT(json.at("wire_gigabytes_per_s").get<double>(), 0.13);
}

TEST(BenchCommandTest, MeasuresEachPartAlone) {
  for (const char* verb : {"stages", "codec", "store"}) {
    const Ran ran = RunSmall({verb, "--store", "memory://?capacity=64MiB"});
    ASSERT_EQ(ran.code, kExitDone) << verb << ran.err;
    EXPECT_EQ(Json::parse(ran.out).at("bench"), verb);
  }
}

TEST(BenchCommandTest, AnEmulatedCardIsNamedAndBoundsWhatItWouldReach) {
  for (const char* verb : {"pipeline", "stages"}) {
    const Ran ran = RunSmall({verb, "--emulate", "bf3", "--store", "memory://?capacity=64MiB"});
    ASSERT_EQ(ran.code, kExitDone) << ran.err;
    const Json json = Json::parse(ran.out);
    EXPECT_EQ(json.at("emulated"), "bf3");
    EXPECT_EQ(json.at("lossless"), "deflate");
    const Json& card = json.at("card");
    EXPECT_GT(card.at("engine").at("tasks").get<uint64_t>(), 0u);
    EXPECT_GT(card.at("engine").at("gigabits_per_s_here").get<double>(), 0);
    EXPECT_EQ(card.at("engine").at("decoded_here").get<uint64_t>(), 0u);
    EXPECT_EQ(card.at("engine").at("blocks_not_taken").get<uint64_t>(), 0u);
    EXPECT_FALSE(card.at("memory_throttled").get<bool>());
    const Json& limits = card.at("limits_kv_gigabytes_per_s");
    const std::string bottleneck = card.at("bottleneck");
    for (const char* limit : {"network", "engine", "cores", "memory"}) {
      EXPECT_GE(limits.at(limit).get<double>(), limits.at(bottleneck).get<double>()) << limit;
    }
    // bf16 exponents through the engine, half of the bytes: 2 KV bytes per decoded byte.
    EXPECT_NEAR(limits.at("engine").get<double>(), 2 * 23.5, 0.1);
    // Of the card's memory: stored bytes in, checked and read, exponents written and read, the
    // other halves read, pages staged and read.
    EXPECT_GT(card.at("memory_bytes_per_kv_byte").get<double>(), 3.5);
    EXPECT_LT(card.at("memory_bytes_per_kv_byte").get<double>(), 6.5);
  }
}

TEST(BenchCommandTest, EveryLineOfTextSaysEmulated) {
  std::vector<std::string> arguments = {"stages", "--emulate", "bf3", "--format", "text"};
  arguments.insert(arguments.end(), kSmall.begin(), kSmall.end());
  std::ostringstream out;
  std::ostringstream err;
  ASSERT_EQ(RunBench(arguments, false, out, err), kExitDone) << err.str();
  std::istringstream lines(out.str());
  size_t count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    EXPECT_THAT(line, StartsWith("emulated bf3: "));
  }
  EXPECT_GT(count, 20u);
}

TEST(BenchCommandTest, AnUnknownCardIsOneLineAndExitCode2) {
  const Ran ran = RunSmall({"pipeline", "--emulate", "bf9"});
  EXPECT_EQ(ran.code, kExitUsage);
  EXPECT_THAT(ran.err, HasSubstr("--emulate: 'bf9'"));
  EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1);
}

// A lossy profile, so that pages are compared with each other, not with what was saved.
TEST(BenchRigTest, AnEmulatedCardWritesTheSamePages) {
  std::vector<std::string> arguments = {"pipeline",
                                        "--profile",
                                        "q8",
                                        "--lossless",
                                        "deflate",
                                        "--store",
                                        "memory://?capacity=64MiB"};
  arguments.insert(arguments.end(), kSmall.begin(), kSmall.end());
  const BenchOptions plain = ParseBenchOptions(arguments, true).value();
  arguments.insert(arguments.end(), {"--emulate", "bf3"});
  const BenchOptions emulated = ParseBenchOptions(arguments, true).value();
  BenchOptions two_threads = emulated;
  two_threads.cores = {::sched_getcpu(), ::sched_getcpu()};
  std::vector<std::unique_ptr<BenchRig>> rigs;
  for (const BenchOptions& options : {plain, emulated, two_threads}) {
    rigs.push_back(BenchRig::Create(options, {}).value());
    ASSERT_TRUE(rigs.back()->FillStore().ok());
    // The second time the engine knows the blocks.
    for (int round = 0; round < 2; ++round) {
      rigs.back()->StartLoads();
      ASSERT_TRUE(rigs.back()->StopLoads().ok());
    }
  }
  const auto pages = [&](size_t rig) { return rigs[rig]->rank().device().direct(); };
  for (const size_t rig : {size_t{1}, size_t{2}}) {
    ASSERT_GT(rigs[rig]->emulated_engine()->counts().tasks, 0u);
    ASSERT_EQ(pages(0).size(), pages(rig).size());
    EXPECT_EQ(std::memcmp(pages(0).data(), pages(rig).data(), pages(0).size()), 0);
  }
}

TEST(BenchRigTest, ACardsMemoryHoldsThePipelineUpWhereItIsSlower) {
  std::vector<std::string> arguments = {"pipeline", "--emulate", "bf3", "--store",
                                        "memory://?capacity=64MiB"};
  arguments.insert(arguments.end(), kSmall.begin(), kSmall.end());
  BenchOptions options = ParseBenchOptions(arguments, true).value();
  CardProfile slow = *options.card;
  slow.memory_bytes_per_s = 50e6;
  options.card = &slow;
  const auto rig = BenchRig::Create(options, {}).value();
  ASSERT_TRUE(rig->FillStore().ok());
  const int64_t start_ns = rig->clock().NowNs();
  for (int round = 0; round < 4; ++round) {
    rig->StartLoads();
    ASSERT_TRUE(rig->StopLoads().ok());
  }
  const int64_t took_ns = rig->clock().NowNs() - start_ns;
  const EmulatedMemory& memory = *rig->emulated_memory();
  EXPECT_GT(memory.waited_ns(), 0);
  EXPECT_TRUE(rig->LoadedPagesEqualSaved());
  // The last loads were let in before the memory had moved their bytes.
  const double bytes = static_cast<double>(LoadBytesMovedOnCard(rig->metrics()));
  EXPECT_GT(static_cast<double>(took_ns) * 1e-9, bytes / slow.memory_bytes_per_s / 2);
}

TEST(BenchCommandTest, LeavesNothingBehindInAStoreThatIsNotItsOwn) {
  const auto directory = std::filesystem::temp_directory_path() / "bench_command_test_store";
  std::filesystem::remove_all(directory);
  const Ran ran = RunSmall({"store", "--store", "disk://" + directory.string()});
  ASSERT_EQ(ran.code, kExitDone) << ran.err;
  size_t objects = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    objects += entry.is_regular_file() && entry.file_size() > 0 ? 1 : 0;
  }
  EXPECT_EQ(objects, 0u);
  std::filesystem::remove_all(directory);
}

TEST(BenchCommandTest, AStoreThatIsTooSmallIsAnErrorInOneLine) {
  const Ran ran = RunSmall({"pipeline", "--store", "memory://?capacity=64KiB"});
  EXPECT_EQ(ran.code, kExitFound);
  EXPECT_THAT(ran.err, HasSubstr("capacity"));
  EXPECT_EQ(std::count(ran.err.begin(), ran.err.end(), '\n'), 1);
}

TEST(BenchOptionsTest, RawHasNoCodecUnlessOneIsNamed) {
  const auto parse = [](std::vector<std::string> arguments) {
    return ParseBenchOptions(arguments, false).value();
  };
  EXPECT_EQ(parse({"pipeline", "--profile", "raw"}).lossless, CodecId::kNone);
  EXPECT_EQ(parse({"pipeline", "--profile", "raw", "--lossless", "zstd"}).lossless, CodecId::kZstd);
  EXPECT_EQ(parse({"pipeline"}).lossless, CodecId::kZstd);
  EXPECT_THAT(parse({"codec", "--cores", "1,3-5"}).cores, ElementsAre(1, 3, 4, 5));
}

TEST(BenchOptionsTest, AnEngineAndItsDeviceNeedEachOther) {
  const auto parse = [](std::vector<std::string> arguments) {
    return ParseBenchOptions(arguments, false);
  };
  EXPECT_TRUE(parse({"pipeline", "--engine", "software"}).ok());
  EXPECT_EQ(parse({"pipeline", "--engine", "compressdev", "--engine-device", "compress_isal"})
                ->engine_device,
            "compress_isal");
  for (const std::vector<std::string>& bad :
       {std::vector<std::string>{"pipeline", "--engine", "compressdev"},
        {"pipeline", "--engine-device", "compress_isal"},
        {"pipeline", "--engine", "qat"}}) {
    EXPECT_EQ(parse(bad).status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(BenchOptionsTest, ACardIsEmulatedWhereItsEngineAndCoresAreMeasured) {
  const auto parse = [](std::vector<std::string> arguments) {
    return ParseBenchOptions(arguments, false);
  };
  EXPECT_EQ(parse({"pipeline"})->card, nullptr);
  EXPECT_EQ(parse({"stages", "--emulate", "bf3"})->lossless, CodecId::kDeflate);
  EXPECT_EQ(parse({"stages", "--emulate", "bf3", "--lossless", "zstd"})->lossless, CodecId::kZstd);
  EXPECT_TRUE(parse({"pipeline", "--emulate", "bf3", "--cores", "0-15"}).ok());
  for (const std::vector<std::string>& bad :
       {std::vector<std::string>{"codec", "--emulate", "bf3"},
        {"store", "--emulate", "bf3"},
        {"pipeline", "--emulate", "bf3", "--cores", "0-16"},
        {"pipeline", "--emulate", "bf3", "--engine", "compressdev", "--engine-device", "x"}}) {
    EXPECT_EQ(parse(bad).status().code(), StatusCode::kInvalidArgument) << bad[0];
  }
}

// Order-0 entropy of the upper byte of rotated bf16 values, in bits: what a codec can reach.
TEST(KvSampleTest, ExponentsHaveTheEntropyOfRealCaches) {
  for (const bool value : {false, true}) {
    std::vector<uint16_t> values(size_t{kChunkTokens} * 128);
    FillKvPlane(7, value, 128, values);
    std::array<double, 256> counts = {};
    for (const uint16_t v : values) counts[(v >> 7) & 0xff] += 1;
    double bits = 0;
    for (const double count : counts) {
      if (count > 0) bits -= count / 32768.0 * std::log2(count / 32768.0);
    }
    EXPECT_GT(bits, 2.0) << value;
    EXPECT_LT(bits, 4.0) << value;
  }
}

}  // namespace
}  // namespace shadowserve
