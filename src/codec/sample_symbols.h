// Symbols with the statistics of quantized KV, for tests and benchmarks: AR(1) Gaussian values
// along the tokens with log-normal channel scales and a few strong channels, as int8 of a per-token
// scale or as the exponent bytes of bf16.
#ifndef SHADOWSERVE_CODEC_SAMPLE_SYMBOLS_H_
#define SHADOWSERVE_CODEC_SAMPLE_SYMBOLS_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace shadowserve {

enum class SymbolKind : uint8_t { kInt8, kBf16Exponent };

// `tokens` rows of `dims` symbols each.
inline std::vector<std::byte> SampleSymbols(SymbolKind kind, size_t tokens, size_t dims,
                                            uint32_t seed) {
  constexpr float kRho = 0.75F;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> scale(dims);
  std::vector<float> state(dims);
  for (size_t d = 0; d < dims; ++d) {
    scale[d] = std::exp(0.5F * normal(random)) * (d % 25 == 7 ? 6.0F : 1.0F);
    state[d] = normal(random);
  }
  std::vector<float> row(dims);
  std::vector<std::byte> symbols(tokens * dims);
  for (size_t t = 0; t < tokens; ++t) {
    float magnitude = 1e-6F;
    for (size_t d = 0; d < dims; ++d) {
      state[d] = kRho * state[d] + std::sqrt(1 - kRho * kRho) * normal(random);
      row[d] = state[d] * scale[d];
      magnitude = std::max(magnitude, std::abs(row[d]));
    }
    for (size_t d = 0; d < dims; ++d) {
      const uint32_t bits = std::bit_cast<uint32_t>(row[d]);
      const long q = std::lround(row[d] / magnitude * 127);
      symbols[t * dims + d] = kind == SymbolKind::kInt8 ? static_cast<std::byte>(q)
                                                        : static_cast<std::byte>(bits >> 23 & 0xFF);
    }
  }
  return symbols;
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_SAMPLE_SYMBOLS_H_
