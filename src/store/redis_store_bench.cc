// Gets of 1 MiB values from a real redis-server on loopback, by this store and by hiredis beside
// it. What counts is client_cpu_s_per_GB (this thread's time, user and system): the server's core
// is the limit of the rate. hiredis copies its reply into the final buffer, as a user of it must.
// BM_GivenServerGet takes the server that SS_BENCH_REDIS names by its URL, on another host for
// example (scripts/bench_link.py): there the rate counts.
#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <cstdlib>

#include "store/redis_process_test.h"
#include "store/redis_store.h"
#include "store/store_table.h"
#if SS_HAVE_HIREDIS
#include <hiredis/hiredis.h>
#endif

namespace shadowserve {
namespace {

constexpr uint64_t kObjects = 32;

double ThreadCpuSeconds() {
  rusage usage = {};
  (void)getrusage(RUSAGE_THREAD, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void Count(benchmark::State& state, double cpu_s) {
  const double bytes =
      static_cast<double>(state.iterations()) * static_cast<double>(state.range(0));
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
  state.counters["client_cpu_s_per_GB"] = cpu_s / (bytes / 1e9);
}

void Fill(Store* store, size_t size) {
  StoreDriver driver(store);
  for (uint64_t i = 0; i < kObjects; ++i) {
    SS_CHECK(driver.PutPair(i, size) == StatusCode::kOk, "put");
  }
}

// range(1) gets of range(0) bytes in flight, waiting for the descriptor in between as the data
// plane does.
void MeasureGets(benchmark::State& state, const std::string& url) {
  const auto size = static_cast<size_t>(state.range(0));
  const auto depth = static_cast<uint64_t>(state.range(1));
  Result<std::unique_ptr<Store>> opened = OpenStore(url, {});
  SS_CHECK(opened.ok(), opened.status().ToString());
  Store* const store = opened->get();
  Fill(store, size);
  Bytes to(size * depth);
  uint64_t started = 0;
  const auto start = [&](uint64_t place) {
    const StoreRequest get{StoreOp::kGet, SegmentName(started++ % kObjects),
                           std::span(to).subspan(place * size, size), place};
    SS_CHECK(store->Submit(std::span(&get, 1)) == 1, "refused");
  };
  uint64_t inflight = 0;
  while (inflight < depth) start(inflight++);
  const double start_s = ThreadCpuSeconds();
  StoreCompletion done;
  const auto wait = [&] {
    while (store->Poll(std::span(&done, 1)) == 0) {
      pollfd event = {store->event_fd(), POLLIN, 0};
      (void)poll(&event, 1, 1000);
    }
  };
  for (auto _ : state) {
    wait();
    SS_CHECK(done.code == StatusCode::kOk && done.bytes == size, "get");
    start(done.user_data);
  }
  Count(state, ThreadCpuSeconds() - start_s);
  for (; inflight > 0; --inflight) wait();
}

void BM_RedisGet(benchmark::State& state, bool tls) {
  if (!RedisProcess::Installed()) return state.SkipWithError("redis-server is not installed");
  const TempDir dir;
  std::vector<std::string> arguments;
  if (tls) {
    if (!MakeCertificates(dir.path(), "IP:127.0.0.1")) return state.SkipWithError("no openssl");
    arguments = {"--tls-cert-file",    dir.path() + "/server.crt",
                 "--tls-key-file",     dir.path() + "/server.key",
                 "--tls-ca-cert-file", dir.path() + "/ca.crt",
                 "--tls-auth-clients", "no"};
  }
  RedisProcess redis(arguments, tls);
  const std::string url = tls ? "rediss://127.0.0.1:" + std::to_string(redis.tls_port()) +
                                    "?ca_file=" + dir.path() + "/ca.crt"
                              : redis.url();
  MeasureGets(state, url);
}

void BM_GivenServerGet(benchmark::State& state) {
  const char* const url = std::getenv("SS_BENCH_REDIS");
  if (url == nullptr) return state.SkipWithError("SS_BENCH_REDIS names no server");
  MeasureGets(state, url);
}
BENCHMARK(BM_GivenServerGet)->Args({1 << 20, 16})->UseRealTime();

#if SS_HAVE_HIREDIS
void BM_HiredisGet(benchmark::State& state) {
  if (!RedisProcess::Installed()) return state.SkipWithError("redis-server is not installed");
  const auto size = static_cast<size_t>(state.range(0));
  const auto depth = static_cast<uint64_t>(state.range(1));
  RedisProcess redis;
  {
    Result<std::unique_ptr<Store>> store = OpenStore(redis.url(), {});
    Fill(store->get(), size);
  }
  redisContext* const context = redisConnect("127.0.0.1", redis.port());
  SS_CHECK(context != nullptr && context->err == 0, "hiredis");
  Bytes to(size * depth);
  uint64_t started = 0;
  const auto start = [&] {
    const std::string name = ToString(SegmentName(started++ % kObjects));
    (void)redisAppendCommand(context, "GET %b", name.data(), name.size());
  };
  while (started < depth) start();
  const double start_s = ThreadCpuSeconds();
  for (auto _ : state) {
    redisReply* reply = nullptr;
    SS_CHECK(
        redisGetReply(context, reinterpret_cast<void**>(&reply)) == REDIS_OK && reply->len == size,
        "get");
    std::memcpy(to.data() + started % depth * size, reply->str, size);
    freeReplyObject(reply);
    start();
  }
  Count(state, ThreadCpuSeconds() - start_s);
  redisFree(context);
}
BENCHMARK(BM_HiredisGet)->Args({1 << 20, 4})->Args({1 << 20, 16})->UseRealTime();
#endif

BENCHMARK_CAPTURE(BM_RedisGet, plain, false)
    ->Args({64 << 10, 16})
    ->Args({1 << 20, 4})
    ->Args({1 << 20, 16})
    ->UseRealTime();
BENCHMARK_CAPTURE(BM_RedisGet, tls, true)->Args({1 << 20, 16})->UseRealTime();

// A lookup's questions: EXISTS, 64 in flight.
void BM_RedisExists(benchmark::State& state) {
  if (!RedisProcess::Installed()) return state.SkipWithError("redis-server is not installed");
  RedisProcess redis;
  Result<std::unique_ptr<Store>> store = OpenStore(redis.url(), {});
  Fill(store->get(), 100);
  const double start_s = ThreadCpuSeconds();
  std::vector<StoreRequest> requests;
  for (uint64_t i = 0; i < 64; ++i) {
    requests.push_back({StoreOp::kExists, MarkerName(i % kObjects), {}, i});
  }
  std::array<StoreCompletion, 64> done;
  for (auto _ : state) {
    SS_CHECK((*store)->Submit(requests) == requests.size(), "refused");
    for (size_t count = 0; count < requests.size();) {
      const size_t got = (*store)->Poll(done);
      count += got;
      pollfd event = {(*store)->event_fd(), POLLIN, 0};
      if (got == 0) (void)poll(&event, 1, 1000);
    }
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()) * 64);
  state.counters["client_cpu_us_per_question"] =
      (ThreadCpuSeconds() - start_s) * 1e6 / static_cast<double>(state.iterations() * 64);
}
BENCHMARK(BM_RedisExists)->UseRealTime();

}  // namespace
}  // namespace shadowserve
