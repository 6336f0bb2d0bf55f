#include "pipeline/store_port.h"

#include <algorithm>

#include "base/check.h"

namespace shadowserve {
namespace {

// user_data: listener index in the top byte (kListenersMax: nobody, a discard), tag below.
constexpr uint64_t kTagBits = 56;
constexpr size_t kPollBatch = 32;

}  // namespace

uint64_t StorePort::ListenerIndex(StoreListener* listener) {
  auto slot = std::find(listeners_.begin(), listeners_.end(), listener);
  if (slot == listeners_.end()) slot = std::find(listeners_.begin(), listeners_.end(), nullptr);
  SS_CHECK(slot != listeners_.end(), "too many store listeners");
  *slot = listener;
  return static_cast<uint64_t>(slot - listeners_.begin());
}

void StorePort::Forget(StoreListener* listener) {
  std::replace(listeners_.begin(), listeners_.end(), listener,
               static_cast<StoreListener*>(nullptr));
}

bool StorePort::Submit(StoreListener* listener, StoreOp op, const ObjectName& name,
                       std::span<std::byte> buffer, uint64_t tag, uint64_t* arrived) {
  const int64_t start_ns = clock_->NowNs();
  const StoreRequest request{op, name, buffer, ListenerIndex(listener) << kTagBits | tag, arrived};
  const bool accepted = store_->Submit(std::span(&request, 1)) == 1;
  if (accepted) ++inflight_;
  metrics_->stage_busy[StageLabel::kNetwork].AddNs(clock_->NowNs() - start_ns);
  return accepted;
}

void StorePort::Discard(const ObjectName& name) {
  if (discards_.size() + 2 > kDiscardsMax) return;
  // The marker first: without it the chunk is absent, whatever becomes of the segment.
  discards_.push_back(name.AsKind(ObjectKind::kMarker));
  discards_.push_back(name.AsKind(ObjectKind::kSegment));
  SubmitDiscards();
}

void StorePort::SubmitDiscards() {
  while (!discards_.empty()) {
    const StoreRequest request{StoreOp::kDelete, discards_.front(), {}, kListenersMax << kTagBits};
    if (store_->Submit(std::span(&request, 1)) != 1) return;
    ++inflight_;
    discards_.pop_front();
  }
}

bool StorePort::Poll() {
  // Also with nothing in flight: the store's descriptor may become readable for its own affairs (a
  // server that hangs up), and only its Poll clears it.
  std::array<StoreCompletion, kPollBatch> completions;
  const int64_t start_ns = clock_->NowNs();
  const size_t count = store_->Poll(completions);
  metrics_->stage_busy[StageLabel::kNetwork].AddNs(clock_->NowNs() - start_ns);
  for (const StoreCompletion& done : std::span(completions).first(count)) {
    --inflight_;
    const uint64_t listener = done.user_data >> kTagBits;
    if (listener == kListenersMax) continue;
    listeners_[listener]->OnStore(done.user_data & ((uint64_t{1} << kTagBits) - 1), done.code,
                                  done.bytes);
  }
  SubmitDiscards();
  return count > 0;
}

}  // namespace shadowserve
