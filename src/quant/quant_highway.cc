// Vector kernels, compiled once per instruction set and chosen at run time. Bit-exact with
// quant_scalar.cc. Vectors are at most 256 bits: two 128-bit blocks, which the transpose needs.
//
// Pages of rows are written row by row. For pages of columns the bytes of the symbols are turned
// first, in blocks of 16 x 16 of strips of tokens, for they are less than the values; then a line's
// values of a dim are made and written at once. A Source makes values of its symbols, either way.
// Where dims are no multiple of a vector or a block, the last one overlaps the one before and
// writes the same bytes again; a last strip of fewer tokens goes through a buffer. Fewer dims than
// a vector or a block run in scalar code.
#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

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
constexpr size_t kLineTokens = kLineBytes / 2;

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

// ---- turning: rows to columns ----

using DBytes = hn::Repartition<uint8_t, D16>;  // a whole vector of bytes
using VBytes = hn::Vec<DBytes>;

constexpr size_t kBlockBytes = 16;  // in which vectors of any size interleave
constexpr size_t kBlockRows = 8;    // 16-bit elements of a block
constexpr size_t kStrip = 2 * kN;   // elements of two vectors: a line, if they have 32 bytes
constexpr size_t kStripBytes = kStrip * 2;

// A round of a transpose within each block: after log2 of the rows' number of them, row and column
// have changed places.
template <size_t kRows, class D>
HWY_INLINE void TurnRound(D d, const hn::Vec<D>* HWY_RESTRICT from, hn::Vec<D>* HWY_RESTRICT to) {
  for (size_t i = 0; i < kRows / 2; ++i) {
    to[2 * i] = hn::InterleaveLower(d, from[i], from[i + kRows / 2]);
    to[2 * i + 1] = hn::InterleaveUpper(d, from[i], from[i + kRows / 2]);
  }
}

// A block of row `low` and, in vectors of two blocks, one of row `high`.
template <class D>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const std::byte* low, const std::byte* high) {
  using T = hn::TFromD<D>;
  if constexpr (kN == 8) {
    return hn::LoadU(d, reinterpret_cast<const T*>(low));
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, hn::LoadU(half, reinterpret_cast<const T*>(high)),
                       hn::LoadU(half, reinterpret_cast<const T*>(low)));
  }
}

// Where kStrip rows are; from `count` on they repeat the last one.
struct StripRows {
  std::array<const std::byte*, kStrip> at;
  StripRows(const std::byte* from, size_t stride, size_t count) {
    for (size_t i = 0; i < kStrip; ++i) {
      at[i] = from;
      if (i + 1 < count) from += stride;
    }
  }
};

// turned[c]: byte `column` + c of each row, in such an order that interleaving the lower and the
// upper halves of two such vectors gives elements of 16 bits in the order of the rows.
HWY_NOINLINE void TurnBytes(const StripRows& rows, size_t column, VBytes* HWY_RESTRICT turned) {
  const DBytes d;
  VBytes v[kBlockBytes];
  VBytes w[kBlockBytes];
  for (size_t i = 0; i < kBlockBytes; ++i) {
    const size_t low = kN == 8 || i < kBlockRows ? i : i + kBlockRows;
    const size_t high = kN == 8 ? low : low + kBlockRows;
    v[i] = LoadBlocks(d, rows.at[low] + column, rows.at[high] + column);
  }
  TurnRound<kBlockBytes>(d, v, w);
  TurnRound<kBlockBytes>(d, w, v);
  TurnRound<kBlockBytes>(d, v, w);
  TurnRound<kBlockBytes>(d, w, turned);
}

// kBlockRows columns of 16-bit elements to rows of kStrip, which are lines.
template <bool kStream>
HWY_NOINLINE void TurnTile(const StripRows& rows, size_t column, std::byte* to, size_t to_stride) {
  const D16 d;
  V16 turned[2][kBlockRows];
  for (size_t half = 0; half < 2; ++half) {
    V16 v[kBlockRows];
    V16 w[kBlockRows];
    for (size_t i = 0; i < kBlockRows; ++i) {
      const size_t low = half * kN + i;
      const size_t high = kN == 8 ? low : low + kBlockRows;
      v[i] = LoadBlocks(d, rows.at[low] + column * 2, rows.at[high] + column * 2);
    }
    TurnRound<kBlockRows>(d, v, w);
    TurnRound<kBlockRows>(d, w, v);
    TurnRound<kBlockRows>(d, v, turned[half]);
  }
  for (size_t i = 0; i < kBlockRows; ++i) {
    Store16<kStream>(turned[0][i], to + i * to_stride);
    Store16<kStream>(turned[1][i], to + i * to_stride + kVectorBytes);
  }
}

// The first elements of rows of kStrip.
template <bool kStream>
void CopyRows(const std::byte* from, size_t rows, size_t elements, std::byte* to,
              size_t to_stride) {
  for (size_t i = 0; i < rows; ++i, from += kStripBytes, to += to_stride) {
    if (elements == kN) {
      Store16<kStream>(Load16(from), to);
    } else {
      std::memcpy(to, from, elements * 2);
    }
  }
}

// Up to kStrip rows of 16-bit elements, a column to each row of `to`: kBlockRows of the columns,
// from `step` on. Where there are fewer columns than that, as many can be read all the same.
template <bool kStream>
HWY_INLINE void TurnColumns(const StripRows& from, size_t rows, size_t step, size_t columns,
                            std::byte* to, size_t to_stride) {
  const size_t column = columns < kBlockRows ? 0 : std::min(step, columns - kBlockRows);
  std::byte* const to_row = to + column * to_stride;
  if (rows == kStrip && columns >= kBlockRows) {
    TurnTile<kStream>(from, column, to_row, to_stride);
  } else {
    HWY_ALIGN std::array<std::byte, kBlockRows * kStripBytes> tile;
    TurnTile<false>(from, column, tile.data(), kStripBytes);
    CopyRows<kStream>(tile.data(), std::min(columns, kBlockRows), rows, to_row, to_stride);
  }
}

