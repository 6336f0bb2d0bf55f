// Bits of a zstd stream, which is read from its end: the last byte's highest 1 stands in front of
// the first bit (RFC 8878, 4.1 and 4.2). Bits from below the beginning are zeros.
#ifndef SHADOWSERVE_CODEC_BACKWARD_BITS_H_
#define SHADOWSERVE_CODEC_BACKWARD_BITS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "codec/bit_words.h"

namespace shadowserve {

class BackwardBits {
 public:
  static constexpr size_t kBytesMin = sizeof(uint64_t);
  static constexpr uint32_t kWindowBits = 57;

  // `left`: bits that are not taken yet. REQUIRES: bytes.size() >= kBytesMin, bits left are in it.
  BackwardBits(std::span<const std::byte> bytes, int64_t left) : bytes_(bytes), left_(left) {}

  // Below zero: more were taken than there are.
  int64_t left() const { return left_; }
  // The next bits, the first of them the highest. REQUIRES: count <= 32.
  uint32_t Peek(uint32_t count) const {
    const int64_t low = left_ - count;
    uint64_t bits = 0;
    if (low >= 0) [[likely]] {
      const size_t at = std::min(static_cast<size_t>(low) / 8, bytes_.size() - kBytesMin);
      bits = LoadBits(&bytes_[at]) >> (static_cast<size_t>(low) - at * 8);
    } else if (left_ > 0) {
      bits = LoadBits(bytes_.data()) << -low;
    }
    return static_cast<uint32_t>(bits & ((uint64_t{1} << count) - 1));
  }
  // kWindowBits from bit 63 down; what is below them is of no meaning. REQUIRES: left() >= 64.
  uint64_t Window() const {
    const auto low = static_cast<size_t>(left_ - 64);
    const size_t at = (low + 7) / 8;
    return LoadBits(&bytes_[at]) << (at * 8 - low);
  }
  void Skip(uint32_t count) { left_ -= count; }
  uint32_t Take(uint32_t count) {
    const uint32_t bits = Peek(count);
    Skip(count);
    return bits;
  }

 private:
  std::span<const std::byte> bytes_;
  int64_t left_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_BACKWARD_BITS_H_
