// Time as the rest of the code sees it: monotonic, in nanoseconds, and replaceable in tests.
#ifndef SHADOWSERVE_BASE_CLOCK_H_
#define SHADOWSERVE_BASE_CLOCK_H_

#include <atomic>
#include <chrono>
#include <cstdint>

namespace shadowserve {

// Nanoseconds of a monotonic clock; only differences mean anything.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowNs() const = 0;
};

class SteadyClock final : public Clock {
 public:
  int64_t NowNs() const override {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
};

// For tests: time moves only when told to. Thread-safe.
class ManualClock final : public Clock {
 public:
  int64_t NowNs() const override { return now_ns_.load(); }
  void AdvanceNs(int64_t ns) { now_ns_ += ns; }

 private:
  std::atomic<int64_t> now_ns_ = 1;
};

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerSecond = 1'000'000'000;

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_CLOCK_H_
