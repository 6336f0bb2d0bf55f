#include "flow/mailbox.h"

#include <sys/eventfd.h>

#include <cstdint>
#include <utility>

#include "base/check.h"

namespace shadowserve {

Mailbox::Mailbox(size_t capacity)
    : capacity_(capacity), event_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  SS_CHECK(event_.valid(), "cannot make an eventfd");
  queue_.reserve(capacity);
  running_.reserve(capacity);
}

bool Mailbox::Post(std::function<void()> work) {
  const std::lock_guard lock(mutex_);
  if (queue_.size() >= capacity_) return false;
  queue_.push_back(std::move(work));
  const uint64_t one = 1;
  // Fails only when the counter would overflow: then it is readable anyway.
  if (queue_.size() == 1) (void)!write(event_.get(), &one, sizeof(one));
  return true;
}

bool Mailbox::Run() {
  {
    const std::lock_guard lock(mutex_);
    if (queue_.empty()) return false;
    std::swap(queue_, running_);
    uint64_t count = 0;
    (void)!read(event_.get(), &count, sizeof(count));
  }
  for (std::function<void()>& work : running_) work();
  running_.clear();
  return true;
}

}  // namespace shadowserve
