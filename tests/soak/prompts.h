// Prompts as a service gets them: some documents are asked about often, most seldom, and each
// prompt ends with words of its own. Seeded; not thread-safe.
#ifndef SHADOWSERVE_TESTS_SOAK_PROMPTS_H_
#define SHADOWSERVE_TESTS_SOAK_PROMPTS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kv_content.h"

namespace shadowserve::soak {

struct Prompt {
  std::vector<uint32_t> tokens;
  std::string salt;  // "": none
};

class PromptSource {
 public:
  // Sources of one `seed` have the same documents; `own_seed` decides which are asked about when.
  PromptSource(uint64_t seed, uint64_t own_seed, uint32_t documents);
  Prompt Next();

 private:
  void AppendDocument(uint32_t document, uint32_t tokens, std::vector<uint32_t>* out) const;
  uint32_t DocumentTokens(uint32_t document) const;

  const uint64_t seed_;
  Random random_;
  std::vector<double> shares_;  // cumulated: the k-th document is asked about with 1/k
};

}  // namespace shadowserve::soak

#endif  // SHADOWSERVE_TESTS_SOAK_PROMPTS_H_
