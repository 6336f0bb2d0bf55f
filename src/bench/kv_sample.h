// Synthetic KV values with the statistics of real caches, for benchmarks: their entropy decides
// codec speed and ratio.
//
// Per (layer, head): K is an AR(1) process over tokens (rho 0.75) around channel means, with
// log-normal channel scales (sigma 0.7) and 4 % outlier channels of six times the scale; V is an
// AR(1) process with rho 0.35 and milder scales. Each token's values are scaled by a log-normal
// jitter. So bf16 exponents have about 2.6 bits and int8 symbols about 6.5 bits of order-0 entropy,
// as real ones do.
#ifndef SHADOWSERVE_BENCH_KV_SAMPLE_H_
#define SHADOWSERVE_BENCH_KV_SAMPLE_H_

#include <cstdint>
#include <span>

#include "format/kv_layout.h"

namespace shadowserve {

// Fills one plane, canonical order [token][dim], 16-bit bf16. Deterministic in `seed`.
// REQUIRES: values.size() == kChunkTokens * head_dim.
void FillKvPlane(uint64_t seed, bool value, uint32_t head_dim, std::span<uint16_t> values);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_KV_SAMPLE_H_