template <bool kStream>
void TurnStrip(const std::byte* from, size_t from_stride, size_t rows, size_t columns,
               std::byte* to, size_t to_stride) {
  const StripRows from_rows(from, from_stride, rows);
  for (size_t step = 0; step < columns; step += kBlockRows) {
    TurnColumns<kStream>(from_rows, rows, step, columns, to, to_stride);
  }
}

// ---- where values go ----

// A piece as rows of memory: a token's dims, or a dim's tokens.
struct Target {
  enum class Form : uint8_t { kRows, kTurned, kOther };
  Form form = Form::kOther;
  std::byte* base;
  size_t stride;
  size_t tokens;
  size_t dims;
  bool stream;

  Target(const PlanePiece& piece, size_t piece_dims, bool streaming)
      : base(piece.base), tokens(piece.tokens), dims(piece_dims) {
    if (piece.dim_stride == 2) {
      form = Form::kRows;
      stride = piece.token_stride;
      stream = streaming && Aligned(kVectorBytes);
    } else {
      if (piece.token_stride == 2) form = Form::kTurned;
      stride = piece.dim_stride;
      // Pages of kN tokens are one run of memory.
      const bool run = tokens == kN && stride == kVectorBytes;
      const bool lines = kStripBytes == kLineBytes && Aligned(kLineBytes);
      stream = streaming && (lines || (run && Aligned(kVectorBytes)));
    }
  }
  bool rows() const { return form == Form::kRows; }
  bool turned() const { return form == Form::kTurned; }
  bool Aligned(size_t bytes) const {
    return (reinterpret_cast<uintptr_t>(base) | stride) % bytes == 0;
  }
};

// ---- rows: a Source turns elements of a token, from dim d on, into finished 16-bit values ----

// Sources and rows are passed by value: the compiler must see that no store to a page changes them.

struct RawSource {
  struct Row {
    const std::byte* values;
    HWY_INLINE V16 Load(size_t dim) const { return Load16(values + dim * 2); }
  };
  const std::byte* values;
  size_t dims;
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
  const std::byte* symbols;
  const std::byte* plain;
  size_t dims;
  HWY_INLINE Row At(size_t token) const {
    return {reinterpret_cast<const uint8_t*>(symbols + token * dims),
            reinterpret_cast<const uint8_t*>(plain + token * dims)};
  }
};

// value = symbol x factor + offset; both belong to a token or to a dim. Where there is no offset it
// is -0, which changes nothing. A symbol is converted as the top byte of 32 bits, so it comes 2^24
// times too large; factors make up for it.
constexpr float kByteUnit = 0x1p-24F;
// Smaller ones would lose bits by that. No cache has them.
constexpr float kFactorMin = 0x1p-102F;

struct Factors {
  static constexpr size_t kMost = std::max(kHeadDimMax, kChunkTokens);
  HWY_ALIGN std::array<float, kMost> factor;
  HWY_ALIGN std::array<float, kMost> offset;

  // From `count` on as far as whole strips of them are read.
  void Pad(size_t count) {
    for (size_t i = count; i % kStrip != 0; ++i) factor[i] = offset[i] = 0;
  }
};

// The same, of each vector's elements first the even, then the odd ones. A last vector that
// overlaps the one before it has a place of its own, where the next would start.
struct Columns {
  HWY_ALIGN std::array<float, Factors::kMost> factor;
  HWY_ALIGN std::array<float, Factors::kMost> offset;

  static HWY_INLINE size_t Place(size_t element) { return (element + kN - 1) / kN * kN; }
  // Factors of the even and odd ones are multiplied by these.
  Columns(const Factors& from, size_t count, float even_unit = 1, float odd_unit = 1) {
    for (size_t step = 0; step < count; step += kN) {
      const size_t i = std::min(step, count - kN);
      Put(&from.factor[i], even_unit, odd_unit, &factor[step]);
      Put(&from.offset[i], 1, 1, &offset[step]);
    }
  }

 private:
  static HWY_INLINE void Put(const float* from, float even_unit, float odd_unit, float* to) {
    const DF32 d;
    VF32 even, odd;
    hn::LoadInterleaved2(d, from, even, odd);
    hn::Store(hn::Mul(even, hn::Set(d, even_unit)), d, to);
    hn::Store(hn::Mul(odd, hn::Set(d, odd_unit)), d, to + kN / 2);
  }
};

HWY_INLINE F32Pair Both(float value) {
  const VF32 all = hn::Set(DF32(), value);
  return {all, all};
}
HWY_INLINE F32Pair LoadPlace(const float* at) {
  const DF32 d;
  return {hn::Load(d, at), hn::Load(d, at + kN / 2)};
}

// Which bytes of each block become the top bytes of 32 bits: first .. first + 6 of the lower block,
// the same and `apart` of the upper; 0x80 gives zero.
template <size_t kFirst, size_t kApart>
HWY_INLINE VBytes TopBytes() {
  constexpr uint8_t kNone = 0x80;
  HWY_ALIGN static constexpr uint8_t kIndex[2 * kBlockBytes] = {
      kNone, kNone, kNone, kFirst,
      kNone, kNone, kNone, kFirst + 2,
      kNone, kNone, kNone, kFirst + 4,
      kNone, kNone, kNone, kFirst + 6,
      kNone, kNone, kNone, kFirst + kApart,
      kNone, kNone, kNone, kFirst + kApart + 2,
      kNone, kNone, kNone, kFirst + kApart + 4,
      kNone, kNone, kNone, kFirst + kApart + 6};
  return hn::Load(DBytes(), kIndex);
}

