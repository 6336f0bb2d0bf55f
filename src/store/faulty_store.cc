#include "store/faulty_store.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <string_view>
#include <utility>

#include "store/timed_store.h"

namespace shadowserve {
namespace {

constexpr std::string_view kPrefix = "faulty+";
constexpr std::string_view kOptionPrefix = "fault.";
constexpr uint32_t kFaultyQueueDepth = 64;
constexpr uint64_t kDelayMsMax = 60'000;

// SplitMix64 (Steele, Lea, Flood 2014) as a hash: random numbers by (seed, request, purpose), so
// that faults do not depend on timing.
uint64_t Mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15u;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

enum class Fault : uint8_t { kNone, kFail, kDrop, kCorrupt, kTruncate };

class FaultyStore final : public TimedStore {
 public:
  FaultyStore(std::unique_ptr<Store> inner, const FaultOptions& faults, const Clock* clock)
      : TimedStore(std::move(inner)), faults_(faults), clock_(clock ? clock : &own_clock_) {
    for (uint32_t i = 0; i < kFaultyQueueDepth; ++i) free_[i] = i;
  }

  // No timer when the inner store needs none and nothing is delayed.
  Status Open() {
    return faults_.delay_ms == 0 && inner().event_fd() < 0 ? OkStatus() : OpenTimer();
  }

  size_t Submit(std::span<const StoreRequest> requests) override {
    size_t accepted = 0;
    while (accepted < requests.size() && free_count_ > 0 && Accept(requests[accepted])) ++accepted;
    if (accepted > 0) Collect();
    ArmTimer();
    return accepted;
  }

  size_t Poll(std::span<StoreCompletion> completions) override {
    Collect();
    size_t count = 0;
    while (count < completions.size() && held_count_ > 0) {
      const Slot& slot = slots_[held_[held_first_]];
      if (slot.due_ns > clock_->NowNs()) break;
      completions[count++] = slot.completion;
      free_[free_count_++] = held_[held_first_];
      held_first_ = (held_first_ + 1) % kFaultyQueueDepth;
      --held_count_;
    }
    ArmTimer();
    return count;
  }

  std::string Describe() const override { return std::string(kPrefix) + TimedStore::Describe(); }

 private:
  struct Slot {
    StoreRequest request;
    uint64_t number = 0;  // of the request, in order of acceptance
    Fault fault = Fault::kNone;
    StoreCompletion completion;
    int64_t due_ns = 0;
  };

  bool Strikes(uint64_t number, Fault fault, double probability) const {
    const uint64_t purpose = static_cast<uint64_t>(fault);
    const uint64_t random = Mix(Mix(faults_.seed ^ purpose << 56) ^ number);
    return static_cast<double>(random >> 11) * 0x1p-53 < probability;
  }
  Fault Draw(const StoreRequest& request, uint64_t number) const {
    if (Strikes(number, Fault::kFail, faults_.fail)) return Fault::kFail;
    if (Strikes(number, Fault::kDrop, faults_.drop)) return Fault::kDrop;
    if (request.op != StoreOp::kGet) return Fault::kNone;
    if (Strikes(number, Fault::kCorrupt, faults_.corrupt)) return Fault::kCorrupt;
    if (Strikes(number, Fault::kTruncate, faults_.truncate)) return Fault::kTruncate;
    return Fault::kNone;
  }

  bool Accept(const StoreRequest& request) {
    const uint32_t id = free_[free_count_ - 1];
    Slot& slot = slots_[id];
    slot.request = request;
    slot.number = next_number_;
    slot.fault = Draw(request, next_number_);
    if (slot.fault == Fault::kFail) {
      Hold(id, {request.user_data, StatusCode::kUnavailable, 0});
    } else if (slot.fault == Fault::kDrop) {
      const bool asks = request.op == StoreOp::kGet || request.op == StoreOp::kExists;
      Hold(id, {request.user_data, asks ? StatusCode::kNotFound : StatusCode::kOk, 0});
    } else {
      StoreRequest passed = request;
      passed.user_data = id;
      passed.arrived = nullptr;  // faults show in the completion: nothing may be used before it
      if (inner().Submit(std::span(&passed, 1)) != 1) return false;
    }
    --free_count_;
    ++next_number_;
    return true;
  }

