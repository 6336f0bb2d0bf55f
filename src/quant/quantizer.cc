// The profiles over the kernels: which bytes belong to which piece. Byte layouts are those of
// format/segment.h.
#include "quant/quantizer.h"

#include <array>
#include <atomic>
#include <cstring>
#include <string>

#include "base/check.h"
#include "quant/quant_kernels.h"
#include "quant/quant_numeric.h"

namespace shadowserve {
namespace {

constexpr size_t kScaleBytes = sizeof(float);

const QuantKernels& KernelsOf(KernelSet set) {
  return set == KernelSet::kScalar ? ScalarKernels() : BestKernels();
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

  // One kernel call per piece; the work's symbols and plain bytes are those of its first token.
  // `complete(work, piece)` adds what is the profile's own.
  template <typename Complete>
  static void ScatterPieces(const SegmentShape& shape, const BlockRange& block,
                            std::span<const std::byte> plain, std::span<const std::byte> symbols,
                            size_t symbol_bytes, std::span<const PlanePiece> pieces, bool streaming,
                            QuantKernels::Scatter scatter, const Complete& complete) {
    SS_CHECK(symbols.size() == block.elements * symbol_bytes, "symbols of another block");
    SS_CHECK(plain.empty() || plain.size() == block.elements, "plain bytes of another block");
    for (const PlanePiece& piece : pieces) {
      CheckPiece(block, piece);
      const size_t first = (size_t{piece.plane - block.first_plane} * block.tokens +
                            piece.first_token - block.first_token) *
                           shape.head_dim;
      ScatterWork work{.symbols = symbols.data() + first * symbol_bytes,
                       .plain = plain.empty() ? nullptr : plain.data() + first,
                       .base = piece.base,
                       .token_stride = piece.token_stride,
                       .dim_stride = piece.dim_stride,
                       .tokens = piece.tokens,
                       .dims = shape.head_dim,
                       .streaming = streaming};
      complete(work, piece);
      scatter(work);
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
    ScatterPieces(shape, block, {}, symbols, element, pieces, streaming,
                  element == 1 ? kernels().scatter_raw8 : kernels().scatter_raw16,
                  [](ScatterWork&, const PlanePiece&) {});
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
    ScatterPieces(shape, block, plain, symbols, 1, pieces, streaming, kernels().scatter_lossless,
                  [](ScatterWork&, const PlanePiece&) {});
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
          const float scale = magnitude / kQ8Levels;
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
    const auto quantize = IsBf16(shape) ? kernels().quantize_q8_bf16 : kernels().quantize_q8_fp16;
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
    ScatterPieces(shape, block, {}, symbols, 1, pieces, streaming,
                  IsBf16(shape) ? kernels().scatter_q8_bf16 : kernels().scatter_q8_fp16,
                  [&](ScatterWork& work, const PlanePiece& piece) {
                    const size_t scale = FirstScale(shape, piece.plane) + piece.first_token;
                    work.scales = side.data() + scale * kScaleBytes;
                  });
  }

 private:
  static size_t SideBytes(const SegmentShape& shape) {
    return size_t{shape.layers.count} * 2 * kChunkTokens * kScaleBytes;
  }
  static bool IsBf16(const SegmentShape& shape) {
    SS_CHECK(shape.dtype == KvDtype::kBf16 || shape.dtype == KvDtype::kFp16, "dtype of q8");
    return shape.dtype == KvDtype::kBf16;
  }
};

}  // namespace

Result<std::unique_ptr<const Quantizer>> MakeQuantizer(Profile profile, KernelSet kernels) {
  std::unique_ptr<const Quantizer> made;
  switch (profile) {
    case Profile::kRaw:
      made = std::make_unique<RawQuantizer>(kernels);
      break;
    case Profile::kLossless:
      made = std::make_unique<LosslessQuantizer>(kernels);
      break;
    case Profile::kQ8:
      made = std::make_unique<Q8Quantizer>(kernels);
      break;
  }
  if (made == nullptr) {
    return Status(StatusCode::kUnsupported,
                  "profile number " + std::to_string(static_cast<int>(profile)));
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
