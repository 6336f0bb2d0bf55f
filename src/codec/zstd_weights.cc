#include "codec/zstd_weights.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "codec/backward_bits.h"
#include "codec/forward_bits.h"

namespace shadowserve {
namespace {

constexpr uint32_t kAccuracyMax = 6;
constexpr size_t kWeightValues = kZstdCodeBitsMax + 1;

// What a state stands for, and how the next one is found.
struct State {
  uint8_t weight;
  uint8_t bits;  // to read
  uint8_t next;  // to add them to
};

struct StateTable {
  std::array<State, size_t{1} << kAccuracyMax> states;
  uint32_t accuracy;  // bits of a state
};

// How many states a weight has; -1: one, for less than that.
using StateCounts = std::array<int, kWeightValues>;

// Reads them, forward (RFC 8878, 4.1.1). Returns the bytes read, 0: damaged.
size_t ReadStateCounts(std::span<const std::byte> bytes, uint32_t* accuracy, StateCounts* counts) {
  ForwardBits reader(bytes.data(), bytes.data() + bytes.size(), 0);
  *accuracy = reader.Take(4) + 5;
  if (*accuracy > kAccuracyMax) return 0;
  *counts = {};
  size_t filled = 0;
  for (int left = 1 << *accuracy; left > 0;) {
    if (filled == counts->size()) return 0;
    // A value of 0 to left + 1, so no more than are left; the lowest ones take a bit less.
    const auto values = static_cast<uint32_t>(left) + 2;
    const auto bits = static_cast<uint32_t>(std::bit_width(values - 1));
    const uint32_t short_values = (1U << bits) - values;
    uint32_t value = reader.Take(bits - 1);
    if (value >= short_values) {
      value |= reader.Take(1) << (bits - 1);
      if (value >= 1U << (bits - 1)) value -= short_values;
    }
    const int count = static_cast<int>(value) - 1;
    (*counts)[filled++] = count;
    left -= std::abs(count);
    // Zeros come in runs.
    for (uint32_t more = count == 0 ? 3 : 0; more == 3;) {
      more = reader.Take(2);
      filled += more;
      if (filled > counts->size()) return 0;
    }
  }
  return reader.within() ? static_cast<size_t>((reader.position() + 7) / 8) : 0;
}

// Spreads the weights over the states.
void FillStates(const StateCounts& counts, StateTable* table) {
  const uint32_t size = 1U << table->accuracy;
  uint32_t end = size;
  for (uint8_t weight = 0; weight < counts.size(); ++weight) {
    if (counts[weight] == -1) table->states[--end].weight = weight;
  }
  const uint32_t step = (size >> 1) + (size >> 3) + 3;
  uint32_t at = 0;
  for (uint8_t weight = 0; weight < counts.size(); ++weight) {
    for (int i = 0; i < counts[weight]; ++i) {
      table->states[at].weight = weight;
      do {
        at = (at + step) % size;
      } while (at >= end);
    }
  }
  std::array<uint32_t, kWeightValues> numbers;
  std::ranges::transform(counts, numbers.begin(),
                         [](int count) { return static_cast<uint32_t>(std::abs(count)); });
  for (State& state : std::span(table->states).first(size)) {
    const uint32_t number = numbers[state.weight]++;
    state.bits = static_cast<uint8_t>(table->accuracy + 1 - std::bit_width(number));
    state.next = static_cast<uint8_t>((number << state.bits) - size);
  }
}

// Weights of two states in turn, until the stream is short of a state's next bits.
bool ReadCoded(std::span<const std::byte> bytes, ZstdWeights* weights) {
  StateTable table;
  StateCounts counts;
  const size_t used = ReadStateCounts(bytes, &table.accuracy, &counts);
  bytes = bytes.subspan(used);
  if (used == 0 || bytes.empty() || bytes.back() == std::byte{0}) return false;
  FillStates(counts, &table);
  // Behind zeros, so that every read is inside.
  constexpr auto kZeroBits = static_cast<int64_t>(BackwardBits::kBytesMin * 8);
  std::array<std::byte, BackwardBits::kBytesMin + 128> padded = {};
  std::ranges::copy(bytes, padded.begin() + BackwardBits::kBytesMin);
  const auto bits = static_cast<int64_t>(bytes.size() * 8) -
                    std::countl_zero(std::to_integer<uint8_t>(bytes.back())) - 1;
  BackwardBits reader(padded, kZeroBits + bits);
  std::array<uint32_t, 2> states;
  for (uint32_t& state : states) state = reader.Take(table.accuracy);
  if (reader.left() < kZeroBits) return false;
  static_assert(ZstdWeights::kAtATime * kAccuracyMax <= BackwardBits::kWindowBits);
  while (weights->count < ZstdWeights::kMax) {
    uint64_t window = reader.Window();
    for (size_t i = 0; i < ZstdWeights::kAtATime; ++i) {
      const State state = table.states[states[i % 2]];
      weights->of[weights->count++] = state.weight;
      states[i % 2] = state.next + static_cast<uint32_t>(window >> 1 >> (63 - state.bits));
      window <<= state.bits;
      reader.Skip(state.bits);
      if (reader.left() < kZeroBits) {
        if (weights->count >= ZstdWeights::kMax) return false;
        weights->of[weights->count++] = table.states[states[(i + 1) % 2]].weight;
        return true;
      }
    }
  }
  return false;
}

// Four bits each.
bool ReadPlain(std::span<const std::byte> bytes, size_t count, ZstdWeights* weights) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t weight = std::to_integer<uint32_t>(bytes[i / 2]) >> (i % 2 == 0 ? 4 : 0) & 15;
    if (weight >= kWeightValues) return false;
    weights->of[i] = static_cast<uint8_t>(weight);
  }
  weights->count = count;
  return true;
}

}  // namespace

size_t ReadZstdWeights(std::span<const std::byte> bytes, ZstdWeights* weights) {
  constexpr size_t kPlainFrom = 128;
  if (bytes.empty()) return 0;
  weights->count = 0;
  const auto header = std::to_integer<size_t>(bytes[0]);
  const bool plain = header >= kPlainFrom;
  const size_t count = header - kPlainFrom + 1;  // if plain
  const size_t size = plain ? (count + 1) / 2 : header;
  if (size > bytes.size() - 1) return 0;
  const std::span<const std::byte> body = bytes.subspan(1, size);
  const bool good = plain ? ReadPlain(body, count, weights) : ReadCoded(body, weights);
  return good ? size + 1 : 0;
}

}  // namespace shadowserve
