// The profiles over the kernels: which bytes belong to which piece. Byte layouts are those of
// format/segment.h.
#include "quant/quantizer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <string>

#include "base/check.h"
#include "format/segment.h"
#include "quant/quant_kernels.h"
#include "quant/quant_numeric.h"

namespace shadowserve {
namespace {

constexpr size_t kScaleBytes = sizeof(float);
constexpr size_t kHalfBytes = sizeof(uint16_t);

// Steps of `balanced`, in standard deviations of K around its channel means and in root mean
// squares of V's tokens (docs/architecture.md has what they cost). K gets half of V's step, since
// its errors count about four times as much.
constexpr float kStepOfK = 0.25F;
constexpr float kStepOfV = 0.50F;
// Steps that the largest distance of a group may be away: so rounding reaches 7 at most.
constexpr float kPackedReach = 7.49F;

const QuantKernels& KernelsOf(KernelSet set) {
  return set == KernelSet::kScalar ? ScalarKernels() : BestKernels();
}

// Of the profiles that take these two.
bool IsBf16(const SegmentShape& shape) {
  SS_CHECK(shape.dtype == KvDtype::kBf16 || shape.dtype == KvDtype::kFp16, "dtype of 16 bits");
  return shape.dtype == KvDtype::kBf16;
}

// Index of a block's first element in the segment.
size_t FirstElement(const SegmentShape& shape, const BlockRange& block) {
  return size_t{block.first_plane} * shape.plane_elements() +
         size_t{block.first_token} * shape.head_dim;
}

// Index of a plane's first scale within the side bytes: [layer][K|V][token].
size_t FirstScale(const SegmentShape& shape, uint32_t plane) {
  const PlaneIndex index = PlaneAt(shape, plane);
  return (size_t{index.layer} * 2 + (index.value ? 1 : 0)) * kChunkTokens;
}

void CheckPiece(const BlockRange& block, const PlanePiece& piece) {
  SS_CHECK(piece.plane >= block.first_plane && piece.plane - block.first_plane < block.planes,
           "piece in another block's plane");
  SS_CHECK(piece.first_token >= block.first_token &&
               piece.first_token - block.first_token <= block.tokens &&
               piece.tokens <= block.tokens - (piece.first_token - block.first_token),
           "piece in another block's tokens");
}

// What every profile shares: checks, and the way from pieces to kernel calls.
class KernelQuantizer : public Quantizer {
 public:
  explicit KernelQuantizer(KernelSet set) : kernels_(KernelsOf(set)) {}

  void WriteSide(const SegmentShape&, std::span<const std::byte>,
                 std::span<std::byte>) const override {}

 protected:
  const QuantKernels& kernels() const { return kernels_; }

  // One call of `scatter(work)` for the pieces of a plane that follow each other.
  // `complete(work, plane)` adds what is the profile's own.
  template <typename Scatter, typename Complete>
  static void ScatterPieces(const SegmentShape& shape, const BlockRange& block,
                            std::span<const std::byte> plain, std::span<const std::byte> symbols,
                            size_t symbol_bits, std::span<const PlanePiece> pieces, bool streaming,
                            const Scatter& scatter, const Complete& complete) {
    SS_CHECK(symbols.size() == block.elements * symbol_bits / 8, "symbols of another block");
    SS_CHECK(plain.empty() || plain.size() == block.elements, "plain bytes of another block");
    for (const PlanePiece& piece : pieces) CheckPiece(block, piece);
    while (!pieces.empty()) {
      const uint32_t plane = pieces.front().plane;
      const auto end =
          std::ranges::find_if(pieces, [&](const PlanePiece& p) { return p.plane != plane; });
      const auto count = static_cast<size_t>(end - pieces.begin());
      const size_t first = size_t{plane - block.first_plane} * block.tokens * shape.head_dim;
      ScatterWork work{.symbols = symbols.data() + first * symbol_bits / 8,
                       .plain = plain.empty() ? nullptr : plain.data() + first,
                       .odd_first = first * symbol_bits % 8 != 0,
                       .first_token = block.first_token,
                       .dims = shape.head_dim,
                       .streaming = streaming,
                       .pieces = pieces.first(count)};
      complete(work, plane);
      scatter(work);
      pieces = pieces.subspan(count);
    }
  }

 private:
  const QuantKernels& kernels_;
};

class RawQuantizer final : public KernelQuantizer {
 public:
  using KernelQuantizer::KernelQuantizer;

