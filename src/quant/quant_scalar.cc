// The reference kernels: one element at a time, any strides. Everything else must give these bytes.
#include <algorithm>
#include <cstring>

#include "quant/quant_kernels.h"
#include "quant/quant_numeric.h"

namespace shadowserve {
namespace {

template <typename T>
T Load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof(T));
  return value;
}

template <typename T>
void Store(T value, std::byte* at) {
  std::memcpy(at, &value, sizeof(T));
}

// `element(token, index)` gives the value that goes to (token, dim); index counts from the piece's
// first element.
template <typename Element>
void ScatterEach(const ScatterWork& work, const Element& element) {
  for (uint32_t t = 0; t < work.tokens; ++t) {
    for (uint32_t d = 0; d < work.dims; ++d) {
      Store(element(t, size_t{t} * work.dims + d),
            work.base + t * work.token_stride + d * work.dim_stride);
    }
  }
}

template <typename T>
void ScatterRaw(const ScatterWork& work) {
  ScatterEach(work, [&](uint32_t, size_t i) { return Load<T>(work.symbols + i * sizeof(T)); });
}

void ScatterLossless(const ScatterWork& work) {
  ScatterEach(work, [&](uint32_t, size_t i) {
    const auto rotated = static_cast<uint16_t>(std::to_integer<uint32_t>(work.symbols[i]) << 8 |
                                               std::to_integer<uint32_t>(work.plain[i]));
    return std::rotr(rotated, 1);
  });
}

template <uint16_t (*kFromF32)(float)>
void ScatterQ8(const ScatterWork& work) {
  ScatterEach(work, [&](uint32_t t, size_t i) {
    const float scale = SafeScale(Load<float>(work.scales + t * sizeof(float)));
    return kFromF32(static_cast<float>(Load<int8_t>(work.symbols + i)) * scale);
  });
}

template <typename T>
void Gather(const GatherWork& work) {
  for (uint32_t t = 0; t < work.tokens; ++t) {
    for (uint32_t d = 0; d < work.dims; ++d) {
      Store(Load<T>(work.base + t * work.token_stride + d * work.dim_stride),
            work.values + (size_t{t} * work.dims + d) * sizeof(T));
    }
  }
}

void SplitLossless(const std::byte* values, size_t elements, std::byte* plain, std::byte* symbols) {
  for (size_t i = 0; i < elements; ++i) {
    const uint16_t rotated = std::rotl(Load<uint16_t>(values + i * sizeof(uint16_t)), 1);
    plain[i] = static_cast<std::byte>(rotated & 0xFF);
    symbols[i] = static_cast<std::byte>(rotated >> 8);
  }
}

void MaxMagnitudes(const std::byte* values, uint32_t tokens, uint32_t dims, uint16_t infinity,
                   uint16_t* maxima) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t d = 0; d < dims; ++d) {
      const auto bits = Load<uint16_t>(values + (size_t{t} * dims + d) * sizeof(uint16_t));
      const auto magnitude = static_cast<uint16_t>(bits & kMagnitudeMask);
      if (magnitude < infinity) maxima[t] = std::max(maxima[t], magnitude);
    }
  }
}

template <float (*kToF32)(uint16_t), uint16_t kInfinity>
void QuantizeQ8Rows(const QuantizeWork& work) {
  for (uint32_t t = 0; t < work.tokens; ++t) {
    const float scale = SafeScale(Load<float>(work.scales + t * sizeof(float)));
    for (uint32_t d = 0; d < work.dims; ++d) {
      const size_t i = size_t{t} * work.dims + d;
      const auto bits = Load<uint16_t>(work.values + i * sizeof(uint16_t));
      const bool is_nan = (bits & kMagnitudeMask) > kInfinity;
      Store(QuantizeQ8(kToF32(bits), is_nan, scale), work.symbols + i);
    }
  }
}

}  // namespace

const QuantKernels& ScalarKernels() {
  static constexpr QuantKernels kKernels = {
      .scatter_raw8 = ScatterRaw<uint8_t>,
      .scatter_raw16 = ScatterRaw<uint16_t>,
      .scatter_lossless = ScatterLossless,
      .scatter_q8_bf16 = ScatterQ8<Bf16FromF32>,
      .scatter_q8_fp16 = ScatterQ8<Fp16FromF32>,
      .gather8 = Gather<uint8_t>,
      .gather16 = Gather<uint16_t>,
      .split_lossless = SplitLossless,
      .max_magnitudes = MaxMagnitudes,
      .quantize_q8_bf16 = QuantizeQ8Rows<F32FromBf16, kBf16Infinity>,
      .quantize_q8_fp16 = QuantizeQ8Rows<F32FromFp16, kFp16Infinity>,
  };
  return kKernels;
}

}  // namespace shadowserve