template <typename To, size_t kFirst, size_t kApart>
HWY_INLINE V16 AffineValues(VBytes symbols, F32Pair factor, F32Pair offset) {
  const auto top = [&](VBytes index) {
    return hn::ConvertTo(DF32(), hn::BitCast(DI32(), hn::TableLookupBytesOr0(symbols, index)));
  };
  // Where there is an offset, products are exact (quant_scalar.cc), so it is the same where MulAdd
  // is not fused.
  return To::FromEvenOdd(hn::MulAdd(top(TopBytes<kFirst, kApart>()), factor.even, offset.even),
                         hn::MulAdd(top(TopBytes<kFirst + 1, kApart>()), factor.odd, offset.odd));
}

// kN symbols that follow each other.
template <typename To>
HWY_INLINE V16 AffineRow(const std::byte* symbols, F32Pair factor, F32Pair offset) {
  if constexpr (kN == 8) {
    uint64_t eight;
    std::memcpy(&eight, symbols, sizeof(eight));
    const hn::Repartition<uint64_t, D16> d;
    return AffineValues<To, 0, 0>(hn::BitCast(DBytes(), hn::Set(d, eight)), factor, offset);
  } else {
    const VBytes twice = hn::LoadDup128(DBytes(), reinterpret_cast<const uint8_t*>(symbols));
    return AffineValues<To, 0, 8>(twice, factor, offset);
  }
}

// kStrip symbols, as TurnBytes has them.
template <typename To>
HWY_INLINE void AffineStrip(VBytes symbols, F32Pair factor, F32Pair offset, F32Pair next_factor,
                            F32Pair next_offset, V16* values) {
  values[0] = AffineValues<To, 0, 0>(symbols, factor, offset);
  values[1] = AffineValues<To, 8, 0>(symbols, next_factor, next_offset);
}

// Factors of the tokens in rows.
template <typename To>
struct TokenSource {
  struct Row {
    const std::byte* symbols;
    float factor;
    float offset;
    HWY_INLINE V16 Load(size_t dim) const {
      return AffineRow<To>(symbols + dim, Both(factor), Both(offset));
    }
  };
  const std::byte* symbols;
  size_t dims;
  const float* factor;
  const float* offset;
  HWY_INLINE Row At(size_t token) const {
    return {symbols + token * dims, factor[token], offset[token]};
  }
};

// Factors of the dims in rows.
template <typename To>
struct ChannelSource {
  struct Row {
    const std::byte* symbols;
    const float* factor;
    const float* offset;
    HWY_INLINE V16 Load(size_t dim) const {
      const size_t at = Columns::Place(dim);
      return AffineRow<To>(symbols + dim, LoadPlace(factor + at), LoadPlace(offset + at));
    }
  };
  const std::byte* symbols;
  size_t dims;
  const float* factor;
  const float* offset;
  HWY_INLINE Row At(size_t token) const { return {symbols + token * dims, factor, offset}; }
};

// The same of packed symbols, for bf16: rows have no order in which to look them up, and to turn
// what was looked up costs more than bf16's rounding. Symbols come at the tops of their words.
struct PackedChannelSource {
  static constexpr float kEvenUnit = 0x1p-28F;
  static constexpr float kOddUnit = 0x1p-4F;
  struct Row {
    const std::byte* symbols;
    const float* factor;
    const float* offset;
    HWY_INLINE V16 Load(size_t dim) const {
      const hn::Rebind<int8_t, DI32> bytes;
      const auto* const pairs = reinterpret_cast<const int8_t*>(symbols + dim / 2);
      const auto wide = hn::PromoteTo(DI32(), hn::LoadU(bytes, pairs));
      const VF32 even = hn::ConvertTo(DF32(), hn::ShiftLeft<28>(wide));
      const VF32 odd = hn::ConvertTo(DF32(), hn::And(wide, hn::Set(DI32(), ~0xF)));
      const size_t at = Columns::Place(dim);
      const F32Pair f = LoadPlace(factor + at);
      const F32Pair o = LoadPlace(offset + at);
      return ToBf16::FromEvenOdd(hn::MulAdd(even, f.even, o.even), hn::MulAdd(odd, f.odd, o.odd));
    }
  };
  const std::byte* symbols;
  size_t row_bytes;
  const float* factor;
  const float* offset;
  HWY_INLINE Row At(size_t token) const { return {symbols + token * row_bytes, factor, offset}; }
};

// The 16 values that a packed symbol can have are looked up: it costs less than to make one, and no
// more for fp16 than for bf16. Tables hold the values' low bytes, and their high bytes elsewhere.
constexpr size_t kValues = 16;

// Of the tokens of a piece; those of as many tokens as a vector has blocks lie side by side.
struct TokenValues {
  static constexpr size_t kTokens = kVectorBytes / kBlockBytes;
  HWY_ALIGN std::array<uint8_t, kChunkTokens * 2 * kValues> bytes;

  static HWY_INLINE size_t Place(size_t token) {
    return (token / kTokens * 2 * kTokens + token % kTokens) * kValues;
  }

