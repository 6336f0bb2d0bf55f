// For tests: loads through a codec engine that is in this process and misbehaves as told.
#ifndef SHADOWSERVE_PIPELINE_ENGINE_TESTING_H_
#define SHADOWSERVE_PIPELINE_ENGINE_TESTING_H_

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "codec/fake_engine_testing.h"
#include "pipeline/pipeline_testing.h"
#include "store/allocation_count_test.h"

namespace shadowserve::testing::engine_test {

constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};
constexpr ModelShape kWide{5, 16, 128, KvDtype::kBf16, 2};
constexpr StoredForm kDeflated{Profile::kLossless, CodecId::kDeflate};
constexpr EngineLimits kLimits{65'535, 16};
constexpr uint32_t kPagesPerChunk = 2;

// As ==, but fast also where nothing is optimized.
inline bool SameBytes(const std::vector<std::byte>& a, const std::vector<std::byte>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

// Chunks saved in one form, and an engine's memory to load them into.
struct EngineBench {
  const uint32_t chunks;
  FakeEngine engine;
  PipelineBench bench;
  EngineMemory from;
  EngineMemory to;
  std::vector<uint32_t> pages;
  uint64_t next_id = 1;

  // With a crew the codec engine has a queue for each of its threads, and for the test's.
  explicit EngineBench(StoredForm form = kDeflated, EngineLimits limits = kLimits,
                       const ModelShape& shape = kShape, bool direct = true,
                       BenchOptions options = {}, uint32_t chunk_count = 3)
      : EngineBench(form, limits, shape, direct, options, chunk_count, options.crew + 1) {}
  EngineBench(StoredForm form, EngineLimits limits, const ModelShape& shape, bool direct,
              BenchOptions options, uint32_t chunk_count, uint32_t queues)
      : chunks(chunk_count),
        engine(limits, queues),
        bench(With(std::move(options), &engine)),
        from(shape, 128, chunks * kPagesPerChunk, Form::kCpuVec, true),
        to(shape, 128, chunks * kPagesPerChunk, Form::kCpuVec, direct),
        pages(size_t{chunks} * kPagesPerChunk),
        form_(form) {
    std::iota(pages.begin(), pages.end(), 0);
    from.Fill(11);
    for (uint32_t i = 0; i < chunks; ++i) SaveChunk(i);
  }
  static BenchOptions With(BenchOptions options, BlockEngine* engine) {
    options.engine = engine;
    return options;
  }

  void SaveChunk(uint32_t i) {
    bench.SaveChunk(next_id++, from, KeyOf(i), {2 * i, 2 * i + 1}, form_);
    bench.Settle();
  }
  uint64_t Start() {
    std::memset(to.bytes.data(), 0, to.bytes.size());
    std::vector<ChunkKey> keys;
    for (uint32_t i = 0; i < chunks; ++i) keys.push_back(KeyOf(i));
    bench.LoadChunks(next_id, to, std::move(keys), pages, form_);
    return next_id++;
  }
  Status Load() {
    const uint64_t id = Start();
    bench.Settle();
    return bench.events.loads.at(id).status;
  }
  // Calls of operator new while the first chunk is loaded so often, all into the same page.
  size_t LoadAllocations(size_t times) {
    const std::vector<uint32_t> same(times * kPagesPerChunk, 1);
    const uint64_t id = next_id++;
    bench.LoadChunks(id, to, std::vector<ChunkKey>(times, KeyOf(0)), same, form_);
    const size_t before = CountAllocations().calls;
    bench.Settle();
    EXPECT_TRUE(bench.events.loads.at(id).status.ok());
    return CountAllocations().calls - before;
  }
  // Both memories have one form, and the chunks fill them.
  bool Same() const { return SameBytes(from.bytes, to.bytes); }
  bool AtRest() const {
    return bench.fetch_slabs->free_count() == bench.fetch_slabs->slab_count() &&
           engine.outstanding() == 0 && !bench.fetch->engine_busy() && !bench.steps_out() &&
           bench.metrics.codec_engine_inflight.value() == 0;
  }
  bool up() const { return bench.metrics.codec_engine_up.value() == 1; }
  uint64_t decoded() const { return bench.metrics.codec_engine_blocks.value(); }
  uint64_t fallbacks(CodecFallbackLabel label) const {
    return bench.metrics.codec_engine_fallbacks[label].value();
  }
  uint64_t fallbacks() const {
    uint64_t all = 0;
    for (size_t i = 0; i < static_cast<size_t>(CodecFallbackLabel::kCount); ++i) {
      all += fallbacks(static_cast<CodecFallbackLabel>(i));
    }
    return all;
  }

 private:
  StoredForm form_;
};

}  // namespace shadowserve::testing::engine_test

#endif  // SHADOWSERVE_PIPELINE_ENGINE_TESTING_H_
