// Bytes per second into and out of another process's memory, for each kind of device and run size,
// beside memcpy and the non-temporal copy in this process. 64 MiB are moved a round, through a
// source of 64 MiB, so that neither side stays in a cache. Runs do not touch: as pages of different
// requests.
#include <benchmark/benchmark.h>
#include <sched.h>

#include <cstdlib>
#include <cstring>
#include <vector>

#include "device/kv_device.h"
#include "device/stream_copy.h"
#include "test_engine.h"

namespace shadowserve {
namespace {

constexpr uint64_t kRoundBytes = uint64_t{64} << 20;
constexpr uint64_t kRegionBytes = 4 * kRoundBytes;

std::vector<TransferRun> MakeRuns(std::span<std::byte> local, uint64_t run_bytes, uint64_t round) {
  std::vector<TransferRun> runs;
  for (uint64_t at = 0; at < kRoundBytes; at += run_bytes) {
    // Every fourth run of the region, another quarter each round.
    runs.push_back({4 * at + (round % 4) * run_bytes, local.subspan(at, run_bytes)});
  }
  return runs;
}

void Bench(benchmark::State& state, const char* kind, bool write) {
  Result<std::unique_ptr<TestEngine>> engine = TestEngine::Spawn({kind, kRegionBytes});
  if (!engine.ok()) return state.SkipWithError(engine.status().ToString().c_str());
  Result<KvExport> exported = (*engine)->AwaitExport();
  if (!exported.ok()) return state.SkipWithError(exported.status().ToString().c_str());
  Result<std::unique_ptr<KvDevice>> device = OpenKvDevice(std::move(*exported));
  if (!device.ok()) return state.SkipWithError(device.status().ToString().c_str());
  std::vector<std::byte> local(kRoundBytes, std::byte{1});
  std::vector<TransferRun> rounds[4];
  for (uint64_t i = 0; i < 4; ++i) {
    rounds[i] = MakeRuns(local, static_cast<uint64_t>(state.range(0)), i);
  }
  uint64_t round = 0;
  for (auto _ : state) {
    const Transfer transfer{write, rounds[round++ % 4], 0};
    TransferCompletion completion[1];
    if ((*device)->Submit({&transfer, 1}) != 1) std::abort();
    while ((*device)->Poll(completion) == 0) {
    }
    if (completion[0].code != StatusCode::kOk) return state.SkipWithError("failed");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kRoundBytes));
}

using Copy = void (*)(std::byte*, const std::byte*, size_t);

void BenchCopy(benchmark::State& state, Copy copy) {
  std::vector<std::byte> region(kRegionBytes, std::byte{2});
  std::vector<std::byte> local(kRoundBytes, std::byte{1});
  uint64_t round = 0;
  for (auto _ : state) {
    for (const TransferRun& run : MakeRuns(local, static_cast<uint64_t>(state.range(0)), round)) {
      copy(region.data() + run.offset, run.local.data(), run.local.size());
    }
    ++round;
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kRoundBytes));
}

void Memcpy(std::byte* to, const std::byte* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

// By CPU time: all the work is done by the calling thread, and a busy machine does not distort it
// as much.
#define SS_RUN_SIZES RangeMultiplier(4)->Range(64 << 10, 4 << 20)->Arg(8 << 20)
BENCHMARK_CAPTURE(BenchCopy, memcpy, Memcpy)->SS_RUN_SIZES;
BENCHMARK_CAPTURE(BenchCopy, past_cache, CopyPastCache)->SS_RUN_SIZES;
BENCHMARK_CAPTURE(Bench, mapped_write, "mapped", true)->SS_RUN_SIZES;
BENCHMARK_CAPTURE(Bench, mapped_read, "mapped", false)->SS_RUN_SIZES;
BENCHMARK_CAPTURE(Bench, process_vm_write, "process_vm", true)->SS_RUN_SIZES;
BENCHMARK_CAPTURE(Bench, process_vm_read, "process_vm", false)->SS_RUN_SIZES;
#ifdef SS_HAVE_UCX
BENCHMARK_CAPTURE(Bench, ucx_write, "ucx", true)->SS_RUN_SIZES;
BENCHMARK_CAPTURE(Bench, ucx_read, "ucx", false)->SS_RUN_SIZES;
#endif

}  // namespace
}  // namespace shadowserve
