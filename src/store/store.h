// Store: objects by name, asynchronous, bytes straight between the caller's buffers and the store.
//
// The shape of all asynchronous work in this project: Submit accepts a prefix of the requests and
// never blocks; Poll returns finished ones; every accepted request completes exactly once, and
// errors travel only in the completion. A request's buffer is lent until its completion.
//
// Owner thread: all methods but Describe belong to one thread. Wakeup: `event_fd` becomes readable
// when Poll may have something (or is -1 when completions exist only right after Submit); Poll
// clears it. Errors: kNotFound (no such object), kCorrupt (its stored size cannot be right),
// kExhausted (the store is full or takes no more now), kUnavailable (the store cannot be reached or
// refuses).
#ifndef SHADOWSERVE_STORE_STORE_H_
#define SHADOWSERVE_STORE_STORE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "format/object_name.h"

namespace shadowserve {

enum class StoreOp : uint8_t {
  kGet,     // reads the whole object into `buffer`; bytes = its size. kCorrupt when it does not fit
  kPut,     // stores `buffer` under the name, atomically: readers see the old, the new or no object
  kDelete,  // OK also when there is no such object
  kExists,  // kOk when the object is there, else kNotFound. Cheap: for lookups
};

constexpr bool IsChange(StoreOp op) {
  return op == StoreOp::kPut || op == StoreOp::kDelete;
}

struct StoreRequest {
  StoreOp op = StoreOp::kGet;
  ObjectName name;
  std::span<std::byte> buffer;  // kGet: written; kPut: only read; else empty
  uint64_t user_data = 0;       // comes back in the completion
  // kGet, optional: how many leading bytes of the buffer are in place. Lent like the buffer; a
  // store that can tell raises it in Submit and Poll, so that the caller may use these bytes while
  // the rest is on its way. What they are worth is known only from the completion.
  uint64_t* arrived = nullptr;
};

struct StoreCompletion {
  uint64_t user_data = 0;
  StatusCode code = StatusCode::kOk;
  uint64_t bytes = 0;  // kGet: object size
};

struct StoreStats {
  uint64_t objects = 0;
  uint64_t bytes = 0;
  uint64_t capacity_bytes = 0;  // 0: unbounded or unknown
  uint64_t evicted_objects = 0;
};

class Store {
 public:
  virtual ~Store() = default;  // REQUIRES: every accepted request has completed
  // Accepts requests[0..n) and returns n <= requests.size(); 0 means try after the next completion.
  virtual size_t Submit(std::span<const StoreRequest> requests) = 0;
  // Fills a prefix of `completions`, returns its length. Never blocks.
  virtual size_t Poll(std::span<StoreCompletion> completions) = 0;
  virtual int event_fd() const = 0;
  // False only when the object is surely absent (an index in memory says so); never touches the
  // store.
  virtual bool MayContain(const ObjectName& name) const = 0;
  // True when MayContain knows all that this process can know, so that asking the store by kExists
  // tells no more. A store that others write to has no such index: it says false.
  virtual bool has_index() const = 0;
  // Calls `visit` for objects, in no order, until it returns false. May block: for tools, not for
  // the data path. An error when the store cannot list.
  virtual Status List(const std::function<bool(const ObjectName&, uint64_t bytes)>& visit) = 0;
  virtual StoreStats Stats() const = 0;
  // "disk:///var/cache/shadowserve" without secrets. Thread-safe.
  virtual std::string Describe() const = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_STORE_H_
