// Encode and decode of one block on one core, bytes of symbols per second; "ratio" is symbols to
// coded bytes. Blocks rotate through 16 MiB of distinct symbols, so tables are not predicted.
//
// DecodeSideBySide: as many blocks at a time as the codec takes, as the data plane decodes them.
// DecodeByIgzip: the same Deflate blocks by ISA-L, the baseline; DecodeByLibzstd: the same zstd
// frames by libzstd, which also decodes those of more than four bits a symbol for us.
//
// DecodeByEngine: the same Deflate blocks through DPDK's software drivers, by wall clock, with 1 or
// 64 in flight. Their work runs in a thread of the plug-in: software, not hardware.
#include <benchmark/benchmark.h>
#include <isa-l/igzip_lib.h>
#include <zstd.h>

#include <array>
#include <thread>
#include <vector>

#include "codec/codec_table.h"
#include "codec/plugin_engine.h"
#include "codec/sample_symbols.h"

namespace shadowserve {
namespace {

constexpr size_t kDims = 128;
constexpr size_t kTotalBytes = size_t{16} << 20;

struct Workload {
  std::unique_ptr<BlockCodec> codec;
  std::vector<std::byte> symbols;
  size_t block_bytes;
  size_t block_count;

  explicit Workload(const benchmark::State& state)
      : codec(MakeBlockCodec(static_cast<uint8_t>(state.range(0))).value()),
        symbols(
            SampleSymbols(static_cast<SymbolKind>(state.range(1)), kTotalBytes / kDims, kDims, 1)),
        block_bytes(static_cast<size_t>(state.range(2))),
        block_count(kTotalBytes / block_bytes) {}
  std::span<const std::byte> Block(size_t index) const {
    return std::span(symbols).subspan(index * block_bytes, block_bytes);
  }
};

void Report(benchmark::State& state, const Workload& work, size_t coded_bytes) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(work.block_bytes));
  state.counters["ratio"] =
      static_cast<double>(work.block_count * work.block_bytes) / static_cast<double>(coded_bytes);
}

void Encode(benchmark::State& state) {
  Workload work(state);
  std::vector<std::byte> out(work.block_bytes);
  size_t coded_bytes = 0;
  for (size_t i = 0; i < work.block_count; ++i) {
    coded_bytes += work.codec->Encode(work.Block(i), out);
  }
  size_t block = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(work.codec->Encode(work.Block(block), out));
    block = (block + 1) % work.block_count;
  }
  Report(state, work, coded_bytes);
}

// All blocks, encoded; adds up their sizes.
std::vector<std::vector<std::byte>> EncodeAll(Workload& work, size_t* coded_bytes) {
  std::vector<std::vector<std::byte>> coded(work.block_count);
  for (size_t i = 0; i < work.block_count; ++i) {
    coded[i].resize(work.block_bytes);
    coded[i].resize(work.codec->Encode(work.Block(i), coded[i]));
    *coded_bytes += coded[i].size();
  }
  return coded;
}

// One block after the other; `decode(coded, symbols)` says whether it is good.
template <typename DecodeBlock>
void DecodeAlone(benchmark::State& state, Workload& work, DecodeBlock decode) {
  size_t coded_bytes = 0;
  const std::vector<std::vector<std::byte>> coded = EncodeAll(work, &coded_bytes);
  std::vector<std::byte> out(work.block_bytes);
  size_t block = 0;
  for (auto _ : state) {
    if (!decode(coded[block], out)) state.SkipWithError("corrupt");
    block = (block + 1) % work.block_count;
  }
  Report(state, work, coded_bytes);
}

using Coded = std::span<const std::byte>;
using Out = std::span<std::byte>;

void Decode(benchmark::State& state) {
  Workload work(state);
  DecodeAlone(state, work,
              [&](Coded coded, Out out) { return work.codec->Decode(coded, out).ok(); });
}

void DecodeSideBySide(benchmark::State& state) {
  Workload work(state);
  size_t coded_bytes = 0;
  const std::vector<std::vector<std::byte>> coded = EncodeAll(work, &coded_bytes);
  constexpr size_t kCount = kBlocksSideBySideMax;
  std::vector<std::byte> out(kCount * kSymbolStride);
  std::array<CodedBlock, kCount> blocks;
  size_t next = 0;
  for (auto _ : state) {
    for (size_t i = 0; i < kCount; ++i) {
      blocks[i] = {coded[next], std::span(out).subspan(i * kSymbolStride, work.block_bytes), {}};
      next = (next + 1) % work.block_count;
    }
    work.codec->DecodeEach(blocks);
    for (const CodedBlock& block : blocks) {
      if (!block.status.ok()) state.SkipWithError("corrupt");
    }
  }
  Report(state, work, coded_bytes);
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(kCount * work.block_bytes));
}

