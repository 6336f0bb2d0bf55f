// Bits of a stream that is read from its beginning, the lowest of a byte first, from any position
// on (RFC 1951, 3.1.1; also the tables of zstd, RFC 8878, 4.1.1). Bits behind the end are zeros.
#ifndef SHADOWSERVE_CODEC_FORWARD_BITS_H_
#define SHADOWSERVE_CODEC_FORWARD_BITS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "codec/bit_words.h"

namespace shadowserve {

class ForwardBits {
 public:
  ForwardBits(const std::byte* begin, const std::byte* end, uint64_t position)
      : begin_(begin), size_(static_cast<size_t>(end - begin)), position_(position) {}

  uint64_t position() const { return position_; }
  bool within() const { return position_ <= uint64_t{size_} * 8; }
  // The next bits, `count` <= 32 of them.
  uint32_t Peek(uint32_t count) const {
    const auto at = static_cast<size_t>(std::min<uint64_t>(position_ / 8, size_));
    uint64_t bits = 0;
    if (size_ - at >= sizeof(bits)) {
      bits = LoadBits(begin_ + at);
    } else {
      std::memcpy(&bits, begin_ + at, size_ - at);
    }
    return static_cast<uint32_t>(bits >> position_ % 8 & ((uint64_t{1} << count) - 1));
  }
  void Skip(uint32_t count) { position_ += count; }
  uint32_t Take(uint32_t count) {
    const uint32_t bits = Peek(count);
    Skip(count);
    return bits;
  }

 private:
  const std::byte* begin_;
  size_t size_;
  uint64_t position_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_FORWARD_BITS_H_
