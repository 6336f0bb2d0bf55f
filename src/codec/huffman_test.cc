#include "codec/huffman.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <queue>
#include <random>
#include <vector>

namespace shadowserve {
namespace {

std::vector<uint8_t> Lengths(const std::vector<uint32_t>& counts, uint32_t max_bits) {
  std::vector<uint8_t> lengths(counts.size());
  BoundedCodeLengths(counts, max_bits, lengths);
  return lengths;
}

uint64_t Cost(const std::vector<uint32_t>& counts, const std::vector<uint8_t>& lengths) {
  uint64_t bits = 0;
  for (size_t i = 0; i < counts.size(); ++i) bits += uint64_t{counts[i]} * lengths[i];
  return bits;
}

// Bits of an optimal code without a bound: the sum of all inner nodes' weights.
uint64_t OptimalCost(const std::vector<uint32_t>& counts) {
  std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> heap;
  for (const uint32_t count : counts) {
    if (count > 0) heap.push(count);
  }
  uint64_t bits = 0;
  while (heap.size() > 1) {
    uint64_t sum = heap.top();
    heap.pop();
    sum += heap.top();
    heap.pop();
    bits += sum;
    heap.push(sum);
  }
  return bits;
}

void ExpectComplete(const std::vector<uint32_t>& counts, const std::vector<uint8_t>& lengths,
                    uint32_t max_bits) {
  uint64_t share = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(lengths[i] > 0, counts[i] > 0);
    EXPECT_LE(lengths[i], max_bits);
    if (lengths[i] > 0) share += uint64_t{1} << (max_bits - lengths[i]);
  }
  EXPECT_EQ(share, uint64_t{1} << max_bits);
}

std::vector<uint32_t> RandomCounts(std::mt19937& random, size_t size) {
  std::vector<uint32_t> counts(size);
  for (uint32_t& count : counts) {
    const auto scale = uint32_t{1} << random() % 20;
    count = random() % 3 == 0 ? 0 : 1 + static_cast<uint32_t>(random()) % scale;
  }
  counts.front() = counts.back() = 1;
  return counts;
}

TEST(BoundedCodeLengths, AreOptimalWhereTheBoundDoesNotBind) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<uint32_t> counts(2 + random() % 286);
    for (uint32_t& count : counts) count = 1 + static_cast<uint32_t>(random()) % 50;
    const std::vector<uint8_t> lengths = Lengths(counts, kHuffmanBitsMax);
    ExpectComplete(counts, lengths, kHuffmanBitsMax);
    EXPECT_EQ(Cost(counts, lengths), OptimalCost(counts));
  }
}

TEST(BoundedCodeLengths, AreCompleteAndWithinTheBoundForAnyCounts) {
  std::mt19937 random(2);
  for (int round = 0; round < 200; ++round) {
    const std::vector<uint32_t> counts = RandomCounts(random, 2 + random() % 256);
    for (const uint32_t max_bits : {9U, 12U, 15U}) {
      const std::vector<uint8_t> lengths = Lengths(counts, max_bits);
      ExpectComplete(counts, lengths, max_bits);
      EXPECT_GE(Cost(counts, lengths), OptimalCost(counts));
    }
  }
}

TEST(BoundedCodeLengths, HoldTheBoundForFibonacciCounts) {
  std::vector<uint32_t> counts = {1, 1};
  while (counts.size() < 40)
    counts.push_back(counts[counts.size() - 1] + counts[counts.size() - 2]);
  ExpectComplete(counts, Lengths(counts, 7), 7);
  ExpectComplete(counts, Lengths(counts, 12), 12);
}

TEST(BoundedCodeLengths, GiveTwoSymbolsOneBitEach) {
  EXPECT_EQ(Lengths({0, 1000, 0, 1}, 12), (std::vector<uint8_t>{0, 1, 0, 1}));
}

TEST(CanonicalCodes, AreThoseOfTheStandardsExample) {
  // RFC 1951, 3.2.2: A..H with lengths 3,3,3,3,3,2,4,4.
  const std::vector<uint8_t> lengths = {3, 3, 3, 3, 3, 2, 4, 4};
  std::vector<uint16_t> codes(lengths.size());
  CanonicalCodes(lengths, codes);
  // 010 011 100 101 110 00 1110 1111, each read from its end.
  EXPECT_EQ(codes, (std::vector<uint16_t>{2, 6, 1, 5, 3, 0, 7, 15}));
}

}  // namespace
}  // namespace shadowserve
