// What encoder and decoder of our Deflate blocks share (RFC 1951, 3.2.7): literals, an end, and two
// distance codes that are never used (deflate_codec.cc).
#ifndef SHADOWSERVE_CODEC_DEFLATE_FORMAT_H_
#define SHADOWSERVE_CODEC_DEFLATE_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace shadowserve {

inline constexpr size_t kLiterals = 256;
inline constexpr size_t kEndOfBlock = 256;
inline constexpr size_t kDistanceCodes = 2;

// Code lengths are sent as symbols 0..15 and three kinds of runs.
inline constexpr size_t kLengthSymbols = 19;
inline constexpr uint32_t kLengthBitsMax = 7;
inline constexpr uint8_t kRepeatLast = 16;  // 3..6 times, 2 bits
inline constexpr uint8_t kZeros = 17;       // 3..10 of them, 3 bits
inline constexpr uint8_t kManyZeros = 18;   // 11..138 of them, 7 bits
inline constexpr std::array<uint8_t, kLengthSymbols> kLengthOrder = {
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_DEFLATE_FORMAT_H_