  void Collect() {
    std::array<StoreCompletion, kFaultyQueueDepth> done;
    const size_t count = inner().Poll(done);
    for (StoreCompletion& completion : std::span(done).first(count)) {
      const auto id = static_cast<uint32_t>(completion.user_data);
      completion.user_data = slots_[id].request.user_data;
      if (completion.code == StatusCode::kOk) Damage(slots_[id], &completion);
      Hold(id, completion);
    }
  }

  void Damage(const Slot& slot, StoreCompletion* completion) const {
    if (completion->bytes == 0) return;
    const uint64_t random = Mix(faults_.seed + Mix(slot.number));
    if (slot.fault == Fault::kCorrupt) {
      slot.request.buffer[random % completion->bytes] ^= std::byte{1} << (random >> 61);
    } else if (slot.fault == Fault::kTruncate) {
      completion->bytes = random % completion->bytes;
    }
  }

  void Hold(uint32_t id, const StoreCompletion& completion) {
    slots_[id].completion = completion;
    slots_[id].due_ns = clock_->NowNs() + static_cast<int64_t>(faults_.delay_ms) * kNsPerMs;
    held_[(held_first_ + held_count_++) % kFaultyQueueDepth] = id;
  }

  // For callers that wait on event_fd: readable when the oldest held completion is due.
  void ArmTimer() {
    if (!has_timer()) return;
    if (held_count_ == 0) return WakeIn(0);
    WakeIn(std::max<int64_t>(slots_[held_[held_first_]].due_ns - clock_->NowNs(), 1));
  }

  const FaultOptions faults_;
  const SteadyClock own_clock_;
  const Clock* const clock_;
  std::array<Slot, kFaultyQueueDepth> slots_;
  std::array<uint32_t, kFaultyQueueDepth> free_ = {};
  uint32_t free_count_ = kFaultyQueueDepth;
  std::array<uint32_t, kFaultyQueueDepth> held_ =
      {};  // ring of slots; one delay for all, so due in order
  uint32_t held_first_ = 0;
  uint32_t held_count_ = 0;
  uint64_t next_number_ = 0;
};

}  // namespace

Result<FaultOptions> TakeFaultOptions(StoreUrl* url) {
  StoreUrl own{.scheme = url->scheme, .authority = {}, .path = {}, .options = {}};
  const auto is_own = [](const StoreUrlOption& o) { return o.name.starts_with(kOptionPrefix); };
  for (StoreUrlOption& option : url->options) {
    if (is_own(option)) own.options.push_back(option);
  }
  std::erase_if(url->options, is_own);
  if (url->scheme.starts_with(kPrefix)) url->scheme.erase(0, kPrefix.size());

  FaultOptions faults;
  StoreUrlOptions reader(own);
  SS_TRY(reader.TakeProbability("fault.fail", &faults.fail));
  SS_TRY(reader.TakeProbability("fault.drop", &faults.drop));
  SS_TRY(reader.TakeProbability("fault.corrupt", &faults.corrupt));
  SS_TRY(reader.TakeProbability("fault.truncate", &faults.truncate));
  SS_TRY(reader.TakeNumber("fault.delay_ms", kDelayMsMax, &faults.delay_ms));
  SS_TRY(reader.TakeNumber("fault.seed", UINT64_MAX, &faults.seed));
  SS_TRY(reader.RefuseRest());
  return faults;
}

Result<std::unique_ptr<Store>> MakeFaultyStore(std::unique_ptr<Store> inner,
                                               const FaultOptions& faults, const Clock* clock) {
  auto store = std::make_unique<FaultyStore>(std::move(inner), faults, clock);
  SS_TRY(store->Open());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shadowserve
