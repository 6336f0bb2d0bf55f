#include "bench/bench_command.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "bench/bench_options.h"
#include "bench/kv_sample.h"
#include "cli/commands.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shadowserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
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

TEST(BenchCommandTest, MeasuresEachPartAlone) {
  for (const char* verb : {"stages", "codec", "store"}) {
    const Ran ran = RunSmall({verb, "--store", "memory://?capacity=64MiB"});
    ASSERT_EQ(ran.code, kExitDone) << verb << ran.err;
    EXPECT_EQ(Json::parse(ran.out).at("bench"), verb);
  }
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
