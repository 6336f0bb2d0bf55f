// What stores that hold something back have in common: a timer that wakes whoever waits.
#ifndef SHADOWSERVE_STORE_TIMED_STORE_H_
#define SHADOWSERVE_STORE_TIMED_STORE_H_

#include <cstdint>

#include "base/unique_fd.h"
#include "store/store_decorator.h"

namespace shadowserve {

class TimedStore : public StoreDecorator {
 public:
  using StoreDecorator::StoreDecorator;
  // Before anything else. kUnavailable: the kernel gives no timer.
  Status OpenTimer();

  // The inner store's and the timer's: may be readable in vain. -1 without a timer.
  int event_fd() const override { return epoll_.get(); }

 protected:
  bool has_timer() const { return timer_.valid(); }
  // Wakes whoever waits in so long. 0: not at all, and what has expired is forgotten.
  void WakeIn(int64_t wait_ns);

 private:
  UniqueFd timer_;
  UniqueFd epoll_;
  bool armed_ = false;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_TIMED_STORE_H_
