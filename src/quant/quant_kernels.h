// The inner loops of the quantizers, as one table of functions per kernel set. Internal to
// src/quant. Thread-safe, allocate nothing. All spans are given as pointers that quantizer.cc has
// checked; nothing needs to be aligned. Element bytes are little-endian, as on every host we build
// for.
#ifndef SHADOWSERVE_QUANT_QUANT_KERNELS_H_
#define SHADOWSERVE_QUANT_QUANT_KERNELS_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/quantizer.h"

namespace shadowserve {

static_assert(std::endian::native == std::endian::little);

// The pieces of one plane of a block on their way out. symbols, plain, scales of tokens: of the
// block's first token in this plane; rows of `dims` elements follow each other. Scales, steps and
// means are as they came from the store. Kernels prepare what is the same for all pieces once.
struct ScatterWork {
  const std::byte* symbols = nullptr;
  const std::byte* plain = nullptr;   // lossless only
  const std::byte* scales = nullptr;  // q8: f32 per token; steps: fp16 per token; channels: per dim
  const std::byte* means = nullptr;   // channels: fp16 per dim
  size_t scale_stride = 0;            // channels: bytes from a dim's step to the next, 2 or 0
  bool odd_first = false;             // packed: the first symbol is the high half of its byte
  uint32_t first_token = 0;           // of the block, as the pieces count
  uint32_t dims = 0;                  // at most kHeadDimMax
  bool streaming = false;
  std::span<const PlanePiece> pieces;
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

// Rows of canonical 16-bit values. Packed rows start at a whole byte.
struct QuantizeWork {
  const std::byte* values = nullptr;
  const std::byte* scales = nullptr;  // f32; rows: one per row; channels: a safe one per dim
  const std::byte* means = nullptr;   // channels: f32 per dim
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
  // Symbol x step of its token; symbol x step of its dim + mean of its dim.
  Scatter scatter_steps_bf16;
  Scatter scatter_steps_fp16;
  Scatter scatter_channels_bf16;
  Scatter scatter_channels_fp16;
  Scatter scatter_packed_steps_bf16;
  Scatter scatter_packed_steps_fp16;
  Scatter scatter_packed_channels_bf16;
  Scatter scatter_packed_channels_fp16;
  Gather gather8;
  Gather gather16;
  // Values to sign-and-mantissa bytes (plain) and exponent bytes (symbols).
  void (*split_lossless)(const std::byte* values, size_t elements, std::byte* plain,
                         std::byte* symbols);
  // maxima[t] = max(maxima[t], magnitude bits of the finite values of row t); `infinity`: its bits.
  void (*max_magnitudes)(const std::byte* values, uint32_t tokens, uint32_t dims, uint16_t infinity,
                         uint16_t* maxima);
  Quantize quantize_rows_bf16;
  Quantize quantize_rows_fp16;
  Quantize quantize_channels_bf16;
  Quantize quantize_channels_fp16;
  Quantize quantize_packed_rows_bf16;
  Quantize quantize_packed_rows_fp16;
  Quantize quantize_packed_channels_bf16;
  Quantize quantize_packed_channels_fp16;
  // Statistics of rows; values that are not finite count as if they were not there. Sums are in
  // f32, added up in the order of the tokens.
  // sums[d] = sum of dim d.
  using ChannelSums = void (*)(const std::byte* values, uint32_t tokens, uint32_t dims,
                               float* sums);
  ChannelSums channel_sums_bf16;
  ChannelSums channel_sums_fp16;
  // squares[d] and reaches[d]: sum of squares, and largest magnitude, of dim d's distances from
  // means[d].
  using ChannelSpreads = void (*)(const std::byte* values, uint32_t tokens, uint32_t dims,
                                  const float* means, float* squares, float* reaches);
  ChannelSpreads channel_spreads_bf16;
  ChannelSpreads channel_spreads_fp16;
  // Adds the squares of row t to sums[t * kSquareSums + SquareSumOf(dim)].
  using TokenSquares = void (*)(const std::byte* values, uint32_t tokens, uint32_t dims,
                                float* sums);
  TokenSquares token_squares_bf16;
  TokenSquares token_squares_fp16;
};

// The reference.
const QuantKernels& ScalarKernels();
// The best for this CPU.
const QuantKernels& BestKernels();

}  // namespace shadowserve

#endif  // SHADOWSERVE_QUANT_QUANT_KERNELS_H_
