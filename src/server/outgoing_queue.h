// The messages to one client: those that wait to be written, in order, and used ones, which are
// filled again. So a message costs no allocation once as many as are on their way at a time exist,
// what protobuf itself needs for it included (unless a message is larger than its block).
//
// Not thread-safe.
#ifndef SHADOWSERVE_SERVER_OUTGOING_QUEUE_H_
#define SHADOWSERVE_SERVER_OUTGOING_QUEUE_H_

#include <google/protobuf/arena.h>

#include <array>
#include <cstddef>
#include <list>

#include "rpc/control.pb.h"

namespace shadowserve {

class OutgoingQueue {
  struct Slot;

 public:
  // One message, empty at first; owned by whoever fills it until it is pushed.
  class Message {
   public:
    v1::ServerMessage* operator->() { return slot_.front().message; }

   private:
    friend class OutgoingQueue;
    std::list<Slot> slot_;  // exactly one
  };

  // The thread that takes it fills it: protobuf's arenas belong to a thread.
  Message Take() {
    Message taken;
    if (spare_.empty()) {
      taken.slot_.emplace_back();
    } else {
      taken.slot_.splice(taken.slot_.end(), spare_, spare_.begin());
    }
    Slot& slot = taken.slot_.front();
    slot.arena.Reset();
    slot.message = google::protobuf::Arena::CreateMessage<v1::ServerMessage>(&slot.arena);
    return taken;
  }
  void Push(Message message) { waiting_.splice(waiting_.end(), message.slot_); }

  bool empty() const { return waiting_.empty(); }
  size_t size() const { return waiting_.size(); }
  // Stays where it is until it is popped.
  const v1::ServerMessage& front() const { return *waiting_.front().message; }
  void Pop() { spare_.splice(spare_.end(), waiting_, waiting_.begin()); }
  void Clear() { spare_.splice(spare_.end(), waiting_); }

 private:
  // Of an answer: the message, its body, a list of some ids, and what the arena needs.
  static constexpr size_t kBlockBytes = 1024;
  struct Slot {
    alignas(std::max_align_t) std::array<char, kBlockBytes> block;
    google::protobuf::Arena arena{block.data(), block.size()};
    v1::ServerMessage* message = nullptr;
  };

  std::list<Slot> spare_;
  std::list<Slot> waiting_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_OUTGOING_QUEUE_H_
