#include "codec/huffman.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace shadowserve {
namespace {

// Depths of the leaves of a Huffman tree, in place: `weights` ascending on entry, depths (not
// ascending) on return. Moffat and Katajainen, "In-place calculation of minimum-redundancy codes".
void DepthsInPlace(std::span<uint32_t> weights) {
  const size_t n = weights.size();
  size_t leaf = 0;
  size_t root = 0;
  // Left to right: join the two lightest; a joined node keeps the index of its parent.
  for (size_t next = 0; next + 1 < n; ++next) {
    uint32_t sum = 0;
    for (int child = 0; child < 2; ++child) {
      if (leaf >= n || (root < next && weights[root] < weights[leaf])) {
        sum += weights[root];
        weights[root++] = static_cast<uint32_t>(next);
      } else {
        sum += weights[leaf++];
      }
    }
    weights[next] = sum;
  }
  // Right to left: depths of the inner nodes.
  weights[n - 2] = 0;
  for (size_t i = n - 2; i-- > 0;) weights[i] = weights[weights[i]] + 1;
  // Right to left: depths of the leaves.
  size_t available = 1;
  size_t used = 0;
  uint32_t depth = 0;
  size_t inner = n - 1;  // one past the next inner node
  for (size_t next = n; available > 0; ++depth) {
    while (inner > 0 && weights[inner - 1] == depth) {
      ++used;
      --inner;
    }
    for (; available > used; --available) weights[--next] = depth;
    available = 2 * used;
    used = 0;
  }
}

uint32_t Reversed(uint32_t code, uint32_t bits) {
  static_assert(kHuffmanBitsMax <= 16);
  uint32_t x = code;
  x = (x & 0x5555) << 1 | (x >> 1 & 0x5555);
  x = (x & 0x3333) << 2 | (x >> 2 & 0x3333);
  x = (x & 0x0F0F) << 4 | (x >> 4 & 0x0F0F);
  x = (x & 0x00FF) << 8 | (x >> 8 & 0x00FF);
  return x >> (16 - bits);
}

}  // namespace

void BoundedCodeLengths(std::span<const uint32_t> counts, uint32_t max_bits,
                        std::span<uint8_t> lengths) {
  SS_CHECK(counts.size() <= kHuffmanSymbolsMax && counts.size() == lengths.size(), "symbols");
  struct Leaf {
    uint32_t count;
    uint32_t symbol;
  };
  std::array<Leaf, kHuffmanSymbolsMax> leaves;
  size_t used = 0;
  for (uint32_t symbol = 0; symbol < counts.size(); ++symbol) {
    if (counts[symbol] > 0) leaves[used++] = {counts[symbol], symbol};
  }
  SS_CHECK(used >= 2 && max_bits <= kHuffmanBitsMax && used <= size_t{1} << max_bits,
           "symbols with a count");
  std::sort(leaves.begin(), leaves.begin() + used, [](const Leaf& a, const Leaf& b) {
    return a.count != b.count ? a.count < b.count : a.symbol < b.symbol;
  });
  std::array<uint32_t, kHuffmanSymbolsMax> depths;
  for (size_t i = 0; i < used; ++i) depths[i] = leaves[i].count;
  DepthsInPlace(std::span(depths).first(used));

  std::array<uint32_t, kHuffmanBitsMax + 1> per_length = {};
  for (size_t i = 0; i < used; ++i) ++per_length[std::min(depths[i], max_bits)];
  // Codes cut short may claim more than the whole code space, in units of the longest code's share:
  // each step lengthens one shorter code by a bit and gives half of its share to a longest one.
  uint64_t share = 0;
  for (uint32_t bits = 1; bits <= max_bits; ++bits) {
    share += uint64_t{per_length[bits]} << (max_bits - bits);
  }
  for (; share > uint64_t{1} << max_bits; --share) {
    uint32_t bits = max_bits - 1;
    while (per_length[bits] == 0) --bits;
    --per_length[max_bits];
    --per_length[bits];
    per_length[bits + 1] += 2;
  }
  std::fill(lengths.begin(), lengths.end(), uint8_t{0});
  size_t leaf = 0;  // the rarest take the longest
  for (uint32_t bits = max_bits; bits > 0; --bits) {
    for (uint32_t i = 0; i < per_length[bits]; ++i) {
      lengths[leaves[leaf++].symbol] = static_cast<uint8_t>(bits);
    }
  }
}

void CanonicalCodes(std::span<const uint8_t> lengths, std::span<uint16_t> codes) {
  std::array<uint32_t, kHuffmanBitsMax + 2> next = {};
  for (const uint8_t length : lengths) ++next[length + 1U];
  next[1] = 0;  // symbols without a code take no space
  for (uint32_t bits = 2; bits <= kHuffmanBitsMax; ++bits) {
    next[bits] = (next[bits - 1] + next[bits]) << 1;
  }
  for (size_t symbol = 0; symbol < lengths.size(); ++symbol) {
    const uint32_t bits = lengths[symbol];
    codes[symbol] = bits == 0 ? uint16_t{0} : static_cast<uint16_t>(Reversed(next[bits]++, bits));
  }
}

}  // namespace shadowserve
