#include "store/timed_store.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>

#include "base/clock.h"

namespace shadowserve {

Status TimedStore::OpenTimer() {
  timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  epoll_event event = {};
  event.events = EPOLLIN;
  const int inner_fd = inner().event_fd();
  const bool ok = timer_.valid() && epoll_.valid() &&
                  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &event) == 0 &&
                  (inner_fd < 0 || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, inner_fd, &event) == 0);
  return ok ? OkStatus() : Status(StatusCode::kUnavailable, Describe() + ": no timer");
}

void TimedStore::WakeIn(int64_t wait_ns) {
  if (wait_ns == 0 && !armed_) return;
  const itimerspec when = {{}, {wait_ns / kNsPerSecond, wait_ns % kNsPerSecond}};
  (void)timerfd_settime(timer_.get(), 0, &when, nullptr);
  armed_ = wait_ns > 0;
}

}  // namespace shadowserve
