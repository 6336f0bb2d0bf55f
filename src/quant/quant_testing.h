// Pages, pieces and KV-like values for tests and benchmarks of src/quant.
#ifndef SHADOWSERVE_QUANT_QUANT_TESTING_H_
#define SHADOWSERVE_QUANT_QUANT_TESTING_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "format/kv_layout.h"
#include "quant/quant_numeric.h"
#include "quant/quantizer.h"

namespace shadowserve::quant_testing {

enum class Form : uint8_t { kRows, kTransposed, kStrided };

// Memory of some planes' pages, one plane's pages after another's; the engine's pages stand apart
// by `gap_bytes`.
struct Pages {
  Form form = Form::kRows;
  uint32_t page_tokens = 16;
  size_t gap_bytes = 0;
  size_t misalign = 0;  // bytes in front of the first page

  size_t PlaneBytes(const SegmentShape& shape) const {
    const size_t spread = form == Form::kStrided ? 3 : 1;
    return spread * page_tokens * shape.head_dim * DtypeBytes(shape.dtype);
  }
  size_t Stride(const SegmentShape& shape) const { return PlaneBytes(shape) + gap_bytes; }
  size_t Bytes(const SegmentShape& shape, uint32_t planes) const {
    return misalign + planes * (kChunkTokens / page_tokens) * Stride(shape) + gap_bytes;
  }

  // The pieces of tokens [begin, end) of `planes` planes from `first_plane` on; page 0 at `memory`.
  std::vector<PlanePiece> Pieces(const SegmentShape& shape, uint32_t first_plane, uint32_t planes,
                                 uint32_t begin, uint32_t end, std::byte* memory) const {
    const size_t element = DtypeBytes(shape.dtype);
    PlanePiece piece;
    piece.dim_stride = element;
    piece.token_stride = element * shape.head_dim;
    if (form == Form::kTransposed) {
      piece.token_stride = element;
      piece.dim_stride = element * page_tokens;
    } else if (form == Form::kStrided) {
      piece.dim_stride = element * 3;
      piece.token_stride = element * 3 * shape.head_dim;
    }
    std::vector<PlanePiece> pieces;
    for (uint32_t i = 0; i < planes; ++i) {
      for (uint32_t token = begin; token < end; token += piece.tokens) {
        const uint32_t in_page = token % page_tokens;
        const size_t page = size_t{i} * (kChunkTokens / page_tokens) + token / page_tokens;
        piece.base = memory + misalign + page * Stride(shape) + in_page * piece.token_stride;
        piece.first_token = token;
        piece.tokens = std::min(page_tokens - in_page, end - token);
        piece.plane = first_plane + i;
        pieces.push_back(piece);
      }
    }
    return pieces;
  }
};

inline std::vector<std::byte> RandomBytes(size_t size, uint32_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// A segment of values as a model makes them: AR(1) Gaussian along the tokens, log-normal channel
// scales, a few strong channels with a mean. 16-bit dtypes.
inline std::vector<std::byte> KvLikeValues(const SegmentShape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::byte> values(shape.raw_bytes());
  std::byte* next = values.data();
  std::vector<float> scale(shape.head_dim);
  std::vector<float> state(shape.head_dim);
  for (uint32_t plane = 0; plane < shape.planes(); ++plane) {
    const float rho = PlaneAt(shape, plane).value ? 0.35F : 0.75F;
    for (uint32_t d = 0; d < shape.head_dim; ++d) {
      scale[d] = std::exp(0.5F * normal(random)) * (d % 25 == 7 ? 6.0F : 1.0F);
      state[d] = normal(random);
    }
    for (uint32_t t = 0; t < kChunkTokens; ++t) {
      for (uint32_t d = 0; d < shape.head_dim; ++d) {
        state[d] = rho * state[d] + std::sqrt(1 - rho * rho) * normal(random);
        const float value = scale[d] * (state[d] + (d % 25 == 7 ? 1.0F : 0.0F));
        const uint16_t bits =
            shape.dtype == KvDtype::kBf16 ? Bf16FromF32(value) : Fp16FromF32(value);
        std::memcpy(next, &bits, sizeof(bits));
        next += sizeof(bits);
      }
    }
  }
  return values;
}

}  // namespace shadowserve::quant_testing

#endif  // SHADOWSERVE_QUANT_QUANT_TESTING_H_