  // `steps`: padded.
  template <typename To>
  void Fill(const float* steps, size_t tokens) {
    // Magnitudes of 1 to 8 steps, from which come the values of the symbols 0..7, -8..-1. -1 x 0 is
    // -0, as it is where it is computed.
    HWY_ALIGN static constexpr float kEven[8] = {1, 3, 5, 7, 1, 3, 5, 7};
    HWY_ALIGN static constexpr float kOdd[8] = {2, 4, 6, 8, 2, 4, 6, 8};
    alignas(kBlockBytes) static constexpr uint8_t kLow[kValues] = {0x80, 0,  2,  4, 6, 8, 10, 12,
                                                                   14,   12, 10, 8, 6, 4, 2,  0};
    alignas(kBlockBytes) static constexpr uint8_t kHigh[kValues] = {0x80, 1,  3,  5, 7, 9, 11, 13,
                                                                    15,   13, 11, 9, 7, 5, 3,  1};
    alignas(kBlockBytes) static constexpr uint8_t kSign[kValues] = {
        0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80};
    const DF32 d;
    const DBytes d8;
    for (size_t t = 0; t < tokens; t += kTokens) {
      VF32 step = hn::Set(d, steps[t]);
      if constexpr (kTokens == 2) step = hn::ConcatUpperLower(d, hn::Set(d, steps[t + 1]), step);
      const VBytes magnitudes = hn::BitCast(
          d8, To::FromEvenOdd(hn::Mul(hn::Load(d, kEven), step), hn::Mul(hn::Load(d, kOdd), step)));
      uint8_t* const to = &bytes[Place(t)];
      hn::Store(hn::TableLookupBytesOr0(magnitudes, hn::LoadDup128(d8, kLow)), d8, to);
      hn::Store(hn::Or(hn::TableLookupBytesOr0(magnitudes, hn::LoadDup128(d8, kHigh)),
                       hn::LoadDup128(d8, kSign)),
                d8, to + kTokens * kValues);
    }
  }
};

// Low halves of the bytes, high halves.
HWY_INLINE VBytes LowHalves(VBytes pairs) {
  return hn::And(pairs, hn::Set(DBytes(), 0xF));
}
HWY_INLINE VBytes HighHalves(VBytes pairs) {
  return LowHalves(hn::BitCast(DBytes(), hn::ShiftRight<4>(hn::BitCast(D16(), pairs))));
}

struct PackedTokenSource {
  struct Row {
    const uint8_t* symbols;
    VBytes low;  // the table, in each block
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
    HWY_INLINE void LoadFour(size_t dim, V16* values) const {
      const D16 d;
      const DBytes d8;
      VBytes pairs = hn::LoadU(d8, symbols + dim / 2);
      if constexpr (kN == 16) {
        // Four bytes make a block of values: every other one to the upper blocks.
        HWY_ALIGN static constexpr uint32_t kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};
        pairs = hn::BitCast(d8, hn::TableLookupLanes(hn::BitCast(DU32(), pairs),
                                                     hn::SetTableIndices(DU32(), kOrder)));
      }
      const VBytes even = LowHalves(pairs);
      const VBytes odd = HighHalves(pairs);
      const VBytes even_low = hn::TableLookupBytes(low, even);
      const VBytes even_high = hn::TableLookupBytes(high, even);
      const VBytes odd_low = hn::TableLookupBytes(low, odd);
      const VBytes odd_high = hn::TableLookupBytes(high, odd);
      const V16 even_first = hn::BitCast(d, hn::InterleaveLower(d8, even_low, even_high));
      const V16 even_last = hn::BitCast(d, hn::InterleaveUpper(d8, even_low, even_high));
      const V16 odd_first = hn::BitCast(d, hn::InterleaveLower(d8, odd_low, odd_high));
      const V16 odd_last = hn::BitCast(d, hn::InterleaveUpper(d8, odd_low, odd_high));
      values[0] = hn::InterleaveLower(d, even_first, odd_first);
      values[1] = hn::InterleaveUpper(d, even_first, odd_first);
      values[2] = hn::InterleaveLower(d, even_last, odd_last);
      values[3] = hn::InterleaveUpper(d, even_last, odd_last);
    }
  };
  const std::byte* symbols;
  size_t row_bytes;
  const uint8_t* values;

  HWY_INLINE Row At(size_t token) const {
    const uint8_t* const of_token = values + TokenValues::Place(token);
    return {reinterpret_cast<const uint8_t*>(symbols + token * row_bytes),
            hn::LoadDup128(DBytes(), of_token),
            hn::LoadDup128(DBytes(), of_token + TokenValues::kTokens * kValues)};
  }
};

template <bool kStream, typename Source>
HWY_INLINE void ScatterRows(Source source, size_t tokens, size_t dims, std::byte* base,
                            size_t stride) {
  constexpr size_t kAtOnce = 4;
  const size_t vectors = dims / kN;
  const size_t last = dims - kN;
  for (size_t t = 0; t < tokens; ++t) {
    const auto row = source.At(t);
    std::byte* to = base + t * stride;
    size_t v = 0;
    for (; v + kAtOnce <= vectors; v += kAtOnce) {
      V16 values[kAtOnce];
      if constexpr (requires { row.LoadFour(v, values); }) {
        row.LoadFour(v * kN, values);
      } else {
        for (size_t i = 0; i < kAtOnce; ++i) values[i] = row.Load((v + i) * kN);
      }
      for (size_t i = 0; i < kAtOnce; ++i) Store16<kStream>(values[i], to + (v + i) * kVectorBytes);
    }
    for (; v < vectors; ++v) Store16<kStream>(row.Load(v * kN), to + v * kVectorBytes);
    if (last % kN != 0) Store16<false>(row.Load(last), to + last * 2);
  }
}