  void QuantizeBlock(const SegmentShape& shape, const BlockRange& block,
                     std::span<const std::byte> values, std::span<const std::byte>,
                     std::span<std::byte>, std::span<std::byte> symbols) const override {
    const size_t element = DtypeBytes(shape.dtype);
    SS_CHECK(values.size() == shape.raw_bytes() && symbols.size() == block.elements * element,
             "sizes of a raw block");
    std::memcpy(symbols.data(), values.data() + FirstElement(shape, block) * element,
                symbols.size());
  }

  void DequantizeBlock(const SegmentShape& shape, const BlockRange& block,
                       std::span<const std::byte>, std::span<const std::byte>,
                       std::span<const std::byte> symbols, std::span<const PlanePiece> pieces,
                       bool streaming) const override {
    const size_t element = DtypeBytes(shape.dtype);
    ScatterPieces(shape, block, {}, symbols, element * 8, pieces, streaming,
                  element == 1 ? kernels().scatter_raw8 : kernels().scatter_raw16,
                  [](ScatterWork&, uint32_t) {});
  }
};

class LosslessQuantizer final : public KernelQuantizer {
 public:
  using KernelQuantizer::KernelQuantizer;

  void QuantizeBlock(const SegmentShape& shape, const BlockRange& block,
                     std::span<const std::byte> values, std::span<const std::byte>,
                     std::span<std::byte> plain, std::span<std::byte> symbols) const override {
    SS_CHECK(DtypeBytes(shape.dtype) == 2 && values.size() == shape.raw_bytes() &&
                 plain.size() == block.elements && symbols.size() == block.elements,
             "sizes of a lossless block");
    kernels().split_lossless(values.data() + FirstElement(shape, block) * 2, block.elements,
                             plain.data(), symbols.data());
  }

  void DequantizeBlock(const SegmentShape& shape, const BlockRange& block,
                       std::span<const std::byte>, std::span<const std::byte> plain,
                       std::span<const std::byte> symbols, std::span<const PlanePiece> pieces,
                       bool streaming) const override {
    SS_CHECK(DtypeBytes(shape.dtype) == 2 && plain.size() == block.elements,
             "sizes of a lossless block");
    ScatterPieces(shape, block, plain, symbols, 8, pieces, streaming, kernels().scatter_lossless,
                  [](ScatterWork&, uint32_t) {});
  }
};

// scale = largest finite magnitude / 127 over all heads of the group, per (layer, K|V, token).
class Q8Quantizer final : public KernelQuantizer {
 public:
  using KernelQuantizer::KernelQuantizer;

  void WriteSide(const SegmentShape& shape, std::span<const std::byte> values,
                 std::span<std::byte> side) const override {
    SS_CHECK(values.size() == shape.raw_bytes() && side.size() == SideBytes(shape),
             "sizes of a q8 segment");
    const bool bf16 = IsBf16(shape);
    for (uint32_t layer = 0; layer < shape.layers.count; ++layer) {
      for (uint32_t kv = 0; kv < 2; ++kv) {
        std::array<uint16_t, kChunkTokens> maxima = {};
        for (uint32_t head = 0; head < shape.heads; ++head) {
          const size_t plane = (size_t{layer} * shape.heads + head) * 2 + kv;
          kernels().max_magnitudes(values.data() + plane * shape.plane_elements() * 2, kChunkTokens,
                                   shape.head_dim, bf16 ? kBf16Infinity : kFp16Infinity,
                                   maxima.data());
        }
        std::byte* scales = side.data() + (size_t{layer} * 2 + kv) * kChunkTokens * kScaleBytes;
        for (uint32_t t = 0; t < kChunkTokens; ++t) {
          const float magnitude = bf16 ? F32FromBf16(maxima[t]) : F32FromFp16(maxima[t]);
          const float scale = magnitude / kByteLevels;
          std::memcpy(scales + t * kScaleBytes, &scale, kScaleBytes);
        }
      }
    }
  }

  void QuantizeBlock(const SegmentShape& shape, const BlockRange& block,
                     std::span<const std::byte> values, std::span<const std::byte> side,
                     std::span<std::byte>, std::span<std::byte> symbols) const override {
    SS_CHECK(values.size() == shape.raw_bytes() && side.size() == SideBytes(shape) &&
                 symbols.size() == block.elements,
             "sizes of a q8 block");
    const auto quantize =
        IsBf16(shape) ? kernels().quantize_rows_bf16 : kernels().quantize_rows_fp16;
    const std::byte* first = values.data() + FirstElement(shape, block) * 2;
    const size_t plane_elements = size_t{block.tokens} * shape.head_dim;
    for (uint32_t i = 0; i < block.planes; ++i) {
      const size_t scale = FirstScale(shape, block.first_plane + i) + block.first_token;
      quantize({.values = first + i * plane_elements * 2,
                .scales = side.data() + scale * kScaleBytes,
                .tokens = block.tokens,
                .dims = shape.head_dim,
                .symbols = symbols.data() + i * plane_elements});
    }
  }

