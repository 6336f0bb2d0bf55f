// What stores that hold something back have in common: the store behind them, and a timer that
// wakes whoever waits. For benchmarks only.
#ifndef SHADOWSERVE_BENCH_TIMED_STORE_H_
#define SHADOWSERVE_BENCH_TIMED_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/unique_fd.h"
#include "store/store.h"

namespace shadowserve {

// Passes everything on but Poll.
class TimedStore : public Store {
 public:
  explicit TimedStore(std::unique_ptr<Store> inner) : inner_(std::move(inner)) {}
  Status Open();

  size_t Submit(std::span<const StoreRequest> requests) override {
    return inner_->Submit(requests);
  }
  // The inner store's and the timer's: may be readable in vain.
  int event_fd() const override { return epoll_.get(); }
  bool MayContain(const ObjectName& name) const override { return inner_->MayContain(name); }
  bool has_index() const override { return inner_->has_index(); }
  Status List(const std::function<bool(const ObjectName&, uint64_t)>& visit) override {
    return inner_->List(visit);
  }
  StoreStats Stats() const override { return inner_->Stats(); }
  std::string Describe() const override { return inner_->Describe(); }

 protected:
  Store& inner() { return *inner_; }
  // Wakes whoever waits in so long. 0: not at all, and what has expired is forgotten.
  void WakeIn(int64_t wait_ns);

 private:
  const std::unique_ptr<Store> inner_;
  UniqueFd timer_;
  UniqueFd epoll_;
  bool armed_ = false;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_TIMED_STORE_H_
