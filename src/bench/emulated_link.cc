#include "bench/emulated_link.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>
#include <vector>

#include "store/timed_store.h"

namespace shadowserve {
namespace {

// Whoever waits is woken when so much has arrived, or an object is there: a few blocks' worth.
constexpr double kWakeBytes = 128.0 * 1024;

class LinkedStore final : public TimedStore {
 public:
  LinkedStore(std::unique_ptr<Store> inner, double gigabits_per_s, const Clock* clock)
      : TimedStore(std::move(inner)), bytes_per_ns_(gigabits_per_s / 8), clock_(clock) {}

  // Reads alone are worth emulating; of a read's progress the caller hears from here.
  size_t Submit(std::span<const StoreRequest> requests) override {
    size_t taken = 0;
    for (const StoreRequest& request : requests) {
      StoreRequest passed = request;
      passed.arrived = nullptr;
      const size_t trip = TakeTrip(request);
      passed.user_data = trip;
      if (inner().Submit(std::span(&passed, 1)) == 0) {
        free_trips_.push_back(trip);
        break;
      }
      ++taken;
    }
    return taken;
  }

  size_t Poll(std::span<StoreCompletion> completions) override {
    std::array<StoreCompletion, 32> read;
    size_t count = 0;
    while ((count = inner().Poll(read)) > 0) {
      for (const StoreCompletion& done : std::span(read).first(count)) Depart(done);
    }
    const size_t arrived = Arrive(completions);
    WakeIn(WaitNs());
    return arrived;
  }

 private:
  struct Trip {
    StoreOp op = StoreOp::kGet;
    uint64_t* arrived = nullptr;
    StoreCompletion done;  // with the caller's user_data from the start
  };

  size_t TakeTrip(const StoreRequest& request) {
    if (free_trips_.empty()) {
      free_trips_.push_back(trips_.size());
      trips_.emplace_back();
    }
    const size_t index = free_trips_.back();
    free_trips_.pop_back();
    trips_[index] = {request.op, request.arrived, {request.user_data}};
    return index;
  }

  void Depart(const StoreCompletion& done) {
    Trip& trip = trips_[done.user_data];
    trip.done = {trip.done.user_data, done.code, done.bytes};
    if (on_way_.empty()) seen_ns_ = clock_->NowNs();
    on_way_.push_back(done.user_data);
  }

  uint64_t BytesOf(const Trip& trip) const {
    return trip.op == StoreOp::kGet && trip.done.code == StatusCode::kOk ? trip.done.bytes : 0;
  }

  // Moves the link on to now; the objects that are there.
  size_t Arrive(std::span<StoreCompletion> completions) {
    const int64_t now_ns = clock_->NowNs();
    if (!on_way_.empty()) ahead_ += static_cast<double>(now_ns - seen_ns_) * bytes_per_ns_;
    seen_ns_ = now_ns;
    size_t count = 0;
    while (!on_way_.empty()) {
      Trip& trip = trips_[on_way_.front()];
      const auto bytes = static_cast<double>(BytesOf(trip));
      if (ahead_ < bytes) {
        if (trip.arrived != nullptr) *trip.arrived = static_cast<uint64_t>(ahead_);
        break;
      }
      if (count == completions.size()) break;
      ahead_ -= bytes;
      completions[count++] = trip.done;
      free_trips_.push_back(on_way_.front());
      on_way_.pop_front();
    }
    if (on_way_.empty()) ahead_ = 0;
    return count;
  }

  int64_t WaitNs() const {
    if (on_way_.empty()) return 0;
    const auto bytes = static_cast<double>(BytesOf(trips_[on_way_.front()]));
    const double wanted = std::min(bytes - ahead_, kWakeBytes);
    return std::max<int64_t>(static_cast<int64_t>(wanted / bytes_per_ns_), 1);
  }

  const double bytes_per_ns_;
  const Clock* const clock_;
  std::vector<Trip> trips_;
  std::vector<size_t> free_trips_;
  std::deque<size_t> on_way_;  // in the order of their arrival
  double ahead_ = 0;           // bytes of the first of them that have arrived
  int64_t seen_ns_ = 0;
};

}  // namespace

Result<std::unique_ptr<Store>> MakeLinkedStore(std::unique_ptr<Store> inner, double gigabits_per_s,
                                               const Clock* clock) {
  auto store = std::make_unique<LinkedStore>(std::move(inner), gigabits_per_s, clock);
  SS_TRY(store->OpenTimer());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shadowserve
