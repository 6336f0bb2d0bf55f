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

constexpr StoredForm kRaw{Profile::kRaw, CodecId::kNone};
constexpr StoredForm kLossless{Profile::kLossless, CodecId::kZstd};
constexpr StoredForm kQ8{Profile::kQ8, CodecId::kZstd};
constexpr StoredForm kBalanced{Profile::kBalanced, CodecId::kZstd};
constexpr StoredForm kPacked{Profile::kBalanced, CodecId::kNone};

constexpr size_t kPagesBytes = size_t{128} << 20;
constexpr SegmentShape kShape = {
    .layers = {.first = 0, .count = 4}, .heads = 8, .head_dim = 128, .dtype = KvDtype::kBf16};

// Memory of many segments, 64-byte aligned, touched once; pages are visited in a scattered order.
struct Workload {
  Pages pages;
  StoredForm stored;
  std::unique_ptr<const Quantizer> quantizer;
  std::vector<std::byte> values = KvLikeValues(kShape, 1);
  std::vector<std::byte> side;
  std::vector<std::byte> plain;
  std::vector<std::byte> symbols;
  BlockRange block;
  std::vector<std::byte> storage;
  std::vector<std::vector<PlanePiece>> targets;  // one block's pieces each

  // `plane`: 0 is one of K, 1 of V. A block of this shape is one plane.
  Workload(StoredForm with, Form form, int64_t page_tokens, int64_t plane = 0)
      : stored(with), block(BlockAt(kShape, static_cast<uint32_t>(plane))) {
    pages = {.form = form, .page_tokens = static_cast<uint32_t>(page_tokens)};
    quantizer = MakeQuantizer(stored).value();
    const ProfileBytes bytes = ProfileBytesOf(stored, kShape).value();
    side.resize(bytes.side);
    plain.resize(bytes.plain(block.elements));
    symbols.resize(bytes.symbols(block.elements));
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

void Dequantize(benchmark::State& state, StoredForm stored, Form form, bool streaming) {
  const Workload work(stored, form, state.range(0), state.range(1));
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
  Workload work(kRaw, form, state.range(0));
  size_t next = 0;
  for (auto _ : state) {
    GatherPieces(kShape, work.targets[next], work.values);
    next = (next + 1) % work.targets.size();
  }
  Report(state, work.block_bytes());
}

// A whole segment: scales, then all blocks.
void Quantize(benchmark::State& state, StoredForm stored) {
  Workload work(stored, Form::kRows, 128);
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
  const Workload work(kRaw, Form::kRows, 128);
  size_t next = 0;
  for (auto _ : state) {
    std::memcpy(work.targets[next][0].base, work.symbols.data(), work.symbols.size());
    next = (next + 1) % work.targets.size();
  }
  Report(state, work.block_bytes());
}

// Cold memory into a hot block.
void MemcpyFrom(benchmark::State& state) {
  Workload work(kRaw, Form::kRows, 128);
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
void Pages32And128(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"page", "v"})->Args({32, 0})->Args({128, 0});
}
// K and V are different work.
void KAndV(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"page", "v"})->ArgsProduct({{32, 128}, {0, 1}});
}

BENCHMARK(Memcpy);
BENCHMARK(MemcpyFrom);
// Rows of raw values, streaming, are the non-temporal copy.
BENCHMARK_CAPTURE(Dequantize, raw_rows_stream, kRaw, Form::kRows, true)->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, raw_rows, kRaw, Form::kRows, false)->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, raw_turned_stream, kRaw, Form::kTransposed, true)
    ->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, raw_turned, kRaw, Form::kTransposed, false)->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, lossless_rows_stream, kLossless, Form::kRows, true)
    ->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, lossless_turned_stream, kLossless, Form::kTransposed, true)
    ->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, q8_rows_stream, kQ8, Form::kRows, true)->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, q8_turned_stream, kQ8, Form::kTransposed, true)->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, q8_turned, kQ8, Form::kTransposed, false)->Apply(Pages32And128);
BENCHMARK_CAPTURE(Dequantize, balanced_rows_stream, kBalanced, Form::kRows, true)->Apply(KAndV);
BENCHMARK_CAPTURE(Dequantize, balanced_turned_stream, kBalanced, Form::kTransposed, true)
    ->Apply(KAndV);
BENCHMARK_CAPTURE(Dequantize, packed_rows_stream, kPacked, Form::kRows, true)->Apply(KAndV);
BENCHMARK_CAPTURE(Dequantize, packed_turned_stream, kPacked, Form::kTransposed, true)->Apply(KAndV);
BENCHMARK_CAPTURE(Gather, rows, Form::kRows)->Apply(PageSizes);
BENCHMARK_CAPTURE(Gather, turned, Form::kTransposed)->Apply(PageSizes);
BENCHMARK_CAPTURE(Quantize, raw, kRaw);
BENCHMARK_CAPTURE(Quantize, lossless, kLossless);
BENCHMARK_CAPTURE(Quantize, q8, kQ8);
BENCHMARK_CAPTURE(Quantize, balanced, kBalanced);
BENCHMARK_CAPTURE(Quantize, packed, kPacked);

}  // namespace
}  // namespace shadowserve
