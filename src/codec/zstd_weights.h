// The tree in front of zstd's Huffman streams (RFC 8878, 4.2.1): a weight for each symbol, either
// plain or coded as states of finite state entropy. Pure; allocates nothing.
#ifndef SHADOWSERVE_CODEC_ZSTD_WEIGHTS_H_
#define SHADOWSERVE_CODEC_ZSTD_WEIGHTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace shadowserve {

// Of symbols 0, 1, ...; the last one's follows from the others and is not sent. Above 0: the
// longest code has weight 1, and one bit less has one more.
struct ZstdWeights {
  static constexpr size_t kMax = 255;
  static constexpr size_t kAtATime = 8;  // written behind the last one
  std::array<uint8_t, kMax + kAtATime> of;
  size_t count = 0;
};

// Of literals.
inline constexpr uint32_t kZstdCodeBitsMax = 11;

// Returns the bytes that the weights take from the beginning of `bytes`; 0: damaged, or with
// weights that no code of kZstdCodeBitsMax has.
size_t ReadZstdWeights(std::span<const std::byte> bytes, ZstdWeights* weights);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_ZSTD_WEIGHTS_H_