template <typename Source>
void ScatterRows(Target target, Source source) {
  (target.stream ? ScatterRows<true, Source> : ScatterRows<false, Source>)(source, target.tokens,
                                                                           target.dims, target.base,
                                                                           target.stride);
}

// ---- turned: a Source makes kStrip tokens' values of one dim, or of two, from turned bytes ----

struct TurnedLossless {
  static constexpr size_t kPlanes = 2;
  static constexpr size_t kPerByte = 1;
  std::array<const std::byte*, kPlanes> planes;  // symbols and plain bytes

  HWY_INLINE void Values(size_t, size_t, const VBytes* bytes, V16* values) const {
    const D16 d;
    const DBytes d8;
    const V16 first = hn::BitCast(d, hn::InterleaveLower(d8, bytes[1], bytes[0]));
    const V16 second = hn::BitCast(d, hn::InterleaveUpper(d8, bytes[1], bytes[0]));
    values[0] = hn::Or(hn::ShiftRight<1>(first), hn::ShiftLeft<15>(first));
    values[1] = hn::Or(hn::ShiftRight<1>(second), hn::ShiftLeft<15>(second));
  }
};

template <typename To>
struct TurnedTokens {
  static constexpr size_t kPlanes = 1;
  static constexpr size_t kPerByte = 1;
  std::array<const std::byte*, kPlanes> planes;
  const float* factor;  // as in Columns, padded
  const float* offset;

  HWY_INLINE void Values(size_t, size_t token, const VBytes* bytes, V16* values) const {
    const float* const f = factor + token;
    const float* const o = offset + token;
    AffineStrip<To>(bytes[0], LoadPlace(f), LoadPlace(o), LoadPlace(f + kN), LoadPlace(o + kN),
                    values);
  }
};

template <typename To>
struct TurnedChannels {
  static constexpr size_t kPlanes = 1;
  static constexpr size_t kPerByte = 1;
  std::array<const std::byte*, kPlanes> planes;
  const float* factor;
  const float* offset;

  HWY_INLINE void Values(size_t dim, size_t, const VBytes* bytes, V16* values) const {
    const F32Pair f = Both(factor[dim]);
    const F32Pair o = Both(offset[dim]);
    AffineStrip<To>(bytes[0], f, o, f, o, values);
  }
};

// Of the dims of a plane: of each the low bytes, then the high bytes of its values.
struct ChannelValues {
  HWY_ALIGN std::array<uint8_t, kHeadDimMax * 2 * kValues> bytes;

  template <typename To>
  void Fill(const Factors& from, size_t dims) {
    // Symbols in the order of their half bytes: 0..7, -8..-1.
    HWY_ALIGN static constexpr float kEven[kValues / 2] = {0, 2, 4, 6, -8, -6, -4, -2};
    HWY_ALIGN static constexpr float kOdd[kValues / 2] = {1, 3, 5, 7, -7, -5, -3, -1};
    // In each block the low bytes, then the high bytes.
    alignas(kBlockBytes) static constexpr uint8_t kSplit[kBlockBytes] = {0, 2, 4, 6, 8, 10, 12, 14,
                                                                         1, 3, 5, 7, 9, 11, 13, 15};
    const DF32 d;
    const DBytes d8;
    for (size_t dim = 0; dim < dims; ++dim) {
      const VF32 factor = hn::Set(d, from.factor[dim]);
      const VF32 offset = hn::Set(d, from.offset[dim]);
      const auto values = [&](size_t i) {
        const V16 made = To::FromEvenOdd(hn::MulAdd(hn::Load(d, kEven + i / 2), factor, offset),
                                         hn::MulAdd(hn::Load(d, kOdd + i / 2), factor, offset));
        return hn::TableLookupBytes(hn::BitCast(d8, made), hn::LoadDup128(d8, kSplit));
      };
      uint8_t* const to = &bytes[dim * 2 * kValues];
      if constexpr (kN == 16) {
        HWY_ALIGN static constexpr uint32_t kOrder[8] = {0, 1, 4, 5, 2, 3, 6, 7};
        hn::Store(hn::BitCast(d8, hn::TableLookupLanes(hn::BitCast(DU32(), values(0)),
                                                       hn::SetTableIndices(DU32(), kOrder))),
                  d8, to);
      } else {
        const hn::Repartition<uint64_t, D16> d64;
        const auto first = hn::BitCast(d64, values(0));
        const auto last = hn::BitCast(d64, values(kN));
        hn::Store(hn::BitCast(d8, hn::InterleaveLower(d64, first, last)), d8, to);
        hn::Store(hn::BitCast(d8, hn::InterleaveUpper(d64, first, last)), d8, to + kValues);
      }
    }
  }
};

struct TurnedPackedChannels {
  static constexpr size_t kPlanes = 1;
  static constexpr size_t kPerByte = 2;
  std::array<const std::byte*, kPlanes> planes;
  const uint8_t* values_of;

  HWY_INLINE void Values(size_t dim, size_t, const VBytes* bytes, V16* values) const {
    const uint8_t* const of_dim = values_of + dim * 2 * kValues;
    LookUp(of_dim, LowHalves(bytes[0]), values);
    LookUp(of_dim + 2 * kValues, HighHalves(bytes[0]), values + 2);
  }

 private:
  static HWY_INLINE void LookUp(const uint8_t* table, VBytes symbols, V16* values) {
    const D16 d;
    const DBytes d8;
    const VBytes low = hn::TableLookupBytes(hn::LoadDup128(d8, table), symbols);
    const VBytes high = hn::TableLookupBytes(hn::LoadDup128(d8, table + kValues), symbols);
    values[0] = hn::BitCast(d, hn::InterleaveLower(d8, low, high));
    values[1] = hn::BitCast(d, hn::InterleaveUpper(d8, low, high));
  }
};