void DecodeByIgzip(benchmark::State& state) {
  Workload work(state);
  inflate_state inflate;
  isal_inflate_init(&inflate);
  DecodeAlone(state, work, [&](Coded coded, Out out) {
    isal_inflate_reset(&inflate);
    inflate.next_in = reinterpret_cast<uint8_t*>(const_cast<std::byte*>(coded.data()));
    inflate.avail_in = static_cast<uint32_t>(coded.size());
    inflate.next_out = reinterpret_cast<uint8_t*>(out.data());
    inflate.avail_out = static_cast<uint32_t>(out.size());
    return isal_inflate_stateless(&inflate) == ISAL_DECOMP_OK;
  });
}

void DecodeByLibzstd(benchmark::State& state) {
  Workload work(state);
  const std::unique_ptr<ZSTD_DCtx, decltype(&ZSTD_freeDCtx)> decoder(ZSTD_createDCtx(),
                                                                     ZSTD_freeDCtx);
  DecodeAlone(state, work, [&](Coded coded, Out out) {
    return ZSTD_decompressDCtx(decoder.get(), out.data(), out.size(), coded.data(), coded.size()) ==
           out.size();
  });
}

void DecodeByEngine(benchmark::State& state, const char* device) {
  constexpr uint32_t kDepth = 64;
  Workload work(state);
  auto engine = OpenPluginEngine({.device = device, .depth = kDepth});
  if (!engine.ok()) return state.SkipWithError(std::string(engine.status().message()).c_str());
  {
    const std::unique_ptr<EngineQueue> queue = (*engine)->OpenQueue().value();
    size_t coded_bytes = 0;
    const std::vector<std::vector<std::byte>> coded = EncodeAll(work, &coded_bytes);
    std::vector<std::vector<std::byte>> out(kDepth, std::vector<std::byte>(work.block_bytes));
    std::vector<uint64_t> free(static_cast<size_t>(state.range(3)));
    for (size_t i = 0; i < free.size(); ++i) free[i] = i;
    const size_t depth = free.size();
    std::array<EngineDone, 16> done;
    size_t block = 0;
    const auto collect = [&] {
      size_t count = 0;
      while ((count = queue->Poll(done)) == 0) std::this_thread::yield();
      for (size_t i = 0; i < count; ++i) {
        if (done[i].code != StatusCode::kOk) state.SkipWithError("not decoded");
        free.push_back(done[i].tag);
      }
    };
    for (auto _ : state) {
      if (free.empty()) collect();
      const EngineOp op{coded[block], out[free.back()], free.back()};
      if (queue->Submit(std::span(&op, 1)) != 1) state.SkipWithError("not taken");
      free.pop_back();
      block = (block + 1) % work.block_count;
    }
    while (free.size() < depth) collect();
    Report(state, work, coded_bytes);
  }
}

// Codec id, SymbolKind, block bytes.
void Blocks(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"codec", "kind", "block"});
  for (const int64_t codec : {1, 2}) {
    for (const int64_t kind : {0, 1}) {
      for (const int64_t block : {32 << 10, 64 << 10}) bench->Args({codec, kind, block});
    }
  }
}

BENCHMARK(Decode)->Apply(Blocks);
BENCHMARK(DecodeSideBySide)->Apply(Blocks);
BENCHMARK(Encode)->Apply(Blocks);

template <int64_t kCodec>
void BlocksOf(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"codec", "kind", "block"});
  for (const int64_t kind : {0, 1}) {
    for (const int64_t block : {32 << 10, 64 << 10}) bench->Args({kCodec, kind, block});
  }
}

BENCHMARK(DecodeByIgzip)->Apply(BlocksOf<1>);
BENCHMARK(DecodeByLibzstd)->Apply(BlocksOf<2>);

// The same and how many are in flight.
void EngineBlocks(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"codec", "kind", "block", "inflight"})->UseRealTime();
  for (const int64_t kind : {0, 1}) {
    for (const int64_t inflight : {1, 64}) bench->Args({1, kind, 32 << 10, inflight});
  }
}

BENCHMARK_CAPTURE(DecodeByEngine, isal, "compress_isal")->Apply(EngineBlocks);
BENCHMARK_CAPTURE(DecodeByEngine, zlib, "compress_zlib")->Apply(EngineBlocks);

}  // namespace
}  // namespace shadowserve
