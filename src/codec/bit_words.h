// Words at any address, as decoders of bit streams read and write them.
#ifndef SHADOWSERVE_CODEC_BIT_WORDS_H_
#define SHADOWSERVE_CODEC_BIT_WORDS_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace shadowserve {

static_assert(std::endian::native == std::endian::little);

// Eight bytes, the first of them the lowest.
inline uint64_t LoadBits(const std::byte* from) {
  uint64_t bits = 0;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}

inline void StoreFour(uint32_t bytes, std::byte* to) {
  std::memcpy(to, &bytes, sizeof(bytes));
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_BIT_WORDS_H_
