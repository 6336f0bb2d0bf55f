// What a soak run counts and finds. Counters are added to by all engines and read by the main
// thread; violations are kept as text, the first ones of them.
#ifndef SHADOWSERVE_TESTS_SOAK_REPORT_H_
#define SHADOWSERVE_TESTS_SOAK_REPORT_H_

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace shadowserve::soak {

class Report {
 public:
  std::atomic<uint64_t> requests = 0;  // ended
  std::atomic<uint64_t> aborted = 0;   // of them
  std::atomic<uint64_t> preemptions = 0;
  std::atomic<uint64_t> loads = 0;  // begun
  std::atomic<uint64_t> loads_good = 0;
  std::atomic<uint64_t> loads_failed = 0;
  std::atomic<uint64_t> misses = 0;         // requests of a chunk and more that found nothing
  std::atomic<uint64_t> local_hits = 0;     // requests with pages in the engine's own cache
  std::atomic<uint64_t> tokens_loaded = 0;  // of good loads
  std::atomic<uint64_t> tokens_computed = 0;
  std::atomic<uint64_t> bytes_checked = 0;
  std::atomic<uint64_t> lookups_hit = 0;
  std::atomic<uint64_t> lookups_miss = 0;
  std::atomic<uint64_t> lookups_timeout = 0;
  std::atomic<uint64_t> saves_stored = 0;
  std::atomic<uint64_t> saves_present = 0;
  std::atomic<uint64_t> saves_dropped = 0;
  std::atomic<uint64_t> pages_quarantined = 0;  // held after a load, over all loads
  std::atomic<uint64_t> pages_released = 0;     // came back, of saves and loads
  std::atomic<uint64_t> idle_phases = 0;        // each ended with every page free
  std::atomic<uint64_t> resets = 0;
  std::atomic<uint64_t> reconnects = 0;
  std::atomic<uint64_t> load_ms_max = 0;
  std::atomic<uint64_t> step_ms_max = 0;
  std::atomic<uint64_t> violations = 0;

  void Violation(std::string text);
  std::vector<std::string> violation_texts();
  // One line; with the violations' texts if `final`.
  std::string Json(bool final, double seconds);

 private:
  std::mutex mu_;
  std::vector<std::string> texts_;
};

void KeepMax(std::atomic<uint64_t>* maximum, uint64_t value);

}  // namespace shadowserve::soak

#endif  // SHADOWSERVE_TESTS_SOAK_REPORT_H_
