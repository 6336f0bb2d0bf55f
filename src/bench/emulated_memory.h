// A card's memory in time: as many bytes per second as the card's, counted where the stages count
// what they read and write (metric shadowserve_stage_bytes_total). For benchmarks only.
//
// Here the stages write straight into the engine's pages. A card cannot: it writes them into a
// staging buffer in its own memory, which its DMA engine reads. So what is written to pages counts
// twice. Nothing is taken to come out of a cache.
#ifndef SHADOWSERVE_BENCH_EMULATED_MEMORY_H_
#define SHADOWSERVE_BENCH_EMULATED_MEMORY_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "base/metrics.h"
#include "store/store.h"

namespace shadowserve {

// Read and written by the stages of loads so far; here, and as a card's memory would see it.
uint64_t LoadBytesMoved(const Metrics& metrics);
uint64_t LoadBytesMovedOnCard(const Metrics& metrics);

// A server for bytes that were moved. Whoever brings new ones in waits until it has caught up.
// Owner thread: one, but for waited_ns.
class EmulatedMemory {
 public:
  // How far the stages may be ahead of it. Arrived bytes are counted when their segment is
  // complete, those of many segments at once: what all slabs hold is no rate yet.
  static constexpr int64_t kAheadNs = 5 * kNsPerMs;

  // Pointers outlive it.
  EmulatedMemory(double bytes_per_s, const Metrics* metrics, const Clock* clock)
      : bytes_per_ns_(bytes_per_s / static_cast<double>(kNsPerSecond)),
        metrics_(metrics),
        clock_(clock) {}

  // How long nothing new may come in; 0: at once.
  int64_t WaitNs();
  // Time in which nothing was let in. Any thread.
  int64_t waited_ns() const { return waited_ns_.load(std::memory_order_relaxed); }

 private:
  const double bytes_per_ns_;
  const Metrics* const metrics_;
  const Clock* const clock_;
  uint64_t moved_ = 0;   // as seen last
  int64_t seen_ns_ = 0;  // when
  double busy_until_ns_ = 0;
  bool waiting_ = false;
  std::atomic<int64_t> waited_ns_ = 0;
};

// Gives nothing from `inner` while the memory is busy, which holds up all stages: their input is
// what it gives. `memory` outlives the store.
Result<std::unique_ptr<Store>> MakeThrottledStore(std::unique_ptr<Store> inner,
                                                  EmulatedMemory* memory);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_EMULATED_MEMORY_H_
