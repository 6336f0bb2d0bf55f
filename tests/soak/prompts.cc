#include "prompts.h"

#include <algorithm>
#include <cmath>

namespace shadowserve::soak {
namespace {

constexpr uint32_t kVocabulary = 32'000;
constexpr double kZipfExponent = 1.0;
constexpr uint32_t kOwnTokensMax = 200;

}  // namespace

PromptSource::PromptSource(uint64_t seed, uint64_t own_seed, uint32_t documents)
    : seed_(seed), random_(own_seed) {
  double sum = 0;
  for (uint32_t k = 1; k <= documents; ++k) shares_.push_back(sum += std::pow(k, -kZipfExponent));
}

// 1 to 4 chunks; one in sixteen 8.
uint32_t PromptSource::DocumentTokens(uint32_t document) const {
  const uint64_t hash = Mix(seed_ ^ Mix(document));
  const uint64_t chunks = hash % 16 == 0 ? 8 : 1 + (hash >> 8) % 4;
  return static_cast<uint32_t>(chunks) * kChunkTokens;
}

void PromptSource::AppendDocument(uint32_t document, uint32_t tokens,
                                  std::vector<uint32_t>* out) const {
  const uint64_t base = Mix(seed_ + Mix(document));
  for (uint32_t i = 0; i < tokens; ++i) {
    out->push_back(static_cast<uint32_t>(Mix(base + i) % kVocabulary));
  }
}

Prompt PromptSource::Next() {
  Prompt prompt;
  const double place = random_.Unit() * shares_.back();
  const auto found = std::lower_bound(shares_.begin(), shares_.end(), place);
  const auto document = static_cast<uint32_t>(found - shares_.begin());
  const uint32_t whole = DocumentTokens(document);
  const bool cut = random_.Chance(0.2);
  AppendDocument(document, cut ? static_cast<uint32_t>(random_.Below(whole)) : whole,
                 &prompt.tokens);
  for (uint64_t own = 1 + random_.Below(kOwnTokensMax); own > 0; --own) {
    prompt.tokens.push_back(static_cast<uint32_t>(random_.Below(kVocabulary)));
  }
  if (random_.Chance(0.1)) prompt.salt = random_.Chance(0.5) ? "tenant-a" : "tenant-b";
  return prompt;
}

}  // namespace shadowserve::soak
