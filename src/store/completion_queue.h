// CompletionQueue: finished requests that wait for Poll. A ring of fixed size; its owner accepts no
// more requests than it holds, so a push always fits. Not thread-safe.
#ifndef SHADOWSERVE_STORE_COMPLETION_QUEUE_H_
#define SHADOWSERVE_STORE_COMPLETION_QUEUE_H_

#include <array>
#include <cstddef>
#include <span>

#include "base/check.h"
#include "store/store.h"

namespace shadowserve {

template <size_t kSize>
class CompletionQueue {
 public:
  bool empty() const { return count_ == 0; }
  size_t size() const { return count_; }

  void Push(const StoreCompletion& completion) {
    SS_CHECK(count_ < kSize, "more completions than accepted requests");
    items_[(first_ + count_++) % kSize] = completion;
  }
  // Moves a prefix out, in order; returns its length.
  size_t PopInto(std::span<StoreCompletion> out) {
    const size_t count = count_ < out.size() ? count_ : out.size();
    for (size_t i = 0; i < count; ++i) out[i] = items_[(first_ + i) % kSize];
    first_ = (first_ + count) % kSize;
    count_ -= count;
    return count;
  }

 private:
  std::array<StoreCompletion, kSize> items_;
  size_t first_ = 0;
  size_t count_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_COMPLETION_QUEUE_H_
