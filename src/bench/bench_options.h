// The command line of `shadowctl bench`.
#ifndef SHADOWSERVE_BENCH_BENCH_OPTIONS_H_
#define SHADOWSERVE_BENCH_BENCH_OPTIONS_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/card_profile.h"
#include "format/kv_layout.h"
#include "format/object_name.h"
#include "pipeline/tunables.h"

namespace shadowserve {

enum class BenchVerb : uint8_t { kPipeline, kStages, kCodec, kStore };
enum class BenchPages : uint8_t { kCpuVec, kRows };

struct BenchOptions {
  std::string output;  // not empty: print this and exit 0 (--help)
  BenchVerb verb = BenchVerb::kPipeline;
  bool json = false;
  Profile profile = Profile::kLossless;
  CodecId lossless = CodecId::kZstd;
  std::string store_url;      // empty: a disk store in a directory of its own, removed afterwards
  std::vector<int> cores;     // empty: not pinned
  std::string engine_device;  // of a compressdev codec engine; empty: software
  const CardProfile* card = nullptr;  // emulated; null: none
  double link_gigabits_per_s = 0;     // emulated; 0: none
  BenchPages pages = BenchPages::kCpuVec;
  uint32_t page_tokens = 128;
  // The KV of an 8B model by default.
  ModelShape model = {.layers = 32, .kv_heads = 8, .head_dim = 128, .dtype = KvDtype::kBf16};
  uint32_t chunks = 8;  // of 256 tokens, in one load
  uint32_t joins = kJoinsInflightDefault;
  uint32_t windows = 9;
  double window_seconds = 0.4;
  double warmup_seconds = 1.0;
};

// `arguments`: without "bench"; `json`: the format asked for before it. kInvalidArgument is one
// line that names what is wrong.
Result<BenchOptions> ParseBenchOptions(std::span<const std::string> arguments, bool json);

std::string_view BenchVerbName(BenchVerb verb);
std::string_view BenchPagesName(BenchPages pages);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_BENCH_OPTIONS_H_
