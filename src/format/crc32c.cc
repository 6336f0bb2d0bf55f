// CRC32C (Castagnoli) through ISA-L: PCLMUL or SSE4.2 on x86-64, CRC instructions on aarch64.
// ISA-L's crc32_iscsi takes and returns the raw register; the standard inverts it before and after,
// so a previous result is carried on as its complement.
#include <isa-l/crc.h>

#include <algorithm>

#include "format/segment.h"

namespace shadowserve {

uint32_t Crc32c(std::span<const std::byte> bytes, uint32_t seed) {
  constexpr size_t kPieceMax = size_t{1} << 30;  // its length is an int
  uint32_t state = ~seed;
  while (!bytes.empty()) {
    const size_t piece = std::min(bytes.size(), kPieceMax);
    // It only reads; the parameter lacks the const.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    state = crc32_iscsi(data, static_cast<int>(piece), state);
    bytes = bytes.subspan(piece);
  }
  return ~state;
}

}  // namespace shadowserve
