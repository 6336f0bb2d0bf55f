#include "report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace shadowserve::soak {
namespace {

constexpr size_t kTextsMax = 20;

// Bytes of this process in memory; 0 when the system does not tell.
uint64_t ResidentBytes() {
  std::FILE* const file = std::fopen("/proc/self/statm", "re");
  if (file == nullptr) return 0;
  unsigned long all = 0;
  unsigned long resident = 0;
  const int fields = std::fscanf(file, "%lu %lu", &all, &resident);
  std::fclose(file);
  return fields == 2 ? resident * static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) : 0;
}

// Our own texts: printable ASCII without quotes or backslashes.
std::string Quoted(const std::string& text) {
  return "\"" + text + "\"";
}

}  // namespace

void KeepMax(std::atomic<uint64_t>* maximum, uint64_t value) {
  uint64_t seen = maximum->load();
  while (seen < value && !maximum->compare_exchange_weak(seen, value)) {
  }
}

void Report::Violation(std::string text) {
  ++violations;
  std::fprintf(stderr, "soak: VIOLATION: %s\n", text.c_str());
  const std::lock_guard lock(mu_);
  if (texts_.size() < kTextsMax) texts_.push_back(std::move(text));
}

std::vector<std::string> Report::violation_texts() {
  const std::lock_guard lock(mu_);
  return texts_;
}

std::string Report::Json(bool final, double seconds) {
  const std::pair<const char*, const std::atomic<uint64_t>*> rows[] = {
      {"requests", &requests},
      {"aborted", &aborted},
      {"preemptions", &preemptions},
      {"loads", &loads},
      {"loads_good", &loads_good},
      {"loads_failed", &loads_failed},
      {"misses", &misses},
      {"local_hits", &local_hits},
      {"tokens_loaded", &tokens_loaded},
      {"tokens_computed", &tokens_computed},
      {"bytes_checked", &bytes_checked},
      {"lookups_hit", &lookups_hit},
      {"lookups_miss", &lookups_miss},
      {"lookups_timeout", &lookups_timeout},
      {"saves_stored", &saves_stored},
      {"saves_present", &saves_present},
      {"saves_dropped", &saves_dropped},
      {"pages_quarantined", &pages_quarantined},
      {"pages_released", &pages_released},
      {"idle_phases", &idle_phases},
      {"resets", &resets},
      {"reconnects", &reconnects},
      {"load_ms_max", &load_ms_max},
      {"step_ms_max", &step_ms_max},
      {"violations", &violations},
  };
  std::string out = fmt::format("{{\"final\": {}, \"seconds\": {:.2f}, \"driver_rss\": {}", final,
                                seconds, ResidentBytes());
  for (const auto& [name, value] : rows) out += fmt::format(", \"{}\": {}", name, value->load());
  if (final) {
    out += ", \"violation_texts\": [";
    const char* separator = "";
    for (const std::string& text : violation_texts()) {
      out += separator + Quoted(text);
      separator = ", ";
    }
    out += "]";
  }
  return out + "}";
}

}  // namespace shadowserve::soak
