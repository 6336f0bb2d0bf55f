// A bounded queue of closures into one owner thread, with a file descriptor that tells when it has
// some.
//
// Post is thread-safe and never blocks; Run and fd belong to the owner thread. Posting allocates
// only what std::function does: nothing for a closure of two pointers. Room for `capacity` is taken
// at once.
#ifndef SHADOWSERVE_FLOW_MAILBOX_H_
#define SHADOWSERVE_FLOW_MAILBOX_H_

#include <cstddef>
#include <functional>
#include <mutex>
#include <vector>

#include "base/unique_fd.h"

namespace shadowserve {

class Mailbox {
 public:
  explicit Mailbox(size_t capacity);

  // False when the queue is full: nothing was queued.
  [[nodiscard]] bool Post(std::function<void()> work);
  // Runs what was queued when it was called; true when there was something.
  bool Run();
  // Readable when Run has work.
  int fd() const { return event_.get(); }

 private:
  const size_t capacity_;
  UniqueFd event_;
  std::mutex mutex_;
  std::vector<std::function<void()>> queue_;
  std::vector<std::function<void()>> running_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_FLOW_MAILBOX_H_
