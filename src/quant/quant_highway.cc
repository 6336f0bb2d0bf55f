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

HWY_INLINE auto Narrow(V16 below_256) {
  return hn::DemoteTo(D8(), hn::BitCast(DI16(), below_256));
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

// ---- 16 bits to f32 ----

// Elements in the upper half of each 32 bits, lower half zero.
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

// Made in one piece: GCC compiles a default constructor of it for no target in particular.
struct F32Pair {
  VF32 even;
  VF32 odd;
};

template <typename From>
HWY_INLINE F32Pair SplitF32(V16 v) {
  const DU32 d;
  const VU32 pairs = hn::BitCast(d, v);
  return {From::F32(hn::ShiftLeft<16>(pairs)), From::F32(hn::And(pairs, hn::Set(d, 0xFFFF0000)))};
}

// ---- sources ----

// Sources and rows are passed by value: the compiler must see that no store to a page changes them.

struct NoTables {
  explicit NoTables(const ScatterWork&) {}
};

struct RawSource {
  struct Row {
    const std::byte* values;
    HWY_INLINE V16 Load(size_t dim) const { return Load16(values + dim * 2); }
  };
  using Tables = NoTables;
  const std::byte* values;
  size_t dims;

  RawSource(const ScatterWork& work, const Tables&) : values(work.symbols), dims(work.dims) {}
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
  using Tables = NoTables;
  const uint8_t* symbols;
  const uint8_t* plain;
  size_t dims;

  LosslessSource(const ScatterWork& work, const Tables&)
      : symbols(reinterpret_cast<const uint8_t*>(work.symbols)),
        plain(reinterpret_cast<const uint8_t*>(work.plain)),
        dims(work.dims) {}
  HWY_INLINE Row At(size_t token) const { return {symbols + token * dims, plain + token * dims}; }
};

// Symbols of a byte, and two to a byte, as floats.
struct ByteSymbols {
  static constexpr float kEven = 1;
  static constexpr float kOdd = 1;
  static HWY_INLINE size_t RowBytes(size_t dims) { return dims; }
  static HWY_INLINE F32Pair Load(const int8_t* row, size_t dim) {
    const auto wide = hn::BitCast(DI32(), hn::PromoteTo(DI16(), hn::LoadU(DI8(), row + dim)));
    return {hn::ConvertTo(DF32(), hn::ShiftRight<16>(hn::ShiftLeft<16>(wide))),
            hn::ConvertTo(DF32(), hn::ShiftRight<16>(wide))};
  }
};

// As a multiple of the symbol: what is cheapest to get. Factors make up for it, exactly.
struct PackedSymbols {
  static constexpr float kEven = 0x1p-28F;
  static constexpr float kOdd = 0x1p-4F;
  static HWY_INLINE size_t RowBytes(size_t dims) { return dims / 2; }
  static HWY_INLINE F32Pair Load(const int8_t* row, size_t dim) {
    const hn::Rebind<int8_t, DI32> bytes;
    const auto wide = hn::PromoteTo(DI32(), hn::LoadU(bytes, row + dim / 2));
    return {hn::ConvertTo(DF32(), hn::ShiftLeft<28>(wide)),
            hn::ConvertTo(DF32(), hn::And(wide, hn::Set(DI32(), ~0xF)))};
  }
};

// Factors of the piece's tokens: scales in f32, or steps in fp16.
struct TokenScales {
  std::array<float, kChunkTokens> values;
  explicit TokenScales(const ScatterWork& work) {
    std::memcpy(values.data(), work.scales, work.tokens * sizeof(float));
    for (size_t t = 0; t < work.tokens; ++t) values[t] = SafeScale(values[t]);
  }
};

struct TokenSteps {
  std::array<float, kChunkTokens> values;
  explicit TokenSteps(const ScatterWork& work) {
    std::array<uint16_t, kChunkTokens> steps;
    std::memcpy(steps.data(), work.scales, work.tokens * sizeof(uint16_t));
    for (size_t t = 0; t < work.tokens; ++t) values[t] = SafeStep(steps[t]);
  }
};

template <typename To, typename Factors>
struct TokenSource {
  struct Row {
    const int8_t* symbols;
    float factor;
    HWY_INLINE V16 Load(size_t dim) const {
      const F32Pair pair = ByteSymbols::Load(symbols, dim);
      const VF32 by = hn::Set(DF32(), factor);
      return To::FromEvenOdd(hn::Mul(pair.even, by), hn::Mul(pair.odd, by));
    }
  };
  using Tables = Factors;
  const int8_t* symbols;
  const float* factors;
  size_t dims;

  TokenSource(const ScatterWork& work, const Tables& tables)
      : symbols(reinterpret_cast<const int8_t*>(work.symbols)),
        factors(tables.values.data()),
        dims(work.dims) {}
  HWY_INLINE Row At(size_t token) const { return {symbols + token * dims, factors[token]}; }
};

// The 16 values that a packed symbol can have at each token of the piece: their low bytes, then
// their high bytes. A value is looked up; it costs less than to make one, and no more for fp16 than
// for bf16.
template <typename To>
struct TokenValues {
  static constexpr size_t kValues = 16;
  HWY_ALIGN std::array<uint8_t, kChunkTokens * 2 * kValues> bytes;

  explicit TokenValues(const ScatterWork& work) {
    // Symbols in the order of their half bytes: 0..7, -8..-1.
    HWY_ALIGN static constexpr float kEven[kValues / 2] = {0, 2, 4, 6, -8, -6, -4, -2};
    HWY_ALIGN static constexpr float kOdd[kValues / 2] = {1, 3, 5, 7, -7, -5, -3, -1};
    const TokenSteps steps(work);
    for (size_t t = 0; t < work.tokens; ++t) {
      const VF32 step = hn::Set(DF32(), steps.values[t]);
      uint8_t* const to = &bytes[t * 2 * kValues];
      for (size_t i = 0; i < kValues; i += kN) {
        const V16 values = To::FromEvenOdd(hn::Mul(hn::Load(DF32(), kEven + i / 2), step),
                                           hn::Mul(hn::Load(DF32(), kOdd + i / 2), step));
        // -1 x 0 is -0, as it is where it is computed.
        hn::StoreU(Narrow(hn::And(values, hn::Set(D16(), 0xFF))), D8(), to + i);
        hn::StoreU(Narrow(hn::ShiftRight<8>(values)), D8(), to + kValues + i);
      }
    }
  }
};

template <typename To>
struct PackedTokenSource {
  using DBytes = hn::Repartition<uint8_t, D16>;
  using VBytes = hn::Vec<DBytes>;

  struct Row {
    const uint8_t* symbols;
    VBytes low;  // the table, in each block of 128 bits
    VBytes high;
    HWY_INLINE V16 Load(size_t dim) const {
      const DU32 d;
      // A byte holds two symbols: one to each half of 32 bits.
      const hn::Rebind<uint8_t, DU32> pairs;
      const VU32 pair = hn::PromoteTo(d, hn::LoadU(pairs, symbols + dim / 2));
      const VU32 index = hn::And(hn::Or(pair, hn::ShiftLeft<12>(pair)), hn::Set(d, 0x000F000F));
      // 0x80 in place of an index gives zero.
      const auto low_index = hn::BitCast(DBytes(), hn::Or(index, hn::Set(d, 0x80008000)));
      const auto high_index =
          hn::BitCast(DBytes(), hn::Or(hn::ShiftLeft<8>(index), hn::Set(d, 0x00800080)));
      return hn::BitCast(D16(), hn::Or(hn::TableLookupBytesOr0(low, low_index),
                                       hn::TableLookupBytesOr0(high, high_index)));
    }
  };
  using Tables = TokenValues<To>;
  const uint8_t* symbols;
  const uint8_t* values;
  size_t row_bytes;

  PackedTokenSource(const ScatterWork& work, const Tables& tables)
      : symbols(reinterpret_cast<const uint8_t*>(work.symbols)),
        values(tables.bytes.data()),
        row_bytes(work.dims / 2) {}
  HWY_INLINE Row At(size_t token) const {
    const uint8_t* of_token = values + token * 2 * Tables::kValues;
    return {symbols + token * row_bytes, hn::LoadDup128(DBytes(), of_token),
            hn::LoadDup128(DBytes(), of_token + Tables::kValues)};
  }
};

// Steps and means of the dims as floats: of each vector's dims first the even, then the odd ones. A
// last vector that overlaps the one before it has a place of its own, where the next would start.
struct ChannelTables {
  HWY_ALIGN std::array<float, kHeadDimMax> steps;
  HWY_ALIGN std::array<float, kHeadDimMax> means;

  static HWY_INLINE size_t Place(size_t dim) { return (dim + kN - 1) / kN * kN; }
  ChannelTables(const ScatterWork& work, float even_unit, float odd_unit) {
    uint16_t first_step;
    std::memcpy(&first_step, work.scales, sizeof(first_step));
    for (size_t step = 0; step < work.dims; step += kN) {
      const size_t dim = std::min<size_t>(step, work.dims - kN);
      const D16 d;
      const V16 infinity = hn::Set(d, kFp16Infinity);
      V16 step_bits = hn::Set(d, first_step);
      if (work.scale_stride != 0) step_bits = Load16(work.scales + dim * work.scale_stride);
      const V16 mean_bits = Load16(work.means + dim * 2);
      const V16 magnitude = hn::And(mean_bits, hn::Set(d, kMagnitudeMask));
      Put(hn::IfThenElseZero(hn::Lt(step_bits, infinity), step_bits), even_unit, odd_unit,
          &steps[Place(dim)]);
      Put(hn::IfThenElseZero(hn::Lt(magnitude, infinity), mean_bits), 1, 1, &means[Place(dim)]);
    }
  }

 private:
  static HWY_INLINE void Put(V16 halves, float even_unit, float odd_unit, float* to) {
    const DF32 d;
    const F32Pair pair = SplitF32<FromFp16>(halves);
    hn::StoreU(hn::Mul(pair.even, hn::Set(d, even_unit)), d, to);
    hn::StoreU(hn::Mul(pair.odd, hn::Set(d, odd_unit)), d, to + kN / 2);
  }
};

template <typename Symbols>
struct ChannelTablesFor : ChannelTables {
  explicit ChannelTablesFor(const ScatterWork& work)
      : ChannelTables(work, Symbols::kEven, Symbols::kOdd) {}
};

template <typename To, typename Symbols>
struct ChannelSource {
  struct Row {
    const int8_t* symbols;
    const float* steps;
    const float* means;
    HWY_INLINE V16 Load(size_t dim) const {
      const DF32 d;
      const size_t at = ChannelTables::Place(dim);
      const F32Pair pair = Symbols::Load(symbols, dim);
      // Products are exact (quant_scalar.cc), so it is the same where MulAdd is not fused.
      return To::FromEvenOdd(
          hn::MulAdd(pair.even, hn::LoadU(d, steps + at), hn::LoadU(d, means + at)),
          hn::MulAdd(pair.odd, hn::LoadU(d, steps + at + kN / 2),
                     hn::LoadU(d, means + at + kN / 2)));
    }
  };
  using Tables = ChannelTablesFor<Symbols>;
  const int8_t* symbols;
  const float* steps;
  const float* means;
  size_t row_bytes;

  ChannelSource(const ScatterWork& work, const Tables& tables)
      : symbols(reinterpret_cast<const int8_t*>(work.symbols)),
        steps(tables.steps.data()),
        means(tables.means.data()),
        row_bytes(Symbols::RowBytes(work.dims)) {}
  HWY_INLINE Row At(size_t token) const { return {symbols + token * row_bytes, steps, means}; }
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
  constexpr size_t kAtOnce = 4;
  const size_t vectors = work.dims / kN;
  const size_t last = work.dims - kN;
  for (size_t t = 0; t < work.tokens; ++t) {
    const auto row = source.At(t);
    std::byte* to = work.base + t * work.token_stride;
    size_t v = 0;
    for (; v + kAtOnce <= vectors; v += kAtOnce) {
      V16 values[kAtOnce];
      for (size_t i = 0; i < kAtOnce; ++i) values[i] = row.Load((v + i) * kN);
      for (size_t i = 0; i < kAtOnce; ++i) Store16<kStream>(values[i], to + (v + i) * kVectorBytes);
    }
    for (; v < vectors; ++v) Store16<kStream>(row.Load(v * kN), to + v * kVectorBytes);
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
  const typename Source::Tables tables(work);
  const Source source(work, tables);
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
template <typename Source, QuantKernels::Scatter QuantKernels::*kScalar>
void ScatterBytes(const ScatterWork& work) {
  if (!ScatterFast<Source>(work)) (ScalarKernels().*kScalar)(work);
}
// Rows of an odd number of symbols do not all start at a whole byte.
template <typename Source, QuantKernels::Scatter QuantKernels::*kScalar>
void ScatterPacked(const ScatterWork& work) {
  if (work.dims % 2 != 0 || !ScatterFast<Source>(work)) (ScalarKernels().*kScalar)(work);
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

// `mean` and `scale`: of the elements.
template <typename From>
HWY_INLINE hn::Vec<DI32> QuantizeHigh(VU32 high, VF32 mean, VF32 scale, float levels_max) {
  const auto magnitude =
      hn::BitCast(DI32(), hn::And(high, hn::Set(DU32(), uint32_t{kMagnitudeMask} << 16)));
  const auto is_nan = hn::Gt(magnitude, hn::Set(DI32(), int32_t{From::kInfinity} << 16));
  const DF32 d;
  const VF32 levels = hn::Div(hn::Sub(From::F32(high), mean), scale);
  const auto no_level = hn::Or(hn::RebindMask(d, is_nan), hn::Eq(scale, hn::Zero(d)));
  const VF32 kept = hn::IfThenZeroElse(no_level, levels);
  return hn::NearestInt(hn::Min(hn::Max(kept, hn::Set(d, -levels_max)), hn::Set(d, levels_max)));
}

// kN values to symbols of a byte, or to two in a byte.
template <typename From, bool kPacked>
HWY_INLINE void QuantizeVector(const std::byte* values, F32Pair mean, F32Pair scale,
                               std::byte* symbols) {
  const DU32 d;
  constexpr float kLevels = kPacked ? kPackedLevels : kByteLevels;
  const VU32 pairs = hn::BitCast(d, Load16(values));
  const auto even = QuantizeHigh<From>(hn::ShiftLeft<16>(pairs), mean.even, scale.even, kLevels);
  const auto odd =
      QuantizeHigh<From>(hn::And(pairs, hn::Set(d, 0xFFFF0000)), mean.odd, scale.odd, kLevels);
  if constexpr (kPacked) {
    const auto low = hn::And(even, hn::Set(DI32(), 0xF));
    const auto high = hn::And(hn::ShiftLeft<4>(odd), hn::Set(DI32(), 0xF0));
    const hn::Rebind<uint8_t, DI32> bytes;
    hn::StoreU(hn::DemoteTo(bytes, hn::Or(low, high)), bytes, reinterpret_cast<uint8_t*>(symbols));
  } else {
    const VU32 low = hn::And(hn::BitCast(d, even), hn::Set(d, 0xFFFF));
    const VU32 both = hn::Or(low, hn::BitCast(d, hn::ShiftLeft<16>(odd)));
    const auto narrow = hn::DemoteTo(DI8(), hn::BitCast(DI16(), both));
    hn::StoreU(narrow, DI8(), reinterpret_cast<int8_t*>(symbols));
  }
}

// kN floats of the dims from `dim` on.
HWY_INLINE F32Pair LoadDims(const std::byte* floats, size_t dim) {
  VF32 even, odd;
  hn::LoadInterleaved2(DF32(), reinterpret_cast<const float*>(floats) + dim, even, odd);
  return {even, odd};
}

template <typename From, bool kPacked>
bool QuantizeRows(const QuantizeWork& work) {
  if (work.dims < kN || (kPacked && work.dims % 2 != 0)) return false;
  constexpr size_t kPerByte = kPacked ? 2 : 1;
  const F32Pair no_mean = {hn::Zero(DF32()), hn::Zero(DF32())};
  const size_t last = work.dims - kN;
  for (size_t t = 0; t < work.tokens; ++t) {
    const std::byte* row = work.values + t * work.dims * 2;
    std::byte* symbols = work.symbols + t * work.dims / kPerByte;
    float scale;
    std::memcpy(&scale, work.scales + t * sizeof(float), sizeof(float));
    const VF32 divisor = hn::Set(DF32(), SafeScale(scale));
    const F32Pair divisors = {divisor, divisor};
    for (size_t d = 0; d <= last; d += kN) {
      QuantizeVector<From, kPacked>(row + d * 2, no_mean, divisors, symbols + d / kPerByte);
    }
    if (last % kN != 0) {
      QuantizeVector<From, kPacked>(row + last * 2, no_mean, divisors, symbols + last / kPerByte);
    }
  }
  return true;
}

template <typename From, bool kPacked>
bool QuantizeChannels(const QuantizeWork& work) {
  if (work.dims < kN || (kPacked && work.dims % 2 != 0)) return false;
  constexpr size_t kPerByte = kPacked ? 2 : 1;
  for (size_t step = 0; step < work.dims; step += kN) {
    const size_t d = std::min<size_t>(step, work.dims - kN);
    const F32Pair means = LoadDims(work.means, d);
    const F32Pair scales = LoadDims(work.scales, d);
    for (size_t t = 0; t < work.tokens; ++t) {
      const size_t at = t * work.dims + d;
      QuantizeVector<From, kPacked>(work.values + at * 2, means, scales,
                                    work.symbols + at / kPerByte);
    }
  }
  return true;
}

template <typename From, bool kPacked, QuantKernels::Quantize QuantKernels::*kScalar>
void QuantizeByRow(const QuantizeWork& work) {
  if (!QuantizeRows<From, kPacked>(work)) (ScalarKernels().*kScalar)(work);
}
template <typename From, bool kPacked, QuantKernels::Quantize QuantKernels::*kScalar>
void QuantizeByChannel(const QuantizeWork& work) {
  if (!QuantizeChannels<From, kPacked>(work)) (ScalarKernels().*kScalar)(work);
}

// kN values; zero in place of those that are not finite, or `instead` of them.
template <typename From>
HWY_INLINE F32Pair LoadFinite(const std::byte* values, F32Pair instead) {
  const D16 d;
  const V16 v = Load16(values);
  const V16 magnitude = hn::And(v, hn::Set(d, kMagnitudeMask));
  const V16 finite = hn::VecFromMask(d, hn::Lt(magnitude, hn::Set(d, From::kInfinity)));
  const F32Pair read = SplitF32<From>(v);
  const DI32 wide;
  const auto both = hn::BitCast(wide, finite);
  const auto even =
      hn::MaskFromVec(hn::BitCast(DF32(), hn::ShiftRight<16>(hn::ShiftLeft<16>(both))));
  const auto odd = hn::MaskFromVec(hn::BitCast(DF32(), hn::ShiftRight<16>(both)));
  return {hn::IfThenElse(even, read.even, instead.even),
          hn::IfThenElse(odd, read.odd, instead.odd)};
}

template <typename From>
bool SumChannels(const std::byte* values, uint32_t tokens, uint32_t dims, float* sums) {
  if (dims < kN) return false;
  const DF32 d;
  const F32Pair zero = {hn::Zero(d), hn::Zero(d)};
  for (size_t step = 0; step < dims; step += kN) {
    const size_t dim = std::min<size_t>(step, dims - kN);
    F32Pair sum = zero;
    for (size_t t = 0; t < tokens; ++t) {
      const F32Pair value = LoadFinite<From>(values + (t * dims + dim) * 2, zero);
      sum = {hn::Add(sum.even, value.even), hn::Add(sum.odd, value.odd)};
    }
    hn::StoreInterleaved2(sum.even, sum.odd, d, sums + dim);
  }
  return true;
}

template <typename From>
bool SpreadChannels(const std::byte* values, uint32_t tokens, uint32_t dims, const float* means,
                    float* squares, float* reaches) {
  if (dims < kN) return false;
  const DF32 d;
  const F32Pair zero = {hn::Zero(d), hn::Zero(d)};
  for (size_t step = 0; step < dims; step += kN) {
    const size_t dim = std::min<size_t>(step, dims - kN);
    const F32Pair mean = LoadDims(reinterpret_cast<const std::byte*>(means), dim);
    F32Pair sum = zero;
    F32Pair reach = zero;
    for (size_t t = 0; t < tokens; ++t) {
      const F32Pair value = LoadFinite<From>(values + (t * dims + dim) * 2, mean);
      const VF32 even = hn::Sub(value.even, mean.even);
      const VF32 odd = hn::Sub(value.odd, mean.odd);
      sum = {hn::Add(sum.even, hn::Mul(even, even)), hn::Add(sum.odd, hn::Mul(odd, odd))};
      reach = {hn::Max(reach.even, hn::Abs(even)), hn::Max(reach.odd, hn::Abs(odd))};
    }
    hn::StoreInterleaved2(sum.even, sum.odd, d, squares + dim);
    hn::StoreInterleaved2(reach.even, reach.odd, d, reaches + dim);
  }
  return true;
}

// Vectors of kN dims add to kN of the sums. Rows of no whole number of sums are rare.
template <typename From, QuantKernels::TokenSquares QuantKernels::*kScalar>
void SquareTokens(const std::byte* values, uint32_t tokens, uint32_t dims, float* sums) {
  if (dims % kSquareSums != 0) {
    return (ScalarKernels().*kScalar)(values, tokens, dims, sums);
  }
  const DF32 d;
  const F32Pair zero = {hn::Zero(d), hn::Zero(d)};
  for (size_t t = 0; t < tokens; ++t) {
    const std::byte* row = values + t * dims * 2;
    float* evens = sums + t * kSquareSums;
    float* odds = evens + kSquareSums / 2;
    for (size_t part = 0; part < kSquareSums; part += kN) {
      F32Pair sum = {hn::LoadU(d, evens + part / 2), hn::LoadU(d, odds + part / 2)};
      for (size_t dim = part; dim < dims; dim += kSquareSums) {
        const F32Pair value = LoadFinite<From>(row + dim * 2, zero);
        sum = {hn::Add(sum.even, hn::Mul(value.even, value.even)),
               hn::Add(sum.odd, hn::Mul(value.odd, value.odd))};
      }
      hn::StoreU(sum.even, d, evens + part / 2);
      hn::StoreU(sum.odd, d, odds + part / 2);
    }
  }
}

template <typename From, QuantKernels::ChannelSums QuantKernels::*kScalar>
void ChannelSums(const std::byte* values, uint32_t tokens, uint32_t dims, float* sums) {
  if (!SumChannels<From>(values, tokens, dims, sums)) {
    (ScalarKernels().*kScalar)(values, tokens, dims, sums);
  }
}
template <typename From, QuantKernels::ChannelSpreads QuantKernels::*kScalar>
void ChannelSpreads(const std::byte* values, uint32_t tokens, uint32_t dims, const float* means,
                    float* squares, float* reaches) {
  if (!SpreadChannels<From>(values, tokens, dims, means, squares, reaches)) {
    (ScalarKernels().*kScalar)(values, tokens, dims, means, squares, reaches);
  }
}

const QuantKernels& TargetKernels() {
  static constexpr QuantKernels kKernels = {
      .scatter_raw8 = ScatterRaw8,
      .scatter_raw16 = ScatterRaw16,
      .scatter_lossless = ScatterLossless,
      .scatter_q8_bf16 =
          ScatterBytes<TokenSource<ToBf16, TokenScales>, &QuantKernels::scatter_q8_bf16>,
      .scatter_q8_fp16 =
          ScatterBytes<TokenSource<ToFp16, TokenScales>, &QuantKernels::scatter_q8_fp16>,
      .scatter_steps_bf16 =
          ScatterBytes<TokenSource<ToBf16, TokenSteps>, &QuantKernels::scatter_steps_bf16>,
      .scatter_steps_fp16 =
          ScatterBytes<TokenSource<ToFp16, TokenSteps>, &QuantKernels::scatter_steps_fp16>,
      .scatter_channels_bf16 =
          ScatterBytes<ChannelSource<ToBf16, ByteSymbols>, &QuantKernels::scatter_channels_bf16>,
      .scatter_channels_fp16 =
          ScatterBytes<ChannelSource<ToFp16, ByteSymbols>, &QuantKernels::scatter_channels_fp16>,
      .scatter_packed_steps_bf16 =
          ScatterPacked<PackedTokenSource<ToBf16>, &QuantKernels::scatter_packed_steps_bf16>,
      .scatter_packed_steps_fp16 =
          ScatterPacked<PackedTokenSource<ToFp16>, &QuantKernels::scatter_packed_steps_fp16>,
      .scatter_packed_channels_bf16 = ScatterPacked<ChannelSource<ToBf16, PackedSymbols>,
                                                    &QuantKernels::scatter_packed_channels_bf16>,
      .scatter_packed_channels_fp16 = ScatterPacked<ChannelSource<ToFp16, PackedSymbols>,
                                                    &QuantKernels::scatter_packed_channels_fp16>,
      .gather8 = Gather8,
      .gather16 = Gather16,
      .split_lossless = SplitLossless,
      .max_magnitudes = MaxMagnitudes,
      .quantize_rows_bf16 = QuantizeByRow<FromBf16, false, &QuantKernels::quantize_rows_bf16>,
      .quantize_rows_fp16 = QuantizeByRow<FromFp16, false, &QuantKernels::quantize_rows_fp16>,
      .quantize_channels_bf16 =
          QuantizeByChannel<FromBf16, false, &QuantKernels::quantize_channels_bf16>,
      .quantize_channels_fp16 =
          QuantizeByChannel<FromFp16, false, &QuantKernels::quantize_channels_fp16>,
      .quantize_packed_rows_bf16 =
          QuantizeByRow<FromBf16, true, &QuantKernels::quantize_packed_rows_bf16>,
      .quantize_packed_rows_fp16 =
          QuantizeByRow<FromFp16, true, &QuantKernels::quantize_packed_rows_fp16>,
      .quantize_packed_channels_bf16 =
          QuantizeByChannel<FromBf16, true, &QuantKernels::quantize_packed_channels_bf16>,
      .quantize_packed_channels_fp16 =
          QuantizeByChannel<FromFp16, true, &QuantKernels::quantize_packed_channels_fp16>,
      .channel_sums_bf16 = ChannelSums<FromBf16, &QuantKernels::channel_sums_bf16>,
      .channel_sums_fp16 = ChannelSums<FromFp16, &QuantKernels::channel_sums_fp16>,
      .channel_spreads_bf16 = ChannelSpreads<FromBf16, &QuantKernels::channel_spreads_bf16>,
      .channel_spreads_fp16 = ChannelSpreads<FromFp16, &QuantKernels::channel_spreads_fp16>,
      .token_squares_bf16 = SquareTokens<FromBf16, &QuantKernels::token_squares_bf16>,
      .token_squares_fp16 = SquareTokens<FromFp16, &QuantKernels::token_squares_fp16>,
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
