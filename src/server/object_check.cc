#include "server/object_check.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "format/marker.h"
#include "format/segment.h"

namespace shadowserve {
namespace {

constexpr std::chrono::seconds kWaitMax(60);

// Shared by the waiting caller and the pipeline's thread; the last one out frees it.
class ObjectCheck final : public StoreListener, public std::enable_shared_from_this<ObjectCheck> {
 public:
  ObjectCheck(DataPlane* plane, const ObjectName& name) : plane_(plane), name_(name) {}

  Status Wait() {
    std::unique_lock lock(mutex_);
    if (!done_.wait_for(lock, kWaitMax, [this] { return status_.has_value(); })) {
      status_ =
          Status(StatusCode::kDeadline, "the data plane did not get to it");  // Begin gives up
    }
    return *status_;
  }

  // On the pipeline's thread, like all below.
  void Begin() {
    if (Over()) return;
    slab_ = plane_->fetch().TakeSlab();
    if (slab_.valid() &&
        plane_->store_port().Submit(this, StoreOp::kGet, name_, slab_.bytes(), 0)) {
      self_ = shared_from_this();
      return;
    }
    slab_.Reset();
    if (!plane_->Post([self = shared_from_this()] { self->Begin(); })) {
      Finish(Status(StatusCode::kExhausted, "the data plane is overloaded"));
    }
  }

  void OnStore(uint64_t /*tag*/, StatusCode code, uint64_t bytes) override {
    const std::shared_ptr<ObjectCheck> self = std::move(self_);
    Status status(code, "reading it failed");
    if (code == StatusCode::kOk) {
      status = Check(slab_.bytes().first(bytes));
    }
    slab_.Reset();
    plane_->store_port().Forget(this);
    Finish(std::move(status));
  }

 private:
  Status Check(std::span<std::byte> object) {
    Seal* seal = plane_->seal();
    if (name_.kind == ObjectKind::kMarker) return ReadMarker(object, name_, seal).status();
    return seal == nullptr ? VerifySegment(object, name_)
                           : VerifySealedSegment(object, name_, seal);
  }
  bool Over() {
    const std::lock_guard lock(mutex_);
    return status_.has_value();
  }
  void Finish(Status status) {
    const std::lock_guard lock(mutex_);
    if (!status_.has_value()) status_ = std::move(status);
    done_.notify_all();
  }

  DataPlane* plane_;
  const ObjectName name_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::optional<Status> status_;
  SlabLease slab_;
  std::shared_ptr<ObjectCheck> self_;  // while the store has a request of ours
};

}  // namespace

Status CheckObject(DataPlane* plane, const ObjectName& name) {
  const auto check = std::make_shared<ObjectCheck>(plane, name);
  if (!plane->Post([check] { check->Begin(); })) {
    return Status(StatusCode::kExhausted, "the data plane is overloaded");
  }
  return check->Wait();
}

}  // namespace shadowserve
