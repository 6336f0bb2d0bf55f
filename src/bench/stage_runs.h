// The four fetch stages, each alone, with the data plane's own store, slabs and pages, on the cores
// that it has in the pipeline: the network on the first, the others on all of them at once. What
// the pipeline is compared with.
//
//   network     objects and markers from the store into slabs: the better of two reads in flight
//               (all that a page cache needs) and of as many as the pipeline may have
//   decode      checksum and decoding of segments that lie in two slabs, into an L2-sized buffer;
//               with an emulated engine through it
//   dequantize  a decoded block into page form, target in cache
//   write       a block in cache to pages in memory, without a conversion
//
// and what the pipeline makes of the last three:
//
//   fused       checksum, decoding and dequantizing into pages, block by block while it is in cache
//
// All figures are KV bytes (the values in the pages) per second, 1e9 bytes to the gigabyte.
#ifndef SHADOWSERVE_BENCH_STAGE_RUNS_H_
#define SHADOWSERVE_BENCH_STAGE_RUNS_H_

#include "base/result.h"
#include "bench/bench_rig.h"

namespace shadowserve {

struct StageRates {
  double network = 0;
  double decode = 0;
  double dequantize = 0;
  double write = 0;
  // What of decode the cores do: all of it, or beside an emulated engine checksums, and blocks that
  // it does not take.
  double decode_on_cores = 0;
  // What the `mapped` device does in place of the last two: one pass from symbols into pages.
  double dequantize_into_pages = 0;
  double fused = 0;  // 0 with an emulated engine
  double kv_bytes_per_wire_byte = 0;
  uint32_t cores = 1;

  double slowest() const;
  // Where every core does its share of everything: cores / (sum of the four stages' seconds of one
  // core per byte).
  double serial_bound() const;
  // The same with what `mapped` does in place of the last two stages.
  double cores_bound() const;
  // `fused` against decoding all, and then dequantizing all into pages, each at its rate alone.
  double fused_ratio() const;
  // KV bytes per second that one core decodes, dequantizes and writes into pages.
  double compute_of_one_core() const;
  // Threads that decode beside the network's before that one is the limit; the network's own
  // core decodes in what time it has left.
  uint32_t decode_cores() const;
  // Cores that a link of so many gigabits per second keeps busy; 0: more than the network's thread
  // takes.
  uint32_t cores_for_link(double gigabits_per_s) const;
};

Result<StageRates> RunStages(BenchRig& rig);
// Network alone; the others stay 0.
Result<StageRates> RunStore(BenchRig& rig);

// The lossless codec alone on one block's symbols, one core, bytes of symbols per second.
struct CodecRates {
  double encode = 0;
  double decode = 0;
  double ratio = 0;  // symbol bytes / coded bytes
};
Result<CodecRates> RunCodec(BenchRig& rig);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_STAGE_RUNS_H_
