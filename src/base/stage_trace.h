// What every stage did when: a bounded record, kept only while somebody asked for it (`shadowctl
// trace`). Off, it costs one branch per piece of work.
//
// Thread-safe.
#ifndef SHADOWSERVE_BASE_STAGE_TRACE_H_
#define SHADOWSERVE_BASE_STAGE_TRACE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <utility>
#include <vector>

namespace shadowserve {

enum class StageLabel : uint8_t;

// One piece of work of one stage, on one segment. Times are the pipeline's clock.
struct StageSpan {
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  uint64_t chunk = 0;  // leading 8 bytes of its key, the first one highest
  uint16_t first_layer = 0;
  uint16_t head_group = 0;
  StageLabel stage = {};
  bool saving = false;
  uint8_t thread = 0;  // of the data plane: 0 is the pipeline's own
};

class StageTrace {
 public:
  static constexpr size_t kSpansMax = 100'000;  // 3 MB; some GiB of KV

  bool on() const { return on_.load(std::memory_order_relaxed); }
  void Begin() {
    const std::lock_guard lock(mutex_);
    spans_.clear();
    spans_.reserve(kSpansMax);
    dropped_ = 0;
    on_ = true;
  }
  void Add(const StageSpan& span) {
    const std::lock_guard lock(mutex_);
    if (!on_) return;  // ended meanwhile
    spans_.size() < kSpansMax ? spans_.push_back(span) : void(++dropped_);
  }
  struct Taken {
    std::vector<StageSpan> spans;  // in the order in which they ended
    uint64_t dropped = 0;          // those after the first kSpansMax
  };
  Taken End() {
    const std::lock_guard lock(mutex_);
    on_ = false;
    return {std::exchange(spans_, {}), dropped_};
  }

 private:
  std::atomic<bool> on_ = false;
  std::mutex mutex_;
  std::vector<StageSpan> spans_;  // guarded by mutex_
  uint64_t dropped_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_STAGE_TRACE_H_