// Dims that a source needs at least.
template <typename Source>
constexpr size_t kTurnedDims = kBlockBytes* Source::kPerByte;

// kStrip tokens of all dims, from `token` on; from `tokens` on they repeat the last one.
template <bool kStream, typename Source>
HWY_NOINLINE void ScatterStrip(Source source, size_t token, size_t tokens, size_t dims,
                               std::byte* base, size_t stride) {
  constexpr size_t kPerByte = Source::kPerByte;
  const size_t row_bytes = dims / kPerByte;
  const auto rows = [&](size_t plane) {
    return StripRows(source.planes[plane] + token * row_bytes, row_bytes, tokens);
  };
  const std::array<StripRows, 2> of_planes = {rows(0), rows(Source::kPlanes - 1)};
  for (size_t step = 0; step < dims; step += kTurnedDims<Source>) {
    const size_t first = std::min(step, dims - kTurnedDims<Source>);
    VBytes turned[Source::kPlanes][kBlockBytes];
    for (size_t plane = 0; plane < Source::kPlanes; ++plane) {
      TurnBytes(of_planes[plane], first / kPerByte, turned[plane]);
    }
    for (size_t i = 0; i < kBlockBytes; ++i) {
      VBytes bytes[Source::kPlanes];
      for (size_t plane = 0; plane < Source::kPlanes; ++plane) bytes[plane] = turned[plane][i];
      V16 values[2 * kPerByte];
      const size_t dim = first + i * kPerByte;
      source.Values(dim, token, bytes, values);
      for (size_t k = 0; k < kPerByte; ++k) {
        Store16<kStream>(values[2 * k], base + (dim + k) * stride);
        Store16<kStream>(values[2 * k + 1], base + (dim + k) * stride + kVectorBytes);
      }
    }
  }
}

// `each(token, tokens)` for every strip.
template <typename Each>
HWY_INLINE void ForStrips(size_t tokens, const Each& each) {
  for (size_t t = 0; t < tokens; t += kStrip) each(t, std::min(kStrip, tokens - t));
}

// Values of a strip on their way to the page.
struct Strip {
  HWY_ALIGN std::array<std::byte, kHeadDimMax * kStripBytes> bytes;
};

template <bool kStream, typename Source>
void ScatterTurned(Source source, Target target) {
  ForStrips(target.tokens, [&](size_t t, size_t tokens) {
    std::byte* const to = target.base + t * 2;
    if (tokens == kStrip) {
      ScatterStrip<kStream>(source, t, tokens, target.dims, to, target.stride);
    } else {
      Strip strip;
      ScatterStrip<false>(source, t, tokens, target.dims, strip.bytes.data(), kStripBytes);
      CopyRows<kStream>(strip.bytes.data(), target.dims, tokens, to, target.stride);
    }
  });
}

template <typename Source>
void ScatterTurned(Target target, Source source) {
  (target.stream ? ScatterTurned<true, Source> : ScatterTurned<false, Source>)(source, target);
}

// ---- scatter ----

// `scatter(target, element)` per piece, `element` being the index of its first one in the plane; it
// says whether it could. If not, the reference does it.
template <typename Scatter>
HWY_INLINE void ScatterPieces(const ScatterWork& work, QuantKernels::Scatter scalar,
                              const Scatter& scatter) {
  for (const PlanePiece& piece : work.pieces) {
    const Target target(piece, work.dims, work.streaming);
    const size_t token = piece.first_token - work.first_token;
    if (target.form == Target::Form::kOther || work.dims < kN || !scatter(target, token)) {
      ScatterWork rest = work;
      rest.pieces = {&piece, 1};
      scalar(rest);
    }
  }
}
template <bool kStream>
void TurnPage(const std::byte* values, Target target) {
  ForStrips(target.tokens, [&](size_t t, size_t tokens) {
    const size_t row_bytes = target.dims * 2;
    TurnStrip<kStream>(values + t * row_bytes, row_bytes, tokens, target.dims, target.base + t * 2,
                       target.stride);
  });
}

void ScatterRaw16(const ScatterWork& work) {
  ScatterPieces(work, ScalarKernels().scatter_raw16, [&](const Target& target, size_t token) {
    const std::byte* const values = work.symbols + token * work.dims * 2;
    if (target.rows()) {
      ScatterRows(target, RawSource{values, work.dims});
    } else {
      (target.stream ? TurnPage<true> : TurnPage<false>)(values, target);
    }
    return true;
  });
}

void ScatterRaw8(const ScatterWork& work) {
  for (PlanePiece piece : work.pieces) {
    ScatterWork one = work;
    one.pieces = {&piece, 1};
    // Rows of an even number of bytes are rows of half as many 16-bit elements.
    if (piece.dim_stride == 1 && work.dims % 2 == 0) {
      piece.dim_stride = 2;
      one.dims = work.dims / 2;
      ScatterRaw16(one);
    } else {
      ScalarKernels().scatter_raw8(one);
    }
  }
}

void ScatterLossless(const ScatterWork& work) {
  ScatterPieces(work, ScalarKernels().scatter_lossless, [&](const Target& target, size_t token) {
    const std::byte* const symbols = work.symbols + token * work.dims;
    const std::byte* const plain = work.plain + token * work.dims;
    if (target.rows()) {
      ScatterRows(target, LosslessSource{symbols, plain, work.dims});
    } else {
      if (work.dims < kTurnedDims<TurnedLossless>) return false;
      ScatterTurned(target, TurnedLossless{{symbols, plain}});
    }
    return true;
  });
}

