// What the scheduler's thread pays per request and per step, without a data plane to talk to:
// hashing and bookkeeping. scripts/bench_scheduler.py measures the same hooks from Python, with
// one.
#include <benchmark/benchmark.h>

#include <numeric>
#include <string>
#include <vector>

#include "base/log.h"
#include "client/kv_manager.h"

namespace shadowserve {
namespace {

constexpr size_t kTokens = 32'768;

std::vector<uint32_t> Prompt() {
  std::vector<uint32_t> tokens(kTokens);
  std::iota(tokens.begin(), tokens.end(), 1000u);
  return tokens;
}

std::unique_ptr<KvManager> MakeManager() {
  SetLogLevel(LogLevel::kOff);
  KvManagerOptions options;
  options.data_plane = "unix:///nonexistent/shadowserve-bench.sock";
  options.engine_id = "bench";
  options.shape = {.layers = 32, .kv_heads = 8, .head_dim = 128, .dtype = KvDtype::kBf16};
  options.page_tokens = 128;
  options.max_load_tokens = uint64_t{1} << 40;
  return KvManager::Create(std::move(options)).value();
}

void ChainKeys(benchmark::State& state) {
  const std::vector<uint32_t> tokens = Prompt();
  for (auto _ : state) {
    KeyChain chain = KeyChain::Make(Digest{}, {}).value();
    chain.Extend(tokens);
    benchmark::DoNotOptimize(chain.keys().data());
  }
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kTokens));
}

void AddAndFinishRequest(benchmark::State& state) {
  const auto manager = MakeManager();
  const std::vector<uint32_t> tokens = Prompt();
  const std::vector<std::string> parts = {"salt absent", "adapter absent"};
  for (auto _ : state) {
    manager->AddRequest("request", tokens, {}, parts);
    manager->FinishRequest("request");
  }
}

void LaterCalls(benchmark::State& state) {
  const auto manager = MakeManager();
  manager->AddRequest("request", Prompt(), {}, {});
  for (auto _ : state) {
    benchmark::DoNotOptimize(manager->MatchedTokens("request", 0));
    benchmark::DoNotOptimize(manager->TakeReleases());
    benchmark::DoNotOptimize(manager->Metadata());
  }
}

BENCHMARK(ChainKeys)->Unit(benchmark::kMicrosecond);
BENCHMARK(AddAndFinishRequest)->Unit(benchmark::kMicrosecond);
BENCHMARK(LaterCalls)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace shadowserve
