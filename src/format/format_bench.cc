#include <benchmark/benchmark.h>

#include <vector>

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

void BM_NameParse(benchmark::State& state) {
  const std::string text =
      ToString(segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kDeflate, 1));
  for (auto _ : state) benchmark::DoNotOptimize(ParseObjectName(text));
}
BENCHMARK(BM_NameParse);

}  // namespace
}  // namespace shadowserve
