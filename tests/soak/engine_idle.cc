#include <fmt/format.h>

#include <chrono>
#include <thread>

#include "engine.h"

namespace shadowserve::soak {
namespace {

constexpr uint64_t kRequestsBetweenIdles = 600;  // at most; half of it at least
constexpr double kResetsPerIdle = 0.03;
constexpr double kForgetsPerIdle = 0.5;
// Longer than a save may hold pages, and than the data plane is stopped or away.
constexpr int64_t kPagesBackNs = 40 * kNsPerSecond;

}  // namespace

void Engine::Run(const std::atomic<bool>& stop) {
  next_idle_ = kRequestsBetweenIdles;
  while (added_ < options_.requests && !stop) {
    if (added_ >= next_idle_) Idle(stop);
    while (requests_.size() < options_.requests_at_once && added_ < options_.requests) Add();
    Step();
  }
  if (stop) return;
  Drain();
  AwaitPages();
  CheckAllPages("at the end");
  CountManager();
  if (added_ != options_.requests || !by_id_.empty()) {
    report_->Violation(fmt::format("{}: requests are missing at the end", options_.name));
  }
  manager_->Close();
  worker_->Close();
}

void Engine::Drain() {
  while (!requests_.empty()) Step();
}

// No request runs, nothing loads: after a while nothing is held, and every page is free.
void Engine::AwaitPages() {
  const int64_t until_ns = clock_.NowNs() + kPagesBackNs;
  while (pool_->free_count() < pool_->page_count() || manager_->HeldPages() > 0) {
    Release();
    if (clock_.NowNs() > until_ns) {
      report_->Violation(fmt::format("{}: {} pages not free, {} held, {} s after the last request",
                                     options_.name, pool_->page_count() - pool_->free_count(),
                                     manager_->HeldPages(), kPagesBackNs / kNsPerSecond));
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void Engine::Idle(const std::atomic<bool>& stop) {
  Drain();
  AwaitPages();
  CheckAllPages("in an idle phase");
  CountManager();
  ++report_->idle_phases;
  const uint64_t ms = random_.Chance(0.1) ? 1500 : random_.Below(200);
  for (uint64_t waited = 0; waited < ms && !stop; ++waited) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (random_.Chance(kForgetsPerIdle)) pool_->ForgetHashes();
  if (random_.Chance(kResetsPerIdle)) Reset();
  next_idle_ = added_ + kRequestsBetweenIdles / 2 + random_.Below(kRequestsBetweenIdles / 2);
}

// New weights: what was stored with the old ones would be wrong, and is found if it is offered.
void Engine::Reset() {
  weights_ = random_.Next();
  manager_->NewNamespace();
  pool_->ForgetHashes();
  ++report_->resets;
}

}  // namespace shadowserve::soak