  void DequantizeBlock(const SegmentShape& shape, const BlockRange& block,
                       std::span<const std::byte> side, std::span<const std::byte>,
                       std::span<const std::byte> symbols, std::span<const PlanePiece> pieces,
                       bool streaming) const override {
    SS_CHECK(side.size() == SideBytes(shape), "scales of another segment");
    ScatterPieces(shape, block, {}, symbols, 8, pieces, streaming,
                  IsBf16(shape) ? kernels().scatter_q8_bf16 : kernels().scatter_q8_fp16,
                  [&](ScatterWork& work, uint32_t plane) {
                    const size_t scale = FirstScale(shape, plane) + block.first_token;
                    work.scales = side.data() + scale * kScaleBytes;
                  });
  }

 private:
  static size_t SideBytes(const SegmentShape& shape) {
    return size_t{shape.layers.count} * 2 * kChunkTokens * kScaleBytes;
  }
};

// Where the side bytes of a balanced segment hold what; all fp16 (segment.h has the order).
struct BalancedSide {
  BalancedSide(const SegmentShape& shape, bool packed)
      : heads(shape.heads),
        dims(shape.head_dim),
        steps_per_head(packed ? shape.head_dim : 1),
        step_of_k(size_t{shape.layers.count} * heads * dims),
        step_of_v(step_of_k + size_t{shape.layers.count} * heads * steps_per_head),
        bytes((step_of_v + size_t{shape.layers.count} * kChunkTokens) * kHalfBytes) {}

  // Offsets in bytes.
  size_t Means(PlaneIndex plane) const {
    return (size_t{plane.layer} * heads + plane.head) * dims * kHalfBytes;
  }
  size_t StepsOfK(PlaneIndex plane) const {
    return (step_of_k + (size_t{plane.layer} * heads + plane.head) * steps_per_head) * kHalfBytes;
  }
  size_t StepsOfV(uint32_t layer, uint32_t token) const {
    return (step_of_v + size_t{layer} * kChunkTokens + token) * kHalfBytes;
  }

  size_t heads;
  size_t dims;
  size_t steps_per_head;
  size_t step_of_k;  // index of the first
  size_t step_of_v;
  size_t bytes;
};

// Steps relative to the spread of the values, which an entropy coder likes better than steps
// relative to the largest one. K: distances from the mean of their channel, one step per head.
// V: one step per token over all heads of the segment. A step is raised where the largest distance
// would not fit.
//
// Packed, 7 is the largest level, so most of K's steps are raised, and one step for a head would be
// that of its widest channel: there every channel has its own.
class BalancedQuantizer final : public KernelQuantizer {
 public:
  BalancedQuantizer(KernelSet set, bool packed) : KernelQuantizer(set), packed_(packed) {}

  void WriteSide(const SegmentShape& shape, std::span<const std::byte> values,
                 std::span<std::byte> side) const override {
    const BalancedSide at(shape, packed_);
    SS_CHECK(values.size() == shape.raw_bytes() && side.size() == at.bytes,
             "sizes of a balanced segment");
    CheckDims(shape);
    for (uint32_t layer = 0; layer < shape.layers.count; ++layer) {
      for (uint32_t head = 0; head < shape.heads; ++head) {
        const PlaneIndex plane{.layer = layer, .head = head};
        WriteK(shape, PlaneOf(shape, values, plane), side.data() + at.Means(plane),
               side.data() + at.StepsOfK(plane));
      }
      WriteV(shape, values, layer, side.data() + at.StepsOfV(layer, 0));
    }
  }

