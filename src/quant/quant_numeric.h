// Scalar arithmetic of the quantizers: what every kernel must reproduce bit for bit. All
// conversions round to nearest, ties to even, in integers, so that no CPU's own conversion rules
// come in.
#ifndef SHADOWSERVE_QUANT_QUANT_NUMERIC_H_
#define SHADOWSERVE_QUANT_QUANT_NUMERIC_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace shadowserve {

constexpr uint16_t kMagnitudeMask = 0x7FFF;
constexpr uint16_t kBf16Infinity = 0x7F80;
constexpr uint16_t kFp16Infinity = 0x7C00;
constexpr uint16_t kFp16Max = 0x7BFF;
constexpr float kFp16MaxValue = 65504.0F;
// Largest magnitude of a symbol of a byte, of half a byte.
constexpr float kByteLevels = 127.0F;
constexpr float kPackedLevels = 7.0F;

// The constants of Fp16FromF32: where fp16 overflows, where it has normal numbers, and the float
// whose last bit is fp16's smallest step, so that adding it rounds to that step.
constexpr uint32_t kFp16Overflow = uint32_t{127 + 16} << 23;
constexpr uint32_t kFp16NormalMin = uint32_t{127 - 14} << 23;
constexpr uint32_t kFp16StepMagic = uint32_t{127 - 15 + (23 - 10) + 1} << 23;
constexpr uint32_t kFp16Rebias = (uint32_t{127 - 15} << 23) - 0xFFF;  // subtracted; 0xFFF rounds
constexpr float kTwoTo112 = 0x1p112F;

// REQUIRES: not NaN (see SafeScale). Overflows to infinity.
inline uint16_t Bf16FromF32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// REQUIRES: not NaN. Overflows to infinity.
inline uint16_t Fp16FromF32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFF'FFFF;
  uint32_t half;
  if (magnitude >= kFp16Overflow) {
    half = kFp16Infinity;
  } else if (magnitude < kFp16NormalMin) {
    const float rounded = std::bit_cast<float>(magnitude) + std::bit_cast<float>(kFp16StepMagic);
    half = std::bit_cast<uint32_t>(rounded) - kFp16StepMagic;
  } else {
    half = (magnitude - kFp16Rebias + (magnitude >> 13 & 1)) >> 13;
  }
  return static_cast<uint16_t>(half | bits >> 31 << 15);
}

inline float F32FromBf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

// Infinity becomes 65536 and NaN some larger number: enough for the quantizers, which saturate and
// ask for NaN by its bits.
inline float F32FromFp16(uint16_t bits) {
  const float magnitude = std::bit_cast<float>(uint32_t{bits & 0x7FFFU} << 13) * kTwoTo112;
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// Scales come from the store: one that no writer makes (negative, infinite, NaN) counts as zero.
inline float SafeScale(float scale) {
  const uint32_t bits = std::bit_cast<uint32_t>(scale);
  return bits < 0x7F80'0000 ? scale : 0.0F;
}

// The same for the fp16 steps and means of `balanced`.
inline float SafeStep(uint16_t bits) {
  return bits < kFp16Infinity ? F32FromFp16(bits) : 0.0F;
}

inline float SafeMean(uint16_t bits) {
  return (bits & kMagnitudeMask) < kFp16Infinity ? F32FromFp16(bits) : 0.0F;
}

// What the writer stores. A step is rounded up, so that it reaches as far as it was meant to and
// only groups of zeros have the step zero. REQUIRES: not NaN; a step is not negative.
inline uint16_t StepBits(float step) {
  if (step >= kFp16MaxValue) return kFp16Max;
  const uint16_t bits = Fp16FromF32(step);
  return F32FromFp16(bits) < step ? static_cast<uint16_t>(bits + 1) : bits;
}

inline uint16_t MeanBits(float mean) {
  return Fp16FromF32(std::clamp(mean, -kFp16MaxValue, kFp16MaxValue));
}

// NaN gives 0, an infinity the nearest end of the range. REQUIRES: a safe scale.
inline int8_t QuantizeLevel(float value, bool is_nan, float scale, float levels) {
  if (is_nan || scale == 0.0F) return 0;
  return static_cast<int8_t>(std::nearbyint(std::clamp(value / scale, -levels, levels)));
}

// Symbol 2i is the low half of byte i, in two's complement.
inline int8_t UnpackSymbol(uint8_t byte, bool high) {
  return static_cast<int8_t>(static_cast<int8_t>(high ? byte : byte << 4) >> 4);
}

// Where the square of dim d goes: a token's squares are added up in 16 sums, so that the order of
// the additions is the same for vectors of every width. Even dims first, as vectors hold them.
constexpr uint32_t kSquareSums = 16;
constexpr uint32_t SquareSumOf(uint32_t dim) {
  return dim % kSquareSums / 2 + dim % 2 * (kSquareSums / 2);
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_QUANT_QUANT_NUMERIC_H_
