#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "base/check.h"
#include "format/segment_testing.h"

namespace shadowserve {
namespace {

// Keys of a prompt: the lookup's cost before the first message leaves.
void BM_ChunkKeys(benchmark::State& state) {
  const std::vector<uint32_t> tokens(static_cast<size_t>(state.range(0)), 17);
  for (auto _ : state) {
    Digest key = RootKey({});
    for (size_t at = 0; at + kChunkTokens <= tokens.size(); at += kChunkTokens) {
      key = NextChunkKey(key, std::span(tokens).subspan(at, kChunkTokens));
    }
    benchmark::DoNotOptimize(key);
  }
}
BENCHMARK(BM_ChunkKeys)->Arg(32 * 1024)->Unit(benchmark::kMicrosecond);

void BM_Crc32c(benchmark::State& state) {
  const std::vector<std::byte> bytes(static_cast<size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(Crc32c(bytes));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(BM_Crc32c)->Arg(32 * 1024)->Arg(1 << 20);

// A q8 segment of an 8B model: 4 layers, 8 heads of 128.
constexpr SegmentShape kShape = {.layers = {0, 4}, .heads = 8, .head_dim = 128};

void BM_SegmentOpen(benchmark::State& state) {
  const ObjectName name = segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kDeflate, 1);
  const std::vector<std::byte> object = segment_testing::BuildSegment(name, kShape);
  for (auto _ : state) benchmark::DoNotOptimize(SegmentReader::Open(object, name, kShape).ok());
}
BENCHMARK(BM_SegmentOpen)->Unit(benchmark::kMicrosecond);

// CPU seconds per GB (1e9) of stored bytes to check a whole segment, and to finish one. `kNone`: by
// its checksums alone, as without keys. Blocks of 32 KiB.
void SetCpuSecondsPerGb(benchmark::State& state, size_t bytes) {
  state.counters["cpu_s_per_GB"] = benchmark::Counter(
      static_cast<double>(bytes) * 1e-9 * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

std::unique_ptr<Seal> SealOf(SealAlgorithm algorithm) {
  return algorithm == SealAlgorithm::kNone ? nullptr : segment_testing::MakeSeal({7, 8}, algorithm);
}

void BM_SegmentVerify(benchmark::State& state, SealAlgorithm algorithm) {
  const ObjectName name = segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kNone, 1);
  const auto seal = SealOf(algorithm);
  const std::vector<std::byte> object = segment_testing::BuildSegment(name, kShape, seal.get());
  std::vector<std::byte> copy = object;
  for (auto _ : state) {
    const bool sound = seal == nullptr ? VerifySegment(copy, name).ok()
                                       : VerifySealedSegment(copy, name, seal.get()).ok();
    SS_CHECK(sound, "a sound segment was refused");
    if (algorithm != SealAlgorithm::kAes256Gcm) continue;
    state.PauseTiming();
    copy = object;  // it was decrypted in place
    state.ResumeTiming();
  }
  SetCpuSecondsPerGb(state, object.size());
}
BENCHMARK_CAPTURE(BM_SegmentVerify, none, SealAlgorithm::kNone);
BENCHMARK_CAPTURE(BM_SegmentVerify, gmac, SealAlgorithm::kGmac);
BENCHMARK_CAPTURE(BM_SegmentVerify, aes_256_gcm, SealAlgorithm::kAes256Gcm);

void BM_SegmentFinish(benchmark::State& state, SealAlgorithm algorithm) {
  const ObjectName name = segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kNone, 1);
  const auto seal = SealOf(algorithm);
  std::vector<std::byte> buffer(SegmentBytesMax(name.form(), kShape, true), std::byte{0x5A});
  size_t bytes = 0;
  for (auto _ : state) {
    SegmentWriter writer(buffer, name, kShape, seal.get());
    while (!writer.done()) writer.FinishBlock(CodecId::kNone, writer.block_range().elements);
    bytes = writer.Finish().size();
  }
  SetCpuSecondsPerGb(state, bytes);
}
BENCHMARK_CAPTURE(BM_SegmentFinish, none, SealAlgorithm::kNone);
BENCHMARK_CAPTURE(BM_SegmentFinish, gmac, SealAlgorithm::kGmac);
BENCHMARK_CAPTURE(BM_SegmentFinish, aes_256_gcm, SealAlgorithm::kAes256Gcm);

void BM_NameParse(benchmark::State& state) {
  const std::string text =
      ToString(segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kDeflate, 1));
  for (auto _ : state) benchmark::DoNotOptimize(ParseObjectName(text));
}
BENCHMARK(BM_NameParse);

}  // namespace
}  // namespace shadowserve
