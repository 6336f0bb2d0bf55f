// The pipelines' way to the store: tags completions with their owner, keeps what the store did not
// accept, and removes objects that turned out to be missing or damaged.
//
// Owner thread: the pipeline's. Bounded: kDiscardsMax pending removals; one more is forgotten, and
// the next reader of that object finds it damaged again.
#ifndef SHADOWSERVE_PIPELINE_STORE_PORT_H_
#define SHADOWSERVE_PIPELINE_STORE_PORT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>

#include "base/clock.h"
#include "base/metrics.h"
#include "store/store.h"

namespace shadowserve {

class StoreListener {
 public:
  virtual ~StoreListener() = default;
  virtual void OnStore(uint64_t tag, StatusCode code, uint64_t bytes) = 0;
};

class StorePort {
 public:
  static constexpr size_t kDiscardsMax = 1024;

  StorePort(Store* store, Metrics* metrics, const Clock* clock)
      : store_(store), metrics_(metrics), clock_(clock) {}

  // False when the store takes no more now. `tag` (< 2^56) comes back to `listener`; at most
  // kListenersMax at a time.
  // `arrived`: StoreRequest::arrived.
  bool Submit(StoreListener* listener, StoreOp op, const ObjectName& name,
              std::span<std::byte> buffer, uint64_t tag, uint64_t* arrived = nullptr);
  // A listener with nothing in flight goes.
  void Forget(StoreListener* listener);
  // Removes a segment and its marker, some time soon.
  void Discard(const ObjectName& name);
  bool MayContain(const ObjectName& name) const { return store_->MayContain(name); }
  bool has_index() const { return store_->has_index(); }
  // Delivers completions; true when there were any.
  bool Poll();
  size_t inflight() const { return inflight_; }

 private:
  static constexpr size_t kListenersMax = 8;
  uint64_t ListenerIndex(StoreListener* listener);
  void SubmitDiscards();

  Store* store_;
  Metrics* metrics_;
  const Clock* clock_;
  std::array<StoreListener*, kListenersMax> listeners_ = {};
  std::deque<ObjectName> discards_;
  size_t inflight_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_STORE_PORT_H_
