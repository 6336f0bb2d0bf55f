// The inner loops of the quantizers, as one table of functions per kernel set. Internal to
// src/quant. Thread-safe, allocate nothing. All spans are given as pointers that quantizer.cc has
// checked; nothing needs to be aligned. Element bytes are little-endian, as on every host we build
// for.
#ifndef SHADOWSERVE_QUANT_QUANT_KERNELS_H_
#define SHADOWSERVE_QUANT_QUANT_KERNELS_H_

#include <bit>
#include <cstddef>
#include <cstdint>

namespace shadowserve {

static_assert(std::endian::native == std::endian::little);

// One piece on its way out. symbols, plain, scales: of the piece's first token; rows of `dims`
// elements follow each other, one scale (f32) per token.
struct ScatterWork {
  const std::byte* symbols = nullptr;
  const std::byte* plain = nullptr;   // lossless only
  const std::byte* scales = nullptr;  // q8 only
  std::byte* base = nullptr;
  size_t token_stride = 0;
  size_t dim_stride = 0;
  uint32_t tokens = 0;  // at most kChunkTokens
  uint32_t dims = 0;
  bool streaming = false;
};

// One piece on its way in: rows of `dims` values are written from `values` on.
struct GatherWork {
  const std::byte* base = nullptr;
  size_t token_stride = 0;
  size_t dim_stride = 0;
  uint32_t tokens = 0;
  uint32_t dims = 0;
  std::byte* values = nullptr;
};

// Rows of canonical 16-bit values, one scale per row.
struct QuantizeWork {
  const std::byte* values = nullptr;
  const std::byte* scales = nullptr;
  uint32_t tokens = 0;
  uint32_t dims = 0;
  std::byte* symbols = nullptr;
};

struct QuantKernels {
  using Scatter = void (*)(const ScatterWork& work);
  using Gather = void (*)(const GatherWork& work);
  using Quantize = void (*)(const QuantizeWork& work);

  Scatter scatter_raw8;  // the number is the element's width
  Scatter scatter_raw16;
  Scatter scatter_lossless;
  Scatter scatter_q8_bf16;
  Scatter scatter_q8_fp16;
  Gather gather8;
  Gather gather16;
  // Values to sign-and-mantissa bytes (plain) and exponent bytes (symbols).
  void (*split_lossless)(const std::byte* values, size_t elements, std::byte* plain,
                         std::byte* symbols);
  // maxima[t] = max(maxima[t], magnitude bits of the finite values of row t); `infinity`: its bits.
  void (*max_magnitudes)(const std::byte* values, uint32_t tokens, uint32_t dims, uint16_t infinity,
                         uint16_t* maxima);
  Quantize quantize_q8_bf16;
  Quantize quantize_q8_fp16;
};

// The reference.
const QuantKernels& ScalarKernels();
// The best for this CPU.
const QuantKernels& BestKernels();

}  // namespace shadowserve

#endif  // SHADOWSERVE_QUANT_QUANT_KERNELS_H_