// Factors of `count` tokens from `first` on, or of all dims, times `unit`; false if they would not
// be exact.
using FillFactors = bool (*)(const ScatterWork& work, size_t first, size_t count, float unit,
                             Factors& factors);

bool FillScales(const ScatterWork& work, size_t first, size_t count, float unit, Factors& factors) {
  bool exact = true;
  for (size_t t = 0; t < count; ++t) {
    float scale;
    std::memcpy(&scale, work.scales + (first + t) * sizeof(float), sizeof(float));
    scale = SafeScale(scale);
    exact = exact && (scale == 0 || scale >= kFactorMin);
    factors.factor[t] = scale * unit;
    factors.offset[t] = -0.0F;
  }
  factors.Pad(count);
  return exact;
}

bool FillSteps(const ScatterWork& work, size_t first, size_t count, float unit, Factors& factors) {
  for (size_t t = 0; t < count; ++t) {
    uint16_t step;
    std::memcpy(&step, work.scales + (first + t) * sizeof(step), sizeof(step));
    factors.factor[t] = SafeStep(step) * unit;
    factors.offset[t] = -0.0F;
  }
  factors.Pad(count);
  return true;
}

// REQUIRES: kN dims at least.
void FillChannels(const ScatterWork& work, float unit, Factors& factors) {
  const D16 d;
  const V16 infinity = hn::Set(d, kFp16Infinity);
  const auto put = [](V16 halves, float times, float* to) {
    const F32Pair pair = SplitF32<FromFp16>(halves);
    const VF32 by = hn::Set(DF32(), times);
    hn::StoreInterleaved2(hn::Mul(pair.even, by), hn::Mul(pair.odd, by), DF32(), to);
  };
  uint16_t first_step;
  std::memcpy(&first_step, work.scales, sizeof(first_step));
  for (size_t place = 0; place < work.dims; place += kN) {
    const size_t dim = std::min<size_t>(place, work.dims - kN);
    V16 step = hn::Set(d, first_step);
    if (work.scale_stride != 0) step = Load16(work.scales + dim * work.scale_stride);
    const V16 mean = Load16(work.means + dim * 2);
    const V16 magnitude = hn::And(mean, hn::Set(d, kMagnitudeMask));
    put(hn::IfThenElseZero(hn::Lt(step, infinity), step), unit, &factors.factor[dim]);
    put(hn::IfThenElseZero(hn::Lt(magnitude, infinity), mean), 1, &factors.offset[dim]);
  }
}

template <typename To>
HWY_NOINLINE bool ScatterTokens(const Target& target, const std::byte* symbols,
                                const Factors& factors) {
  if (target.rows()) {
    ScatterRows(target, TokenSource<To>{symbols, target.dims, factors.factor.data(),
                                        factors.offset.data()});
    return true;
  }
  if (target.dims < kTurnedDims<TurnedTokens<To>>) return false;
  const Columns columns(factors, (target.tokens + kStrip - 1) / kStrip * kStrip);
  ScatterTurned(target, TurnedTokens<To>{{symbols}, columns.factor.data(), columns.offset.data()});
  return true;
}

template <typename To, FillFactors kFill, QuantKernels::Scatter QuantKernels::*kScalar>
void ScatterByTokens(const ScatterWork& work) {
  Factors factors;
  ScatterPieces(work, ScalarKernels().*kScalar, [&](const Target& target, size_t token) {
    return kFill(work, token, target.tokens, kByteUnit, factors) &&
           ScatterTokens<To>(target, work.symbols + token * work.dims, factors);
  });
}

template <typename To, QuantKernels::Scatter QuantKernels::*kScalar>
void ScatterByChannels(const ScatterWork& work) {
  if (work.dims < kN) return (ScalarKernels().*kScalar)(work);
  Factors factors;
  FillChannels(work, kByteUnit, factors);
  const Columns columns(factors, work.dims);
  ScatterPieces(work, ScalarKernels().*kScalar, [&](const Target& target, size_t token) {
    const std::byte* const symbols = work.symbols + token * work.dims;
    if (target.rows()) {
      ScatterRows(target, ChannelSource<To>{symbols, work.dims, columns.factor.data(),
                                            columns.offset.data()});
      return true;
    }
    if (work.dims < kTurnedDims<TurnedChannels<To>>) return false;
    ScatterTurned(target,
                  TurnedChannels<To>{{symbols}, factors.factor.data(), factors.offset.data()});
    return true;
  });
}

template <bool kStream>
HWY_NOINLINE void TurnPackedTokens(const Target& target, PackedTokenSource source) {
  Strip strip;
  const size_t row_bytes = target.dims * 2;
  ForStrips(target.tokens, [&](size_t t, size_t tokens) {
    PackedTokenSource from = source;
    from.symbols += t * source.row_bytes;
    from.values += TokenValues::Place(t);
    ScatterRows<false>(from, tokens, target.dims, strip.bytes.data(), row_bytes);
    TurnStrip<kStream>(strip.bytes.data(), row_bytes, tokens, target.dims, target.base + t * 2,
                       target.stride);
  });
}

template <bool kStream>
HWY_NOINLINE void TurnPackedChannels(const Target& target, TurnedPackedChannels source) {
  Strip strip;
  ForStrips(target.tokens, [&](size_t t, size_t tokens) {
    ScatterStrip<false>(source, t, tokens, target.dims, strip.bytes.data(), kStripBytes);
    ForStrips(target.dims, [&](size_t d, size_t dims) {
      TurnStrip<kStream>(strip.bytes.data() + d * kStripBytes, kStripBytes, dims, tokens,
                         target.base + t * target.stride + d * 2, target.stride);
    });
  });
}