  void QuantizeBlock(const SegmentShape& shape, const BlockRange& block,
                     std::span<const std::byte> values, std::span<const std::byte> side,
                     std::span<std::byte>, std::span<std::byte> symbols) const override {
    const BalancedSide at(shape, packed_);
    SS_CHECK(values.size() == shape.raw_bytes() && side.size() == at.bytes &&
                 symbols.size() == block.elements * symbol_bits() / 8,
             "sizes of a balanced block");
    CheckDims(shape);
    const bool bf16 = IsBf16(shape);
    const QuantKernels& k = kernels();
    const auto rows = packed_ ? (bf16 ? k.quantize_packed_rows_bf16 : k.quantize_packed_rows_fp16)
                              : (bf16 ? k.quantize_rows_bf16 : k.quantize_rows_fp16);
    const auto channels =
        packed_ ? (bf16 ? k.quantize_packed_channels_bf16 : k.quantize_packed_channels_fp16)
                : (bf16 ? k.quantize_channels_bf16 : k.quantize_channels_fp16);
    const std::byte* first = values.data() + FirstElement(shape, block) * 2;
    const size_t plane_elements = size_t{block.tokens} * shape.head_dim;
    std::array<float, kHeadDimMax> means;
    std::array<float, std::max(kHeadDimMax, kChunkTokens)> steps;
    for (uint32_t i = 0; i < block.planes; ++i) {
      const PlaneIndex plane = PlaneAt(shape, block.first_plane + i);
      const QuantizeWork work{.values = first + i * plane_elements * 2,
                              .scales = AsBytes(steps.data()),
                              .means = AsBytes(means.data()),
                              .tokens = block.tokens,
                              .dims = shape.head_dim,
                              .symbols = symbols.data() + i * plane_elements * symbol_bits() / 8};
      if (plane.value) {
        const std::byte* stored = side.data() + at.StepsOfV(plane.layer, block.first_token);
        for (uint32_t t = 0; t < block.tokens; ++t) steps[t] = SafeStep(LoadHalf(stored, t));
        rows(work);
      } else {
        const std::byte* stored = side.data() + at.StepsOfK(plane);
        for (uint32_t d = 0; d < shape.head_dim; ++d) {
          means[d] = SafeMean(LoadHalf(side.data() + at.Means(plane), d));
          steps[d] = SafeStep(LoadHalf(stored, packed_ ? d : 0));
        }
        channels(work);
      }
    }
  }

  void DequantizeBlock(const SegmentShape& shape, const BlockRange& block,
                       std::span<const std::byte> side, std::span<const std::byte>,
                       std::span<const std::byte> symbols, std::span<const PlanePiece> pieces,
                       bool streaming) const override {
    const BalancedSide at(shape, packed_);
    SS_CHECK(side.size() == at.bytes, "side bytes of another segment");
    CheckDims(shape);
    const bool bf16 = IsBf16(shape);
    const QuantKernels& k = kernels();
    const auto tokens = packed_ ? (bf16 ? k.scatter_packed_steps_bf16 : k.scatter_packed_steps_fp16)
                                : (bf16 ? k.scatter_steps_bf16 : k.scatter_steps_fp16);
    const auto channels =
        packed_ ? (bf16 ? k.scatter_packed_channels_bf16 : k.scatter_packed_channels_fp16)
                : (bf16 ? k.scatter_channels_bf16 : k.scatter_channels_fp16);
    ScatterPieces(
        shape, block, {}, symbols, symbol_bits(), pieces, streaming,
        [&](const ScatterWork& work) { (work.means == nullptr ? tokens : channels)(work); },
        [&](ScatterWork& work, uint32_t index) {
          const PlaneIndex plane = PlaneAt(shape, index);
          if (plane.value) {
            work.scales = side.data() + at.StepsOfV(plane.layer, block.first_token);
          } else {
            work.scales = side.data() + at.StepsOfK(plane);
            work.scale_stride = packed_ ? kHalfBytes : 0;
            work.means = side.data() + at.Means(plane);
          }
        });
  }

 private:
  size_t symbol_bits() const { return packed_ ? 4 : 8; }
  float reach() const { return packed_ ? kPackedReach : kByteLevels; }

  static const std::byte* AsBytes(const float* floats) {
    return reinterpret_cast<const std::byte*>(floats);
  }
  static uint16_t LoadHalf(const std::byte* halves, size_t index) {
    uint16_t bits;
    std::memcpy(&bits, halves + index * kHalfBytes, kHalfBytes);
    return bits;
  }
  static void StoreHalf(uint16_t bits, std::byte* halves, size_t index) {
    std::memcpy(halves + index * kHalfBytes, &bits, kHalfBytes);
  }
  static void CheckDims(const SegmentShape& shape) {
    SS_CHECK(shape.head_dim <= kHeadDimMax, "head_dim");
  }
  static const std::byte* PlaneOf(const SegmentShape& shape, std::span<const std::byte> values,
                                  PlaneIndex plane) {
    const size_t index =
        (size_t{plane.layer} * shape.heads + plane.head) * 2 + (plane.value ? 1 : 0);
    return values.data() + index * shape.plane_elements() * 2;
  }

