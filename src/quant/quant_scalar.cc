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

// `element(token, index)` gives the value that goes to (token, dim); both count from the block's
// first in this plane.
template <typename Element>
void ScatterEach(const ScatterWork& work, const Element& element) {
  for (const PlanePiece& piece : work.pieces) {
    const uint32_t first = piece.first_token - work.first_token;
    for (uint32_t t = 0; t < piece.tokens; ++t) {
      for (uint32_t d = 0; d < work.dims; ++d) {
        Store(element(first + t, size_t{first + t} * work.dims + d),
              piece.base + t * piece.token_stride + d * piece.dim_stride);
      }
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

int8_t ByteSymbol(const ScatterWork& work, size_t i) {
  return Load<int8_t>(work.symbols + i);
}

int8_t PackedSymbol(const ScatterWork& work, size_t i) {
  const size_t nibble = i + (work.odd_first ? 1 : 0);
  return UnpackSymbol(std::to_integer<uint8_t>(work.symbols[nibble / 2]), nibble % 2 != 0);
}

template <uint16_t (*kFromF32)(float), int8_t (*kSymbol)(const ScatterWork&, size_t)>
void ScatterSteps(const ScatterWork& work) {
  ScatterEach(work, [&](uint32_t t, size_t i) {
    const float step = SafeStep(Load<uint16_t>(work.scales + t * sizeof(uint16_t)));
    return kFromF32(static_cast<float>(kSymbol(work, i)) * step);
  });
}

// The product has 19 significant bits at most, so it is exact: fused or not, the sum is the same.
template <uint16_t (*kFromF32)(float), int8_t (*kSymbol)(const ScatterWork&, size_t)>
void ScatterChannels(const ScatterWork& work) {
  ScatterEach(work, [&](uint32_t, size_t i) {
    const size_t d = i % work.dims;
    const float step = SafeStep(Load<uint16_t>(work.scales + d * work.scale_stride));
    const float mean = SafeMean(Load<uint16_t>(work.means + d * sizeof(uint16_t)));
    return kFromF32(static_cast<float>(kSymbol(work, i)) * step + mean);
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

// The 16-bit dtypes.
struct Bf16 {
  static constexpr uint16_t kInfinity = kBf16Infinity;
  static float F32(uint16_t bits) { return F32FromBf16(bits); }
};
struct Fp16 {
  static constexpr uint16_t kInfinity = kFp16Infinity;
  static float F32(uint16_t bits) { return F32FromFp16(bits); }
};

enum class ScaleOf : uint8_t { kRow, kChannel };

template <typename Dtype, ScaleOf kScaleOf, bool kPacked>
void Quantize(const QuantizeWork& work) {
  for (uint32_t t = 0; t < work.tokens; ++t) {
    for (uint32_t d = 0; d < work.dims; ++d) {
      const size_t i = size_t{t} * work.dims + d;
      const auto bits = Load<uint16_t>(work.values + i * sizeof(uint16_t));
      const bool is_nan = (bits & kMagnitudeMask) > Dtype::kInfinity;
      const size_t scale_at = kScaleOf == ScaleOf::kRow ? t : d;
      const float scale = SafeScale(Load<float>(work.scales + scale_at * sizeof(float)));
      float value = Dtype::F32(bits);
      if (kScaleOf == ScaleOf::kChannel) value -= Load<float>(work.means + d * sizeof(float));
      const int8_t level =
          QuantizeLevel(value, is_nan, scale, kPacked ? kPackedLevels : kByteLevels);
      if (!kPacked) {
        Store(level, work.symbols + i);
      } else if (i % 2 == 0) {
        work.symbols[i / 2] = static_cast<std::byte>(level & 0xF);
      } else {
        work.symbols[i / 2] |= static_cast<std::byte>(level << 4);
      }
    }
  }
}

// `add(t, d, value)` for every finite value.
template <typename Dtype, typename Add>
void ForEachFinite(const std::byte* values, uint32_t tokens, uint32_t dims, const Add& add) {
  for (uint32_t t = 0; t < tokens; ++t) {
    for (uint32_t d = 0; d < dims; ++d) {
      const auto bits = Load<uint16_t>(values + (size_t{t} * dims + d) * sizeof(uint16_t));
      if ((bits & kMagnitudeMask) < Dtype::kInfinity) add(t, d, Dtype::F32(bits));
    }
  }
}

template <typename Dtype>
void ChannelSums(const std::byte* values, uint32_t tokens, uint32_t dims, float* sums) {
  std::fill_n(sums, dims, 0.0F);
  ForEachFinite<Dtype>(values, tokens, dims,
                       [&](uint32_t, uint32_t d, float value) { sums[d] += value; });
}

template <typename Dtype>
void ChannelSpreads(const std::byte* values, uint32_t tokens, uint32_t dims, const float* means,
                    float* squares, float* reaches) {
  std::fill_n(squares, dims, 0.0F);
  std::fill_n(reaches, dims, 0.0F);
  ForEachFinite<Dtype>(values, tokens, dims, [&](uint32_t, uint32_t d, float value) {
    const float distance = value - means[d];
    squares[d] += distance * distance;
    reaches[d] = std::max(reaches[d], std::abs(distance));
  });
}

template <typename Dtype>
void TokenSquares(const std::byte* values, uint32_t tokens, uint32_t dims, float* sums) {
  ForEachFinite<Dtype>(values, tokens, dims, [&](uint32_t t, uint32_t d, float value) {
    sums[size_t{t} * kSquareSums + SquareSumOf(d)] += value * value;
  });
}

}  // namespace

const QuantKernels& ScalarKernels() {
  static constexpr QuantKernels kKernels = {
      .scatter_raw8 = ScatterRaw<uint8_t>,
      .scatter_raw16 = ScatterRaw<uint16_t>,
      .scatter_lossless = ScatterLossless,
      .scatter_q8_bf16 = ScatterQ8<Bf16FromF32>,
      .scatter_q8_fp16 = ScatterQ8<Fp16FromF32>,
      .scatter_steps_bf16 = ScatterSteps<Bf16FromF32, ByteSymbol>,
      .scatter_steps_fp16 = ScatterSteps<Fp16FromF32, ByteSymbol>,
      .scatter_channels_bf16 = ScatterChannels<Bf16FromF32, ByteSymbol>,
      .scatter_channels_fp16 = ScatterChannels<Fp16FromF32, ByteSymbol>,
      .scatter_packed_steps_bf16 = ScatterSteps<Bf16FromF32, PackedSymbol>,
      .scatter_packed_steps_fp16 = ScatterSteps<Fp16FromF32, PackedSymbol>,
      .scatter_packed_channels_bf16 = ScatterChannels<Bf16FromF32, PackedSymbol>,
      .scatter_packed_channels_fp16 = ScatterChannels<Fp16FromF32, PackedSymbol>,
      .gather8 = Gather<uint8_t>,
      .gather16 = Gather<uint16_t>,
      .split_lossless = SplitLossless,
      .max_magnitudes = MaxMagnitudes,
      .quantize_rows_bf16 = Quantize<Bf16, ScaleOf::kRow, false>,
      .quantize_rows_fp16 = Quantize<Fp16, ScaleOf::kRow, false>,
      .quantize_channels_bf16 = Quantize<Bf16, ScaleOf::kChannel, false>,
      .quantize_channels_fp16 = Quantize<Fp16, ScaleOf::kChannel, false>,
      .quantize_packed_rows_bf16 = Quantize<Bf16, ScaleOf::kRow, true>,
      .quantize_packed_rows_fp16 = Quantize<Fp16, ScaleOf::kRow, true>,
      .quantize_packed_channels_bf16 = Quantize<Bf16, ScaleOf::kChannel, true>,
      .quantize_packed_channels_fp16 = Quantize<Fp16, ScaleOf::kChannel, true>,
      .channel_sums_bf16 = ChannelSums<Bf16>,
      .channel_sums_fp16 = ChannelSums<Fp16>,
      .channel_spreads_bf16 = ChannelSpreads<Bf16>,
      .channel_spreads_fp16 = ChannelSpreads<Fp16>,
      .token_squares_bf16 = TokenSquares<Bf16>,
      .token_squares_fp16 = TokenSquares<Fp16>,
  };
  return kKernels;
}

}  // namespace shadowserve