HWY_NOINLINE void ScatterPackedTokens(const Target& target, PackedTokenSource source) {
  if (target.rows()) {
    ScatterRows(target, source);
  } else {
    (target.stream ? TurnPackedTokens<true> : TurnPackedTokens<false>)(target, source);
  }
}

HWY_NOINLINE void ScatterPackedChannels(const Target& target, TurnedPackedChannels source) {
  if (target.turned()) {
    ScatterTurned(target, source);
  } else {
    const bool stream = target.stream && target.Aligned(kLineBytes);
    (stream ? TurnPackedChannels<true> : TurnPackedChannels<false>)(target, source);
  }
}

// Rows of an odd number of packed symbols do not all start at a whole byte.
template <typename To, QuantKernels::Scatter QuantKernels::*kScalar>
void ScatterPackedByTokens(const ScatterWork& work) {
  if (work.dims % 2 != 0) return (ScalarKernels().*kScalar)(work);
  Factors factors;
  TokenValues values;
  ScatterPieces(work, ScalarKernels().*kScalar, [&](const Target& target, size_t token) {
    FillSteps(work, token, target.tokens, 1, factors);
    values.Fill<To>(factors.factor.data(), target.tokens);
    const size_t row_bytes = work.dims / 2;
    ScatterPackedTokens(target, PackedTokenSource{work.symbols + token * row_bytes, row_bytes,
                                                  values.bytes.data()});
    return true;
  });
}

template <typename To, QuantKernels::Scatter QuantKernels::*kScalar>
void ScatterPackedByChannels(const ScatterWork& work) {
  if (work.dims % 2 != 0 || work.dims < kTurnedDims<TurnedPackedChannels>) {
    return (ScalarKernels().*kScalar)(work);
  }
  Factors factors;
  FillChannels(work, 1, factors);
  const size_t row_bytes = work.dims / 2;
  if (std::is_same_v<To, ToBf16> && work.pieces.front().dim_stride == 2) {
    const Columns columns(factors, work.dims, PackedChannelSource::kEvenUnit,
                          PackedChannelSource::kOddUnit);
    return ScatterPieces(work, ScalarKernels().*kScalar, [&](const Target& target, size_t token) {
      if (!target.rows()) return false;
      ScatterRows(target, PackedChannelSource{work.symbols + token * row_bytes, row_bytes,
                                              columns.factor.data(), columns.offset.data()});
      return true;
    });
  }
  ChannelValues values;
  values.Fill<To>(factors, work.dims);
  ScatterPieces(work, ScalarKernels().*kScalar, [&](const Target& target, size_t token) {
    ScatterPackedChannels(
        target, TurnedPackedChannels{{work.symbols + token * row_bytes}, values.bytes.data()});
    return true;
  });
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

// The stride between dims is beyond what hardware prefetchers follow well, so the lines of the next
// kStrip dims are asked for while these are turned, a few at a time.
void GatherTransposed(const GatherWork& work) {
  constexpr size_t kTiles = kLineTokens / kBlockRows;
  constexpr size_t kAtOnce = kStrip / kTiles;
  ForStrips(work.dims, [&](size_t d, size_t dims) {
    const std::byte* const from = work.base + d * work.dim_stride;
    const std::byte* const next = from + dims * work.dim_stride;
    const size_t more = std::min(kStrip, work.dims - d - dims);
    const StripRows rows(from, work.dim_stride, dims);
    for (size_t t = 0; t < work.tokens; t += kBlockRows) {
      const size_t first = t / kBlockRows % kTiles * kAtOnce;
      for (size_t i = first; i < std::min(first + kAtOnce, more); ++i) {
        hwy::Prefetch(next + i * work.dim_stride + t * 2);
      }
      TurnColumns<false>(rows, dims, t, work.tokens, work.values + d * 2, size_t{work.dims} * 2);
    }
  });
}

void Gather8(const GatherWork& work) {
  if (work.dim_stride == 1) return GatherRows(work, work.dims);
  ScalarKernels().gather8(work);
}
void Gather16(const GatherWork& work) {
  if (work.dim_stride == 2) return GatherRows(work, size_t{work.dims} * 2);
  if (work.token_stride == 2 && work.tokens >= kBlockRows && work.dims >= kN) {
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
      .scatter_q8_bf16 = ScatterByTokens<ToBf16, FillScales, &QuantKernels::scatter_q8_bf16>,
      .scatter_q8_fp16 = ScatterByTokens<ToFp16, FillScales, &QuantKernels::scatter_q8_fp16>,
      .scatter_steps_bf16 = ScatterByTokens<ToBf16, FillSteps, &QuantKernels::scatter_steps_bf16>,
      .scatter_steps_fp16 = ScatterByTokens<ToFp16, FillSteps, &QuantKernels::scatter_steps_fp16>,
      .scatter_channels_bf16 = ScatterByChannels<ToBf16, &QuantKernels::scatter_channels_bf16>,
      .scatter_channels_fp16 = ScatterByChannels<ToFp16, &QuantKernels::scatter_channels_fp16>,
      .scatter_packed_steps_bf16 =
          ScatterPackedByTokens<ToBf16, &QuantKernels::scatter_packed_steps_bf16>,
      .scatter_packed_steps_fp16 =
          ScatterPackedByTokens<ToFp16, &QuantKernels::scatter_packed_steps_fp16>,
      .scatter_packed_channels_bf16 =
          ScatterPackedByChannels<ToBf16, &QuantKernels::scatter_packed_channels_bf16>,
      .scatter_packed_channels_fp16 =
          ScatterPackedByChannels<ToFp16, &QuantKernels::scatter_packed_channels_fp16>,
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
