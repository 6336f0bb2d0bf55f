#include "bench/emulated_memory.h"

#include <algorithm>
#include <utility>

#include "store/timed_store.h"

namespace shadowserve {
namespace {

class ThrottledStore final : public TimedStore {
 public:
  ThrottledStore(std::unique_ptr<Store> inner, EmulatedMemory* memory)
      : TimedStore(std::move(inner)), memory_(memory) {}

  size_t Poll(std::span<StoreCompletion> completions) override {
    const int64_t wait_ns = memory_->WaitNs();
    WakeIn(wait_ns);
    return wait_ns > 0 ? 0 : inner().Poll(completions);
  }

 private:
  EmulatedMemory* const memory_;
};

}  // namespace

uint64_t LoadBytesMoved(const Metrics& metrics) {
  uint64_t bytes = 0;
  for (const StageLabel stage :
       {StageLabel::kNetwork, StageLabel::kDecode, StageLabel::kDequantize, StageLabel::kWrite}) {
    bytes += metrics.stage_bytes[stage].value();
  }
  return bytes;
}

uint64_t LoadBytesMovedOnCard(const Metrics& metrics) {
  return LoadBytesMoved(metrics) + metrics.stage_bytes[StageLabel::kWrite].value();
}

int64_t EmulatedMemory::WaitNs() {
  const int64_t now_ns = clock_->NowNs();
  const uint64_t moved = LoadBytesMovedOnCard(*metrics_);
  // What came since the last look was moved between then and now.
  busy_until_ns_ = std::max(busy_until_ns_, static_cast<double>(seen_ns_)) +
                   static_cast<double>(moved - moved_) / bytes_per_ns_;
  if (waiting_) waited_ns_.fetch_add(now_ns - seen_ns_, std::memory_order_relaxed);
  moved_ = moved;
  seen_ns_ = now_ns;
  const int64_t wait_ns = static_cast<int64_t>(busy_until_ns_) - now_ns - kAheadNs;
  waiting_ = wait_ns > 0;
  return std::max<int64_t>(wait_ns, 0);
}

Result<std::unique_ptr<Store>> MakeThrottledStore(std::unique_ptr<Store> inner,
                                                  EmulatedMemory* memory) {
  auto store = std::make_unique<ThrottledStore>(std::move(inner), memory);
  SS_TRY(store->OpenTimer());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shadowserve
