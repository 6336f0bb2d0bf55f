// A store over another one: passes every call on, for whoever changes some of them.
#ifndef SHADOWSERVE_STORE_STORE_DECORATOR_H_
#define SHADOWSERVE_STORE_STORE_DECORATOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "store/store.h"

namespace shadowserve {

class StoreDecorator : public Store {
 public:
  explicit StoreDecorator(std::unique_ptr<Store> inner) : inner_(std::move(inner)) {}

  size_t Submit(std::span<const StoreRequest> requests) override {
    return inner_->Submit(requests);
  }
  size_t Poll(std::span<StoreCompletion> completions) override { return inner_->Poll(completions); }
  int event_fd() const override { return inner_->event_fd(); }
  bool MayContain(const ObjectName& name) const override { return inner_->MayContain(name); }
  bool has_index() const override { return inner_->has_index(); }
  Status List(const std::function<bool(const ObjectName&, uint64_t)>& visit) override {
    return inner_->List(visit);
  }
  StoreStats Stats() const override { return inner_->Stats(); }
  std::string Describe() const override { return inner_->Describe(); }

 protected:
  Store& inner() { return *inner_; }

 private:
  const std::unique_ptr<Store> inner_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_STORE_DECORATOR_H_
