#include <fmt/format.h>

#include <algorithm>

#include "engine.h"

namespace shadowserve::soak {
namespace {

// python/shadowserve/scheduler_half.py
constexpr size_t kHeldShareRunning = 4;
constexpr size_t kHeldShareFinished = 2;
// After its deadline a load must be reported: the manager's grace (0.5 s), and what a loaded
// machine may take to run our threads.
constexpr int64_t kReportGraceNs = 2 * kNsPerSecond;

void Decrement(std::unordered_map<uint32_t, uint32_t>* counts, uint32_t page) {
  const auto found = counts->find(page);
  if (found != counts->end() && --found->second == 0) counts->erase(found);
}

}  // namespace

void Engine::OfferSaves() {
  bool queued = false;
  for (auto& [number, request] : requests_) {
    if (request.state != State::kRunning || !request.save) continue;
    queued |=
        Offer(request, request.computed / kChunkTokens, pool_->page_count() / kHeldShareRunning);
  }
  if (queued) manager_->Flush();
}

bool Engine::Offer(Request& request, uint32_t chunks, size_t page_limit) {
  const size_t held = HeldForSaves();
  const size_t room =
      held < page_limit ? (page_limit - held) * options_.page_tokens / kChunkTokens : 0;
  chunks = static_cast<uint32_t>(std::min<size_t>(chunks, request.chunks_offered + room));
  if (chunks <= request.chunks_offered) return false;
  const std::vector<uint32_t> hold =
      manager_->BeginSaves(request.id, uint64_t{chunks} * kChunkTokens, request.pages);
  request.chunks_offered = chunks;
  if (!manager_->Unsaved(request.id)) request.save = false;
  if (hold.empty()) return false;
  if (options_.breaking != Break::kEarlyReuse) Hold(hold, false);
  return true;
}

void Engine::SaveRest(Request& request) {
  if (!request.save) return;
  Release();
  if (Offer(request, request.computed / kChunkTokens, pool_->page_count() / kHeldShareFinished)) {
    manager_->Flush();
  }
}

void Engine::Hold(const std::vector<uint32_t>& pages, bool quarantine) {
  pool_->Touch(pages);
  for (const uint32_t page : pages) {
    ++held_[page];
    if (quarantine) ++quarantined_[page];
  }
  if (quarantine) report_->pages_quarantined += pages.size();
}

void Engine::Release() {
  for (const uint32_t page : manager_->TakeReleases()) {
    if (!held_.contains(page)) {
      // With --break they come back without ever having been held.
      if (options_.breaking == Break::kNothing) {
        report_->Violation(
            fmt::format("{}: page {} was released but not held", options_.name, page));
      }
      continue;
    }
    Decrement(&held_, page);
    Decrement(&quarantined_, page);
    ++report_->pages_released;
    pool_->Free(std::span(&page, 1));
  }
}

void Engine::RegisterPages(Request& request) {
  for (uint32_t page = 0; page < request.computed / options_.page_tokens; ++page) {
    const ContentKey hash = request.keys[(page + 1) * memory_->page_granules() - 1];
    pool_->SetHash(request.pages[page], hash);
  }
}

void Engine::CheckLoaded(const Request& request) {
  const uint32_t granules = memory_->page_granules();
  for (uint32_t granule = request.load_from / kGranuleTokens;
       granule < request.load_end / kGranuleTokens; ++granule) {
    pool_->Loaded(request.pages[granule / granules], granule % granules, request.keys[granule]);
  }
  for (uint32_t page = 0; page < request.load_end / options_.page_tokens; ++page) {
    const bool loaded = page * options_.page_tokens >= request.load_from;
    pool_->Close(request.pages[page]);
    CheckPage(request.pages[page], loaded ? "after a load into it" : "in front of a load");
  }
}

void Engine::CheckLateLoads() {
  const int64_t allowed_ns = static_cast<int64_t>(options_.fetch_deadline_s * kNsPerSecond) +
                             kReportGraceNs + 2 * longest_step_ns_;
  for (auto& [number, request] : requests_) {
    if (request.state != State::kLoading || request.late_told) continue;
    if (clock_.NowNs() - request.load_since_ns <= allowed_ns) continue;
    request.late_told = true;
    report_->Violation(fmt::format("{}: its load was not reported within its deadline and {} ms",
                                   request.id, kReportGraceNs / kNsPerMs));
  }
}

void Engine::CheckPage(uint32_t page, const char* when) {
  if (pool_->open(page)) return;
  report_->bytes_checked += memory_->page_granules() * memory_->granule_bytes();
  if (pool_->Check(page)) return;
  report_->Violation(
      fmt::format("{}: page {} holds wrong bytes, found {}", options_.name, page, when));
  pool_->Restore(page);
}

void Engine::CheckSuspects(const std::vector<uint32_t>& pages, const char* when) {
  for (const uint32_t page : pages) {
    if (pool_->TakeSuspect(page)) CheckPage(page, when);
  }
}

void Engine::CheckAllPages(const char* when) {
  for (uint32_t page = 0; page < pool_->page_count(); ++page) CheckPage(page, when);
}

void Engine::CountManager() {
  const KvManagerStats stats = manager_->TakeStats();
  report_->saves_stored += stats.saves_stored;
  report_->saves_present += stats.saves_present;
  report_->saves_dropped += stats.saves_dropped;
  report_->lookups_hit += stats.lookups_hit;
  report_->lookups_miss += stats.lookups_miss;
  report_->lookups_timeout += stats.lookups_timeout;
  report_->reconnects += stats.reconnects;
}

}  // namespace shadowserve::soak
