// Vector kernels, compiled once per instruction set and chosen at run time. Bit-exact with
// quant_scalar.cc. Vectors are at most 256 bits: two 128-bit blocks, which the transpose needs.
//
// A Source turns N consecutive elements of a token, from dim d on, into N finished 16-bit values.
// Rows are stored as they come; for transposed pages N x N tiles are turned in registers. Where
// dims or tokens are no multiple of N, the last vector or tile overlaps the one before and writes
// the same bytes again. Fewer than N of either run in scalar code.
#include <algorithm>
#include <array>
#include <cstring>

#include "format/kv_layout.h"
#include "quant/quant_kernels.h"
#include "quant/quant_numeric.h"

// Tiles are arrays of vectors, which scalable vectors cannot form; their CPUs run the NEON code.
#ifndef SS_HWY_DISABLED_TARGETS  // more of them in sanitizer builds, which compile slowly
#define SS_HWY_DISABLED_TARGETS 0
#endif
#define HWY_DISABLED_TARGETS \
  (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV | SS_HWY_DISABLED_TARGETS)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/quant_highway.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace shadowserve {
namespace HWY_NAMESPACE {
#if HWY_TARGET != HWY_SCALAR

namespace hn = hwy::HWY_NAMESPACE;

using D16 = hn::CappedTag<uint16_t, 16>;
using DI16 = hn::RebindToSigned<D16>;
using D8 = hn::Rebind<uint8_t, D16>;
using DI8 = hn::Rebind<int8_t, D16>;
using DU32 = hn::Repartition<uint32_t, D16>;
using DI32 = hn::Repartition<int32_t, D16>;
using DF32 = hn::Repartition<float, D16>;
using V16 = hn::Vec<D16>;
using VU32 = hn::Vec<DU32>;
using VF32 = hn::Vec<DF32>;

constexpr size_t kN = std::min<size_t>(HWY_LANES(uint16_t), 16);
constexpr size_t kVectorBytes = kN * 2;
static_assert(kN == 8 || kN == 16);
// Pages are written and read in whole cache lines: a non-temporal store of part of a line costs a
// memory transaction of its own.
constexpr size_t kLineBytes = 64;
constexpr size_t kLineTiles = kLineBytes / kVectorBytes;
constexpr size_t kLineTokens = kLineTiles * kN;

HWY_INLINE V16 Load16(const std::byte* at) {
  return hn::LoadU(D16(), reinterpret_cast<const uint16_t*>(at));
}

template <bool kStream>
HWY_INLINE void Store16(V16 v, std::byte* at) {
  if constexpr (kStream) {
    hn::Stream(v, D16(), reinterpret_cast<uint16_t*>(at));
  } else {
    hn::StoreU(v, D16(), reinterpret_cast<uint16_t*>(at));
  }
}

// ---- f32 to 16 bits: two vectors of 32 bits, even and odd elements, make one of 16 ----

// bf16 is the upper half, rounded up where lower half + 0x7FFF + (upper half's last bit) carries:
// bit 15 of the halved sum, which AverageRound (a + b + 1) / 2 gives for both elements at once.
struct ToBf16 {
  static HWY_INLINE V16 FromEvenOdd(VF32 even, VF32 odd) {
    const D16 d;
    const VU32 even_bits = hn::BitCast(DU32(), even);
    const VU32 odd_bits = hn::BitCast(DU32(), odd);
    const V16 high =
        hn::OddEven(hn::BitCast(d, odd_bits), hn::BitCast(d, hn::ShiftRight<16>(even_bits)));
    const V16 low =
        hn::OddEven(hn::BitCast(d, hn::ShiftLeft<16>(odd_bits)), hn::BitCast(d, even_bits));
    const V16 add = hn::Add(hn::And(high, hn::Set(d, 1)), hn::Set(d, 0x7FFE));
    return hn::Add(high, hn::ShiftRight<15>(hn::AverageRound(low, add)));
  }
};

struct ToFp16 {
  static HWY_INLINE VU32 Round(VF32 value) {
    const DU32 d;
    const VU32 bits = hn::BitCast(d, value);
    const VU32 magnitude = hn::And(bits, hn::Set(d, 0x7FFFFFFF));
    const auto signed_magnitude = hn::BitCast(DI32(), magnitude);
    const VF32 magic = hn::BitCast(DF32(), hn::Set(d, kFp16StepMagic));
    const VU32 subnormal = hn::Sub(hn::BitCast(d, hn::Add(hn::BitCast(DF32(), magnitude), magic)),
                                   hn::Set(d, kFp16StepMagic));
    const VU32 odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(d, 1));
    const VU32 normal =
        hn::ShiftRight<13>(hn::Add(hn::Sub(magnitude, hn::Set(d, kFp16Rebias)), odd));
    const auto is_small =
        hn::Lt(signed_magnitude, hn::Set(DI32(), static_cast<int32_t>(kFp16NormalMin)));
    const auto is_big =
        hn::Gt(signed_magnitude, hn::Set(DI32(), static_cast<int32_t>(kFp16Overflow - 1)));
    VU32 half = hn::IfThenElse(hn::RebindMask(d, is_small), subnormal, normal);
    half = hn::IfThenElse(hn::RebindMask(d, is_big), hn::Set(d, kFp16Infinity), half);
    return hn::Or(half, hn::ShiftLeft<15>(hn::ShiftRight<31>(bits)));
  }
  static HWY_INLINE V16 FromEvenOdd(VF32 even, VF32 odd) {
    return hn::BitCast(D16(), hn::Or(Round(even), hn::ShiftLeft<16>(Round(odd))));
  }
};

// ---- sources ----

// Sources and rows are passed by value: the compiler must see that no store to a page changes them.

struct RawSource {
  struct Row {
    const std::byte* values;
    HWY_INLINE V16 Load(size_t dim) const { return Load16(values + dim * 2); }
  };
  const std::byte* values;
  size_t dims;

  RawSource(const ScatterWork& work, const float*) : values(work.symbols), dims(work.dims) {}
  HWY_INLINE Row At(size_t token) const { return {values + token * dims * 2}; }
};

struct LosslessSource {
  struct Row {
    const uint8_t* symbols;
    const uint8_t* plain;
    // (symbol << 8 | plain) rotated right by one.
    HWY_INLINE V16 Load(size_t dim) const {
      const V16 high = hn::PromoteTo(D16(), hn::LoadU(D8(), symbols + dim));
      const V16 low = hn::PromoteTo(D16(), hn::LoadU(D8(), plain + dim));
      return hn::Or(hn::Or(hn::ShiftLeft<7>(high), hn::ShiftRight<1>(low)), hn::ShiftLeft<15>(low));
    }
  };
  const uint8_t* symbols;
  const uint8_t* plain;
  size_t dims;

  LosslessSource(const ScatterWork& work, const float*)
      : symbols(reinterpret_cast<const uint8_t*>(work.symbols)),
        plain(reinterpret_cast<const uint8_t*>(work.plain)),
        dims(work.dims) {}
  HWY_INLINE Row At(size_t token) const { return {symbols + token * dims, plain + token * dims}; }
};

template <typename To>
struct Q8Source {
  struct Row {
    const int8_t* symbols;
    float scale;
    HWY_INLINE V16 Load(size_t dim) const {
      const auto wide = hn::BitCast(DI32(), hn::PromoteTo(DI16(), hn::LoadU(DI8(), symbols + dim)));
      const VF32 even = hn::ConvertTo(DF32(), hn::ShiftRight<16>(hn::ShiftLeft<16>(wide)));
      const VF32 odd = hn::ConvertTo(DF32(), hn::ShiftRight<16>(wide));
      const VF32 factor = hn::Set(DF32(), scale);
      return To::FromEvenOdd(hn::Mul(even, factor), hn::Mul(odd, factor));
    }
  };
  const int8_t* symbols;
  const float* scales;  // safe ones, of the piece's tokens
  size_t dims;

  Q8Source(const ScatterWork& work, const float* safe_scales)
      : symbols(reinterpret_cast<const int8_t*>(work.symbols)),
        scales(safe_scales),
        dims(work.dims) {}
  HWY_INLINE Row At(size_t token) const { return {symbols + token * dims, scales[token]}; }
};

// ---- tiles ----

// 8 x 8 transposes of 16-bit elements within each 128-bit block.
HWY_INLINE void TransposeBlocks(V16* HWY_RESTRICT v) {
  const D16 d16;
  const DU32 d32;
  const hn::Repartition<uint64_t, D16> d64;
  using V64 = hn::Vec<decltype(d64)>;
  VU32 pair[8];
  for (size_t i = 0; i < 4; ++i) {
    pair[i] = hn::BitCast(d32, hn::InterleaveLower(d16, v[2 * i], v[2 * i + 1]));
    pair[i + 4] = hn::BitCast(d32, hn::InterleaveUpper(d16, v[2 * i], v[2 * i + 1]));
  }
  V64 quad[8];
  for (size_t i = 0; i < 4; ++i) {
    quad[2 * i] = hn::BitCast(d64, hn::InterleaveLower(d32, pair[2 * i], pair[2 * i + 1]));
    quad[2 * i + 1] = hn::BitCast(d64, hn::InterleaveUpper(d32, pair[2 * i], pair[2 * i + 1]));
  }
  for (size_t half = 0; half < 2; ++half) {
    for (size_t i = 0; i < 2; ++i) {
      const V64 a = quad[4 * half + i];
      const V64 b = quad[4 * half + 2 + i];
      v[4 * half + 2 * i] = hn::BitCast(d16, hn::InterleaveLower(d64, a, b));
      v[4 * half + 2 * i + 1] = hn::BitCast(d16, hn::InterleaveUpper(d64, a, b));
    }
  }
}

// Turns kN rows of kN elements; row i of the result goes to store(i, row).
template <typename Store>
HWY_INLINE void TransposeTile(V16* HWY_RESTRICT v, const Store& store) {
  TransposeBlocks(v);
  if constexpr (kN == 8) {
    for (size_t i = 0; i < 8; ++i) store(i, v[i]);
  } else {
    TransposeBlocks(v + 8);
    for (size_t i = 0; i < 8; ++i) store(i, hn::ConcatLowerLower(D16(), v[8 + i], v[i]));
    for (size_t i = 0; i < 8; ++i) store(8 + i, hn::ConcatUpperUpper(D16(), v[8 + i], v[i]));
  }
}

// ---- scatter ----

template <bool kStream, typename Source>
void ScatterRows(ScatterWork work, Source source) {
  const size_t last = work.dims - kN;
  for (size_t t = 0; t < work.tokens; ++t) {
    const auto row = source.At(t);
    std::byte* to = work.base + t * work.token_stride;
    for (size_t d = 0; d <= last; d += kN) Store16<kStream>(row.Load(d), to + d * 2);
    if (last % kN != 0) Store16<false>(row.Load(last), to + last * 2);
  }
}

template <typename Source>
HWY_INLINE void LoadTile(Source source, size_t t, size_t d, V16* HWY_RESTRICT tile) {
  for (size_t i = 0; i < kN; ++i) tile[i] = source.At(t + i).Load(d);
}

// kN tokens of kN dims, to `to`.
template <bool kStream, typename Source>
HWY_INLINE void ScatterTile(Source source, size_t t, size_t d, std::byte* to, size_t dim_stride) {
  V16 tile[kN];
  LoadTile(source, t, d, tile);
  TransposeTile(tile, [&](size_t i, V16 v) { Store16<kStream>(v, to + i * dim_stride); });
}

// A line's tokens of kN dims: all tiles are turned before the first line is written.
template <bool kStream, typename Source>
HWY_INLINE void ScatterLines(Source source, size_t t, size_t d, std::byte* to, size_t dim_stride) {
  V16 lines[kLineTiles][kN];
  for (size_t j = 0; j < kLineTiles; ++j) {
    V16 tile[kN];
    LoadTile(source, t + j * kN, d, tile);
    TransposeTile(tile, [&](size_t i, V16 v) { lines[j][i] = v; });
  }
  for (size_t i = 0; i < kN; ++i) {
    for (size_t j = 0; j < kLineTiles; ++j) {
      Store16<kStream>(lines[j][i], to + i * dim_stride + j * kVectorBytes);
    }
  }
}

// Dims outside, tokens inside: the order of the page's memory.
template <bool kStream, typename Source>
void ScatterTransposed(ScatterWork work, Source source) {
  const size_t last_token = work.tokens - kN;
  for (size_t step = 0; step < work.dims; step += kN) {
    const size_t d = std::min<size_t>(step, work.dims - kN);
    std::byte* to = work.base + d * work.dim_stride;
    size_t t = 0;
    for (; t + kLineTokens <= work.tokens; t += kLineTokens) {
      ScatterLines<kStream>(source, t, d, to + t * 2, work.dim_stride);
    }
    for (; t < work.tokens; t += kN) {
      const size_t first = std::min(t, last_token);
      ScatterTile<false>(source, first, d, to + first * 2, work.dim_stride);
    }
  }
}

// Pages of kN tokens: a tile is one run of memory.
template <bool kStream, typename Source>
void ScatterSmallPage(ScatterWork work, Source source) {
  for (size_t step = 0; step < work.dims; step += kN) {
    const size_t d = std::min<size_t>(step, work.dims - kN);
    ScatterTile<kStream>(source, 0, d, work.base + d * work.dim_stride, work.dim_stride);
  }
}

template <typename Source>
bool ScatterFast(const ScatterWork& work) {
  const bool rows = work.dim_stride == 2;
  const bool turned = !rows && work.token_stride == 2 && work.tokens >= kN;
  if (work.dims < kN || !(rows || turned)) return false;
  std::array<float, kChunkTokens> scales;
  if (work.scales != nullptr) {
    std::memcpy(scales.data(), work.scales, work.tokens * sizeof(float));
    for (size_t t = 0; t < work.tokens; ++t) scales[t] = SafeScale(scales[t]);
  }
  const Source source(work, scales.data());
  const auto aligned = [&](size_t stride, size_t bytes) {
    return (reinterpret_cast<uintptr_t>(work.base) | stride) % bytes == 0;
  };
  if (rows) {
    const bool stream = work.streaming && aligned(work.token_stride, kVectorBytes);
    (stream ? ScatterRows<true, Source> : ScatterRows<false, Source>)(work, source);
  } else if (work.tokens == kN && work.dim_stride == kVectorBytes) {
    const bool stream = work.streaming && aligned(0, kVectorBytes);
    (stream ? ScatterSmallPage<true, Source> : ScatterSmallPage<false, Source>)(work, source);
  } else {
    const bool stream = work.streaming && aligned(work.dim_stride, kLineBytes);
    (stream ? ScatterTransposed<true, Source> : ScatterTransposed<false, Source>)(work, source);
  }
  return true;
}

void ScatterRaw8(const ScatterWork& work) {
  // Rows of an even number of bytes are rows of half as many 16-bit elements.
  if (work.dim_stride == 1 && work.dims % 2 == 0) {
    ScatterWork pairs = work;
    pairs.dims = work.dims / 2;
    pairs.dim_stride = 2;
    if (ScatterFast<RawSource>(pairs)) return;
  }
  ScalarKernels().scatter_raw8(work);
}
void ScatterRaw16(const ScatterWork& work) {
  if (!ScatterFast<RawSource>(work)) ScalarKernels().scatter_raw16(work);
}
void ScatterLossless(const ScatterWork& work) {
  if (!ScatterFast<LosslessSource>(work)) ScalarKernels().scatter_lossless(work);
}
void ScatterQ8Bf16(const ScatterWork& work) {
  if (!ScatterFast<Q8Source<ToBf16>>(work)) ScalarKernels().scatter_q8_bf16(work);
}
void ScatterQ8Fp16(const ScatterWork& work) {
  if (!ScatterFast<Q8Source<ToFp16>>(work)) ScalarKernels().scatter_q8_fp16(work);
}

// ---- gather ----

void GatherRows(const GatherWork& work, size_t row_bytes) {
  if (work.token_stride == row_bytes) {
    std::memcpy(work.values, work.base, work.tokens * row_bytes);
    return;
  }
  for (size_t t = 0; t < work.tokens; ++t) {
    std::memcpy(work.values + t * row_bytes, work.base + t * work.token_stride, row_bytes);
  }
}

HWY_INLINE void GatherTile(GatherWork work, size_t t, size_t d) {
  V16 tile[kN];
  const std::byte* from = work.base + d * work.dim_stride + t * 2;
  for (size_t i = 0; i < kN; ++i) tile[i] = Load16(from + i * work.dim_stride);
  std::byte* to = work.values + (t * work.dims + d) * 2;
  TransposeTile(tile, [&](size_t i, V16 v) { Store16<false>(v, to + i * work.dims * 2); });
}

// The stride between dims is beyond what hardware prefetchers follow well, so the lines of the next
// kN dims are asked for while these are turned.
void GatherTransposed(GatherWork work) {
  const size_t last_token = work.tokens - kN;
  const size_t step_bytes = kN * work.dim_stride;
  for (size_t step = 0; step < work.dims; step += kN) {
    const size_t d = std::min<size_t>(step, work.dims - kN);
    const bool more = step + 2 * kN <= work.dims;
    for (size_t t = 0; t < work.tokens; t += kN) {
      const size_t first = std::min(t, last_token);
      if (more && t % kLineTokens == 0) {
        const std::byte* next = work.base + d * work.dim_stride + step_bytes + first * 2;
        for (size_t i = 0; i < kN; ++i) hwy::Prefetch(next + i * work.dim_stride);
      }
      GatherTile(work, first, d);
    }
  }
}

void Gather8(const GatherWork& work) {
  if (work.dim_stride == 1) return GatherRows(work, work.dims);
  ScalarKernels().gather8(work);
}
void Gather16(const GatherWork& work) {
  if (work.dim_stride == 2) return GatherRows(work, size_t{work.dims} * 2);
  if (work.token_stride == 2 && work.tokens >= kN && work.dims >= kN) {
    return GatherTransposed(work);
  }
  ScalarKernels().gather16(work);
}

// ---- save path ----

HWY_INLINE auto Narrow(V16 below_256) {
  return hn::DemoteTo(D8(), hn::BitCast(DI16(), below_256));
}

void SplitLossless(const std::byte* values, size_t elements, std::byte* plain, std::byte* symbols) {
  const D16 d;
  size_t i = 0;
  for (; i + kN <= elements; i += kN) {
    const V16 v = Load16(values + i * 2);
    const V16 low = hn::And(hn::Or(hn::ShiftLeft<1>(v), hn::ShiftRight<15>(v)), hn::Set(d, 0xFF));
    const V16 high = hn::And(hn::ShiftRight<7>(v), hn::Set(d, 0xFF));
    hn::StoreU(Narrow(low), D8(), reinterpret_cast<uint8_t*>(plain + i));
    hn::StoreU(Narrow(high), D8(), reinterpret_cast<uint8_t*>(symbols + i));
  }
  ScalarKernels().split_lossless(values + i * 2, elements - i, plain + i, symbols + i);
}

void MaxMagnitudes(const std::byte* values, uint32_t tokens, uint32_t dims, uint16_t infinity,
                   uint16_t* maxima) {
  if (dims < kN) {
    return ScalarKernels().max_magnitudes(values, tokens, dims, infinity, maxima);
  }
  // Without its sign bit a value is a non-negative int16, in the order of its magnitude.
  const DI16 d;
  const auto limit = hn::Set(d, static_cast<int16_t>(infinity));
  for (size_t t = 0; t < tokens; ++t) {
    auto best = hn::Zero(d);
    const std::byte* row = values + t * dims * 2;
    for (size_t step = 0; step < dims; step += kN) {
      const V16 v = Load16(row + std::min<size_t>(step, dims - kN) * 2);
      const auto magnitude = hn::BitCast(d, hn::And(v, hn::Set(D16(), kMagnitudeMask)));
      best = hn::Max(best, hn::IfThenElseZero(hn::Lt(magnitude, limit), magnitude));
    }
    HWY_ALIGN int16_t lanes[kN];
    hn::Store(best, d, lanes);
    const int16_t row_best = *std::max_element(lanes, lanes + kN);
    maxima[t] = std::max(maxima[t], static_cast<uint16_t>(row_best));
  }
}

// Elements in the upper half of each 32 bits, lower half zero, to f32 and its NaN mask.
struct FromBf16 {
  static constexpr uint16_t kInfinity = kBf16Infinity;
  static HWY_INLINE VF32 F32(VU32 high) { return hn::BitCast(DF32(), high); }
};

struct FromFp16 {
  static constexpr uint16_t kInfinity = kFp16Infinity;
  static HWY_INLINE VF32 F32(VU32 high) {
    const DU32 d;
    const VU32 magnitude = hn::ShiftRight<3>(hn::And(high, hn::Set(d, 0x7FFF0000)));
    const VF32 value = hn::Mul(hn::BitCast(DF32(), magnitude), hn::Set(DF32(), kTwoTo112));
    const VU32 sign = hn::And(high, hn::Set(d, 0x80000000));
    return hn::BitCast(DF32(), hn::Or(hn::BitCast(d, value), sign));
  }
};

template <typename From>
HWY_INLINE hn::Vec<DI32> QuantizeHigh(VU32 high, VF32 scale) {
  const auto magnitude =
      hn::BitCast(DI32(), hn::And(high, hn::Set(DU32(), uint32_t{kMagnitudeMask} << 16)));
  const auto is_nan = hn::Gt(magnitude, hn::Set(DI32(), int32_t{From::kInfinity} << 16));
  const VF32 levels = hn::Div(From::F32(high), scale);
  const VF32 kept = hn::IfThenZeroElse(hn::RebindMask(DF32(), is_nan), levels);
  const VF32 clamped =
      hn::Min(hn::Max(kept, hn::Set(DF32(), -kQ8Levels)), hn::Set(DF32(), kQ8Levels));
  return hn::NearestInt(clamped);
}

template <typename From>
HWY_INLINE void QuantizeVector(const std::byte* values, VF32 scale, std::byte* symbols) {
  const DU32 d;
  const VU32 pairs = hn::BitCast(d, Load16(values));
  const auto even = QuantizeHigh<From>(hn::ShiftLeft<16>(pairs), scale);
  const auto odd = QuantizeHigh<From>(hn::And(pairs, hn::Set(d, 0xFFFF0000)), scale);
  const VU32 low = hn::And(hn::BitCast(d, even), hn::Set(d, 0xFFFF));
  const VU32 both = hn::Or(low, hn::BitCast(d, hn::ShiftLeft<16>(odd)));
  const auto narrow = hn::DemoteTo(DI8(), hn::BitCast(DI16(), both));
  hn::StoreU(narrow, DI8(), reinterpret_cast<int8_t*>(symbols));
}

template <typename From>
bool QuantizeRows(const QuantizeWork& work) {
  if (work.dims < kN) return false;
  const size_t last = work.dims - kN;
  for (size_t t = 0; t < work.tokens; ++t) {
    const std::byte* row = work.values + t * work.dims * 2;
    std::byte* symbols = work.symbols + t * work.dims;
    float scale;
    std::memcpy(&scale, work.scales + t * sizeof(float), sizeof(float));
    scale = SafeScale(scale);
    if (scale == 0.0F) {
      std::memset(symbols, 0, work.dims);
      continue;
    }
    const VF32 divisor = hn::Set(DF32(), scale);
    for (size_t d = 0; d <= last; d += kN) {
      QuantizeVector<From>(row + d * 2, divisor, symbols + d);
    }
    if (last % kN != 0) QuantizeVector<From>(row + last * 2, divisor, symbols + last);
  }
  return true;
}

void QuantizeQ8Bf16(const QuantizeWork& work) {
  if (!QuantizeRows<FromBf16>(work)) ScalarKernels().quantize_q8_bf16(work);
}
void QuantizeQ8Fp16(const QuantizeWork& work) {
  if (!QuantizeRows<FromFp16>(work)) ScalarKernels().quantize_q8_fp16(work);
}

const QuantKernels& TargetKernels() {
  static constexpr QuantKernels kKernels = {
      .scatter_raw8 = ScatterRaw8,
      .scatter_raw16 = ScatterRaw16,
      .scatter_lossless = ScatterLossless,
      .scatter_q8_bf16 = ScatterQ8Bf16,
      .scatter_q8_fp16 = ScatterQ8Fp16,
      .gather8 = Gather8,
      .gather16 = Gather16,
      .split_lossless = SplitLossless,
      .max_magnitudes = MaxMagnitudes,
      .quantize_q8_bf16 = QuantizeQ8Bf16,
      .quantize_q8_fp16 = QuantizeQ8Fp16,
  };
  return kKernels;
}

#else

const QuantKernels& TargetKernels() {
  return ScalarKernels();
}

#endif  // HWY_TARGET != HWY_SCALAR
}  // namespace HWY_NAMESPACE
}  // namespace shadowserve
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace shadowserve {
namespace {
HWY_EXPORT(TargetKernels);
}  // namespace

const QuantKernels& BestKernels() {
  return HWY_DYNAMIC_DISPATCH(TargetKernels)();
}

}  // namespace shadowserve
#endif  // HWY_ONCE
