// One core, bytes of KV values (the 16-bit side) per second. Blocks are hot in cache, as after a
// decode; pages are too many for any cache. Copies of the same shape are the yardstick.
#include <benchmark/benchmark.h>

#include <memory>
#include <vector>

#include "format/segment.h"
#include "quant/quant_testing.h"
#include "quant/quantizer.h"

namespace shadowserve {
namespace {

using quant_testing::Form;
using quant_testing::KvLikeValues;
using quant_testing::Pages;

constexpr size_t kPagesBytes = size_t{128} << 20;
constexpr SegmentShape kShape = {
    .layers = {.first = 0, .count = 4}, .heads = 8, .head_dim = 128, .dtype = KvDtype::kBf16};

// Memory of many segments, 64-byte aligned, touched once; pages are visited in a scattered order.
struct Workload {
  Pages pages;
  Profile profile = Profile::kRaw;
  std::unique_ptr<const Quantizer> quantizer;
  std::vector<std::byte> values = KvLikeValues(kShape, 1);
  std::vector<std::byte> side;
  std::vector<std::byte> plain;
  std::vector<std::byte> symbols;
  BlockRange block = BlockAt(kShape, 0);
  std::vector<std::byte> storage;
  std::vector<std::vector<PlanePiece>> targets;  // one block's pieces each

  Workload(Profile with, Form form, int64_t page_tokens) : profile(with) {
    pages = {.form = form, .page_tokens = static_cast<uint32_t>(page_tokens)};
    quantizer = MakeQuantizer(profile).value();
    const ProfileBytes bytes = ProfileBytesOf(profile, kShape).value();
    side.resize(bytes.side);
    plain.resize(block.elements * bytes.plain_per_element);
    symbols.resize(block.elements * bytes.symbols_per_element);
    quantizer->WriteSide(kShape, values, side);
    quantizer->QuantizeBlock(kShape, block, values, side, plain, symbols);
    storage.resize(kPagesBytes + 64, std::byte{1});
    auto* memory = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64);
    const size_t block_bytes = block.elements * 2;
    const size_t count = kPagesBytes / block_bytes;
    for (size_t i = 0; i < count; ++i) {
      targets.push_back(pages.Pieces(kShape, block.first_plane, block.planes, 0, kChunkTokens,
                                     memory + i * 389 % count * block_bytes));
    }
  }
  size_t block_bytes() const { return size_t{block.elements} * 2; }
};

void Report(benchmark::State& state, size_t bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(bytes));
}

void Dequantize(benchmark::State& state, Profile profile, Form form, bool streaming) {
  const Workload work(profile, form, state.range(0));
  size_t next = 0;
  for (auto _ : state) {
    work.quantizer->DequantizeBlock(kShape, work.block, work.side, work.plain, work.symbols,
                                    work.targets[next], streaming);
    next = (next + 1) % work.targets.size();
  }
  StoreFence();
  Report(state, work.block_bytes());
}

void Gather(benchmark::State& state, Form form) {
  Workload work(Profile::kRaw, form, state.range(0));
  size_t next = 0;
  for (auto _ : state) {
    GatherPieces(kShape, work.targets[next], work.values);
    next = (next + 1) % work.targets.size();
  }
  Report(state, work.block_bytes());
}

// A whole segment: scales, then all blocks.
void Quantize(benchmark::State& state, Profile profile) {
  Workload work(profile, Form::kRows, 128);
  for (auto _ : state) {
    work.quantizer->WriteSide(kShape, work.values, work.side);
    for (uint32_t i = 0; i < BlockCount(kShape); ++i) {
      work.quantizer->QuantizeBlock(kShape, BlockAt(kShape, i), work.values, work.side, work.plain,
                                    work.symbols);
    }
  }
  Report(state, kShape.raw_bytes());
}

// A hot block into cold memory.
void Memcpy(benchmark::State& state) {
  const Workload work(Profile::kRaw, Form::kRows, 128);
  size_t next = 0;
  for (auto _ : state) {
    std::memcpy(work.targets[next][0].base, work.symbols.data(), work.symbols.size());
    next = (next + 1) % work.targets.size();
  }
  Report(state, work.block_bytes());
}

// Cold memory into a hot block.
void MemcpyFrom(benchmark::State& state) {
  Workload work(Profile::kRaw, Form::kRows, 128);
  size_t next = 0;
  for (auto _ : state) {
    std::memcpy(work.symbols.data(), work.targets[next][0].base, work.symbols.size());
    next = (next + 1) % work.targets.size();
  }
  Report(state, work.block_bytes());
}

void PageSizes(benchmark::internal::Benchmark* bench) {
  bench->ArgName("page")->Arg(32)->Arg(128);
}

BENCHMARK(Memcpy);
BENCHMARK(MemcpyFrom);
// Rows of raw values, streaming, are the non-temporal copy.
BENCHMARK_CAPTURE(Dequantize, raw_rows_stream, Profile::kRaw, Form::kRows, true)->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, raw_rows, Profile::kRaw, Form::kRows, false)->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, raw_turned_stream, Profile::kRaw, Form::kTransposed, true)
    ->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, raw_turned, Profile::kRaw, Form::kTransposed, false)
    ->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, lossless_rows_stream, Profile::kLossless, Form::kRows, true)
    ->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, lossless_turned_stream, Profile::kLossless, Form::kTransposed, true)
    ->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, q8_rows_stream, Profile::kQ8, Form::kRows, true)->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, q8_turned_stream, Profile::kQ8, Form::kTransposed, true)
    ->Apply(PageSizes);
BENCHMARK_CAPTURE(Dequantize, q8_turned, Profile::kQ8, Form::kTransposed, false)->Apply(PageSizes);
BENCHMARK_CAPTURE(Gather, rows, Form::kRows)->Apply(PageSizes);
BENCHMARK_CAPTURE(Gather, turned, Form::kTransposed)->Apply(PageSizes);
BENCHMARK_CAPTURE(Quantize, raw, Profile::kRaw);
BENCHMARK_CAPTURE(Quantize, lossless, Profile::kLossless);
BENCHMARK_CAPTURE(Quantize, q8, Profile::kQ8);

}  // namespace
}  // namespace shadowserve
