// Objects that are used again, with whatever memory they hold: as many exist as were ever out at a
// time. They never move.
//
// Not thread-safe.
#ifndef SHADOWSERVE_SERVER_SLOTS_H_
#define SHADOWSERVE_SERVER_SLOTS_H_

#include <deque>
#include <vector>

namespace shadowserve {

template <typename T>
class Slots {
 public:
  // As it was given back.
  T* Take() {
    if (free_.empty()) {
      free_.reserve(all_.size() + 1);
      return &all_.emplace_back();
    }
    T* const taken = free_.back();
    free_.pop_back();
    return taken;
  }
  void Give(T* slot) { free_.push_back(slot); }

 private:
  std::deque<T> all_;
  std::vector<T*> free_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_SLOTS_H_
