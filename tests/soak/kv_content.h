// The truth about KV bytes in a soak run: what a run of tokens' KV must be, and memory that holds
// it.
//
// The KV of a GRANULE (32 tokens, all layers and heads) is a pure function of its key, and the key
// chains over all tokens before it, the salt and the weights' version: so every byte that anybody
// wrote into a page, on any engine and with any page size, can be checked. Values are bf16 of a
// magnitude from 2^-7 to 2, as real KV is: they compress, and every quantizer takes them.
#ifndef SHADOWSERVE_TESTS_SOAK_KV_CONTENT_H_
#define SHADOWSERVE_TESTS_SOAK_KV_CONTENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "format/kv_layout.h"

namespace shadowserve::soak {

constexpr uint32_t kGranuleTokens = 32;
using ContentKey = uint64_t;

// SplitMix64 (Steele, Lea, Flood 2014): a hash and, over a counter, a generator.
uint64_t Mix(uint64_t value);

class Random {
 public:
  explicit Random(uint64_t seed) : state_(Mix(seed)) {}
  uint64_t Next() { return Mix(state_++); }
  // 0 <= result < bound.
  uint64_t Below(uint64_t bound) { return Next() % bound; }
  bool Chance(double probability) { return Unit() < probability; }
  double Unit() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

// Of each granule of `tokens`, the last one possibly partial.
std::vector<ContentKey> GranuleKeys(ContentKey root, std::span<const uint32_t> tokens);
ContentKey RootOf(uint64_t seed, uint64_t weights, std::string_view salt);

// One engine's KV memory. Not thread-safe, but another process may write it at any time.
class KvMemory {
 public:
  // A granule divides a page. `pages_outermost`: all layers of a page side by side (vLLM's BLHNC),
  // else all pages of a layer. Tokens are [K|V] rows.
  static Result<std::unique_ptr<KvMemory>> Create(const ModelShape& shape, uint32_t page_tokens,
                                                  uint64_t page_count, bool pages_outermost);
  ~KvMemory();
  KvMemory(const KvMemory&) = delete;
  KvMemory& operator=(const KvMemory&) = delete;

  std::span<std::byte> region() { return region_; }
  const PageLayout& layout() const { return layout_; }
  uint32_t page_granules() const { return layout_.page_tokens / kGranuleTokens; }
  uint64_t granule_bytes() const;

  void Write(uint32_t page, uint32_t granule, ContentKey key);
  bool Holds(uint32_t page, uint32_t granule, ContentKey key) const;
  // Changes one bit.
  void Flip(uint32_t page);

 private:
  explicit KvMemory(PageLayout layout) : layout_(std::move(layout)) {}
  // The granule's bytes of one layer and head: they lie side by side.
  std::span<std::byte> Run(uint32_t page, uint32_t granule, uint32_t layer, uint32_t head) const;

  const PageLayout layout_;
  std::span<std::byte> region_;
};

}  // namespace shadowserve::soak

#endif  // SHADOWSERVE_TESTS_SOAK_KV_CONTENT_H_
