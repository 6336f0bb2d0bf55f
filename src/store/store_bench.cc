// How fast an object that is in the page cache reaches the caller's buffer, beside what the machine
// can do: memcpy of the same bytes and a bare pread of the same files. 32 objects round robin, 128
// MiB at 4 MiB each, so that no cache level serves them.
#include <benchmark/benchmark.h>
#include <fcntl.h>

#include <algorithm>

#include "base/unique_fd.h"
#include "store/disk_layout.h"
#include "store/disk_store.h"
#include "store/memory_store.h"
#include "store/store_test_util.h"

namespace shadowserve {
namespace {

constexpr uint64_t kObjects = 32;

void CountBytes(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

void BM_Memcpy(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  const Bytes from(size * kObjects, std::byte{1});
  Bytes to(size * 4);
  uint64_t i = 0;
  for (auto _ : state) {
    std::memcpy(to.data() + i % 4 * size, from.data() + i % kObjects * size, size);
    benchmark::ClobberMemory();
    ++i;
  }
  CountBytes(state);
}

void Fill(Store* store, size_t size) {
  StoreDriver driver(store);
  for (uint64_t i = 0; i < kObjects; ++i) {
    SS_CHECK(driver.PutPair(i, size) == StatusCode::kOk, "put");
  }
}

std::unique_ptr<Store> OpenDisk(const TempDir& dir, DiskStoreOptions::Io io) {
  DiskStoreOptions options;
  options.path = dir.path();
  options.io = io;
  Result<std::unique_ptr<Store>> store = OpenDiskStore(options);
  SS_CHECK(store.ok(), store.status().ToString());
  return std::move(store).value();
}

void BM_OpenPreadClose(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  const TempDir dir(TempPlace::kDisk);
  Fill(OpenDisk(dir, DiskStoreOptions::Io::kSync).get(), size);
  Bytes to(size * 4);
  uint64_t i = 0;
  for (auto _ : state) {
    const std::string path =
        dir.path() + "/" + std::string(ObjectPath(SegmentName(i % kObjects)).view());
    const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const ssize_t got = pread(fd.get(), to.data() + i++ % 4 * size, size, 0);
    SS_CHECK(got == static_cast<ssize_t>(size), "pread");
  }
  CountBytes(state);
}

// `depth` gets in flight; every completion is answered by the next get.
void RunGets(benchmark::State& state, Store* store, size_t size, uint64_t depth) {
  Bytes to(size * depth);
  std::array<ObjectName, kObjects> names;
  for (uint64_t i = 0; i < kObjects; ++i) names[i] = SegmentName(i);
  uint64_t started = 0;
  const auto start = [&](uint64_t place) {
    const StoreRequest get{StoreOp::kGet, names[started++ % kObjects],
                           std::span(to).subspan(place * size, size), place};
    SS_CHECK(store->Submit(std::span(&get, 1)) == 1, "refused");
  };
  uint64_t inflight = 0;
  while (inflight < depth) start(inflight++);
  for (auto _ : state) {
    StoreCompletion done;
    while (store->Poll(std::span(&done, 1)) == 0) {
    }
    SS_CHECK(done.code == StatusCode::kOk && done.bytes == size, "get");
    start(done.user_data);
  }
  while (inflight > 0) {
    StoreCompletion done;
    inflight -= store->Poll(std::span(&done, 1));
  }
  CountBytes(state);
}

void BM_DiskGet(benchmark::State& state, DiskStoreOptions::Io io) {
  const auto size = static_cast<size_t>(state.range(0));
  const TempDir dir(TempPlace::kDisk);
  const auto store = OpenDisk(dir, io);
  Fill(store.get(), size);
  RunGets(state, store.get(), size, 4);
}

void BM_MemoryGet(benchmark::State& state) {
  const auto size = static_cast<size_t>(state.range(0));
  const auto store = MakeMemoryStore({});
  Fill(store.get(), size);
  RunGets(state, store.get(), size, 4);
}

// Puts that replace, into the page cache.
void BM_DiskPut(benchmark::State& state, DiskStoreOptions::Io io) {
  const auto size = static_cast<size_t>(state.range(0));
  const TempDir dir(TempPlace::kDisk);
  const auto store = OpenDisk(dir, io);
  StoreDriver driver(store.get());
  Bytes from(size, std::byte{7});
  uint64_t i = 0;
  for (auto _ : state) {
    SS_CHECK(driver.Run(StoreOp::kPut, SegmentName(i++ % kObjects), from).code == StatusCode::kOk,
             "put");
  }
  CountBytes(state);
}

void Sizes(benchmark::internal::Benchmark* bench) {
  bench->Arg(64 << 10)->Arg(1 << 20)->Arg(4 << 20)->UseRealTime();
}

BENCHMARK(BM_Memcpy)->Apply(Sizes);
BENCHMARK(BM_OpenPreadClose)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_DiskGet, uring, DiskStoreOptions::Io::kUring)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_DiskGet, sync, DiskStoreOptions::Io::kSync)->Apply(Sizes);
BENCHMARK(BM_MemoryGet)->Apply(Sizes);
BENCHMARK_CAPTURE(BM_DiskPut, uring, DiskStoreOptions::Io::kUring)->Arg(1 << 20)->UseRealTime();
BENCHMARK_CAPTURE(BM_DiskPut, sync, DiskStoreOptions::Io::kSync)->Arg(1 << 20)->UseRealTime();

}  // namespace
}  // namespace shadowserve