  void WriteK(const SegmentShape& shape, const std::byte* plane, std::byte* means_out,
              std::byte* steps_out) const {
    const bool bf16 = IsBf16(shape);
    const uint32_t dims = shape.head_dim;
    std::array<float, kHeadDimMax> means;
    std::array<float, kHeadDimMax> squares;
    std::array<float, kHeadDimMax> reaches;
    (bf16 ? kernels().channel_sums_bf16 : kernels().channel_sums_fp16)(plane, kChunkTokens, dims,
                                                                       means.data());
    for (uint32_t d = 0; d < dims; ++d) {
      const uint16_t bits = MeanBits(means[d] / static_cast<float>(kChunkTokens));
      StoreHalf(bits, means_out, d);
      means[d] = SafeMean(bits);
    }
    (bf16 ? kernels().channel_spreads_bf16 : kernels().channel_spreads_fp16)(
        plane, kChunkTokens, dims, means.data(), squares.data(), reaches.data());
    float square = 0;
    for (uint32_t d = 0; d < dims; ++d) square += squares[d];
    const float least = kStepOfK * std::sqrt(square / static_cast<float>(shape.plane_elements()));
    if (packed_) {
      for (uint32_t d = 0; d < dims; ++d) {
        StoreHalf(StepBits(std::max(least, reaches[d] / reach())), steps_out, d);
      }
    } else {
      const float farthest = *std::max_element(reaches.begin(), reaches.begin() + dims);
      StoreHalf(StepBits(std::max(least, farthest / reach())), steps_out, 0);
    }
  }

  void WriteV(const SegmentShape& shape, std::span<const std::byte> values, uint32_t layer,
              std::byte* steps_out) const {
    const bool bf16 = IsBf16(shape);
    std::array<uint16_t, kChunkTokens> maxima = {};
    std::array<float, size_t{kChunkTokens}* kSquareSums> sums = {};
    for (uint32_t head = 0; head < shape.heads; ++head) {
      const std::byte* plane =
          PlaneOf(shape, values, {.layer = layer, .head = head, .value = true});
      kernels().max_magnitudes(plane, kChunkTokens, shape.head_dim,
                               bf16 ? kBf16Infinity : kFp16Infinity, maxima.data());
      (bf16 ? kernels().token_squares_bf16 : kernels().token_squares_fp16)(
          plane, kChunkTokens, shape.head_dim, sums.data());
    }
    const auto count = static_cast<float>(shape.heads * shape.head_dim);
    for (size_t t = 0; t < kChunkTokens; ++t) {
      float square = 0;
      for (size_t i = 0; i < kSquareSums; ++i) square += sums[t * kSquareSums + i];
      const float largest = bf16 ? F32FromBf16(maxima[t]) : F32FromFp16(maxima[t]);
      StoreHalf(StepBits(std::max(kStepOfV * std::sqrt(square / count), largest / reach())),
                steps_out, t);
    }
  }

  const bool packed_;
};

}  // namespace

Result<std::unique_ptr<const Quantizer>> MakeQuantizer(StoredForm form, KernelSet kernels) {
  std::unique_ptr<const Quantizer> made;
  switch (form.profile) {
    case Profile::kRaw:
      made = std::make_unique<RawQuantizer>(kernels);
      break;
    case Profile::kLossless:
      made = std::make_unique<LosslessQuantizer>(kernels);
      break;
    case Profile::kQ8:
      made = std::make_unique<Q8Quantizer>(kernels);
      break;
    case Profile::kBalanced:
      made = std::make_unique<BalancedQuantizer>(kernels, IsPacked(form));
      break;
  }
  if (made == nullptr) {
    return Status(StatusCode::kUnsupported,
                  "profile number " + std::to_string(static_cast<int>(form.profile)));
  }
  return made;
}

void GatherPieces(const SegmentShape& shape, std::span<const PlanePiece> pieces,
                  std::span<std::byte> values, KernelSet kernels) {
  SS_CHECK(values.size() == shape.raw_bytes(), "values of another segment");
  const size_t element = DtypeBytes(shape.dtype);
  const QuantKernels& set = KernelsOf(kernels);
  const auto gather = element == 1 ? set.gather8 : set.gather16;
  const BlockRange whole{.planes = shape.planes(), .tokens = kChunkTokens};
  for (const PlanePiece& piece : pieces) {
    CheckPiece(whole, piece);
    const size_t first =
        size_t{piece.plane} * shape.plane_elements() + size_t{piece.first_token} * shape.head_dim;
    gather({.base = piece.base,
            .token_stride = piece.token_stride,
            .dim_stride = piece.dim_stride,
            .tokens = piece.tokens,
            .dims = shape.head_dim,
            .values = values.data() + first * element});
  }
}

void StoreFence() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_sfence();  // non-temporal stores are weakly ordered; a release fence is not enough
#else
  std::atomic_thread_fence(std::memory_order_release);
#endif
}

}  // namespace shadowserve
