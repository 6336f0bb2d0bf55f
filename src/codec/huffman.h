// Huffman codes of bounded length, as Deflate writes them (RFC 1951, 3.2.2). Pure functions;
// allocate nothing.
#ifndef SHADOWSERVE_CODEC_HUFFMAN_H_
#define SHADOWSERVE_CODEC_HUFFMAN_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace shadowserve {

constexpr size_t kHuffmanSymbolsMax = 288;
constexpr uint32_t kHuffmanBitsMax = 15;

// Code lengths 1..max_bits for every symbol with a count, 0 for the others; the code is complete.
// Optimal where no length had to be bounded, close to it otherwise.
// REQUIRES: 2 <= symbols with a count <= 2^max_bits, counts.size() == lengths.size() <=
// kHuffmanSymbolsMax, max_bits <= kHuffmanBitsMax, sum of counts < 2^32.
void BoundedCodeLengths(std::span<const uint32_t> counts, uint32_t max_bits,
                        std::span<uint8_t> lengths);

// The canonical code of those lengths, first bit of a code in bit 0 (the order of Deflate's
// stream).
void CanonicalCodes(std::span<const uint8_t> lengths, std::span<uint16_t> codes);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_HUFFMAN_H_
