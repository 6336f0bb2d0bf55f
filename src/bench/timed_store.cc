#include "bench/timed_store.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "base/clock.h"

namespace shadowserve {

Status TimedStore::Open() {
  timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {};
  event.events = EPOLLIN;
  const bool ok = timer_.valid() && epoll_.valid() &&
                  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event) == 0 &&
                  (inner_->event_fd() < 0 ||
                   epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, inner_->event_fd(), &event) == 0);
  return ok ? OkStatus() : Status(StatusCode::kUnavailable, "emulated store: no timer");
}

void TimedStore::WakeIn(int64_t wait_ns) {
  if (wait_ns == 0 && !armed_) return;
  const itimerspec when = {{}, {wait_ns / kNsPerSecond, wait_ns % kNsPerSecond}};
  (void)timerfd_settime(timer_.get(), 0, &when, nullptr);
  armed_ = wait_ns > 0;
}

}  // namespace shadowserve
