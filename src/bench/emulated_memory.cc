#include "bench/emulated_memory.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/unique_fd.h"

namespace shadowserve {
namespace {

class ThrottledStore final : public Store {
 public:
  ThrottledStore(std::unique_ptr<Store> inner, EmulatedMemory* memory)
      : inner_(std::move(inner)), memory_(memory) {}

  Status Open() {
    timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
    epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
    epoll_event event = {};
    event.events = EPOLLIN;
    const bool ok = timer_.valid() && epoll_.valid() &&
                    epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event) == 0 &&
                    (inner_->event_fd() < 0 ||
                     epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, inner_->event_fd(), &event) == 0);
    return ok ? OkStatus() : Status(StatusCode::kUnavailable, "emulated memory: no timer");
  }

  size_t Submit(std::span<const StoreRequest> requests) override {
    return inner_->Submit(requests);
  }
  size_t Poll(std::span<StoreCompletion> completions) override {
    const int64_t wait_ns = memory_->WaitNs();
    if (wait_ns > 0 || armed_) Arm(wait_ns);
    return wait_ns > 0 ? 0 : inner_->Poll(completions);
  }
  // The inner store's and a timer's; while the memory is busy the first may be readable in vain.
  int event_fd() const override { return epoll_.get(); }
  bool MayContain(const ObjectName& name) const override { return inner_->MayContain(name); }
  bool has_index() const override { return inner_->has_index(); }
  Status List(const std::function<bool(const ObjectName&, uint64_t)>& visit) override {
    return inner_->List(visit);
  }
  StoreStats Stats() const override { return inner_->Stats(); }
  std::string Describe() const override { return inner_->Describe(); }

 private:
  // 0: disarms, and what has expired is forgotten.
  void Arm(int64_t wait_ns) {
    const itimerspec when = {{}, {wait_ns / kNsPerSecond, wait_ns % kNsPerSecond}};
    (void)timerfd_settime(timer_.get(), 0, &when, nullptr);
    armed_ = wait_ns > 0;
  }

  const std::unique_ptr<Store> inner_;
  EmulatedMemory* const memory_;
  UniqueFd timer_;
  UniqueFd epoll_;
  bool armed_ = false;
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
  SS_TRY(store->Open());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shadowserve
