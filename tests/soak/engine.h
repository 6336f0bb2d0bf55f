// Engine: plays one vLLM engine of one rank over a real KvManager and KvWorker, on real pages, with
// the same calls in the same order as python/shadowserve/{scheduler_half,worker_half}.py, and
// checks what comes of it. No model: "computing" writes the KV that these tokens must have.
//
// Checked all the while: every load is reported once, within its deadline and some grace; after a
// good one every byte of its pages, and of those in front of it, is right; pages that nobody may
// write hold what they must (one at random each step, all of them in idle phases and at the end);
// when all requests are over, every reference comes back.
//
// Threads: one owner thread.
#ifndef SHADOWSERVE_TESTS_SOAK_ENGINE_H_
#define SHADOWSERVE_TESTS_SOAK_ENGINE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/kv_manager.h"
#include "client/kv_worker.h"
#include "kv_content.h"
#include "page_pool.h"
#include "prompts.h"
#include "report.h"

namespace shadowserve::soak {

// How the engine itself does wrong, to see that the checks find it.
enum class Break : uint8_t {
  kNothing,
  kLateWrite,   // pages that a late write can still reach are used again at once
  kEarlyReuse,  // pages that a save still reads are used again at once
  kFlip,        // now and then a bit changes in a page
};

struct EngineOptions {
  std::string data_plane;
  std::string name;
  uint64_t seed = 1;      // of the run: documents, contents, keys
  uint64_t own_seed = 1;  // of this engine
  uint64_t requests = 1000;
  uint32_t requests_at_once = 16;
  uint32_t page_tokens = 128;
  uint32_t chunks = 96;  // of memory
  uint32_t documents = 300;
  bool pages_outermost = false;
  bool early_write = true;
  double fetch_deadline_s = 1.5;
  // Shorter than some stops: its saves then give their pages up while the data plane still reads.
  double save_deadline_s = 0.8;
  int dead_ms = 10'000;  // of the session (client/session.h)
  Break breaking = Break::kNothing;
};

class Engine {
 public:
  static Result<std::unique_ptr<Engine>> Create(EngineOptions options, Report* report);
  // All requests, then the audit. Ends early when `stop` is set.
  void Run(const std::atomic<bool>& stop);

 private:
  enum class State : uint8_t { kWaiting, kLoading, kRunning };
  struct Request {
    std::string id;
    std::vector<uint32_t> tokens;
    std::vector<ContentKey> keys;  // of granules
    State state = State::kWaiting;
    std::vector<uint32_t> pages;
    uint32_t computed = 0;   // tokens whose KV is in the pages
    uint32_t load_from = 0;  // tokens
    uint32_t load_end = 0;
    int64_t load_since_ns = 0;
    bool late_told = false;
    bool use_cache = true;  // the engine's own
    bool failed_once = false;
    bool missed = false;
    bool aborted = false;  // while loading: its pages wait for the report
    bool save = true;
    uint32_t chunks_offered = 0;
    uint32_t linger_steps = 0;  // as if it decoded
  };

  Engine(EngineOptions options, Report* report);
  Status Start();

  // engine.cc: steps.
  void Step();
  void Add();
  void Schedule();
  bool Admit(Request& request);
  void Compute();
  void Collect();
  void LoadOver(const std::string& id, bool failed);
  void FinishDone();
  void Finish(const std::string& id, bool aborted);
  void RandomEvents();
  void Preempt(Request& request);

  // engine_pages.cc: saves, references, checks.
  void OfferSaves();
  bool Offer(Request& request, uint32_t chunks, size_t page_limit);
  void SaveRest(Request& request);
  void Hold(const std::vector<uint32_t>& pages, bool quarantine);
  void Release();
  size_t HeldForSaves() const { return held_.size() - quarantined_.size(); }
  void RegisterPages(Request& request);
  void CheckLoaded(const Request& request);
  void CheckLateLoads();
  void CheckPage(uint32_t page, const char* when);
  void CheckSuspects(const std::vector<uint32_t>& pages, const char* when);
  void CheckAllPages(const char* when);
  void CountManager();

  // engine_idle.cc
  void Idle(const std::atomic<bool>& stop);
  void AwaitPages();
  void Reset();
  void Drain();

  const EngineOptions options_;
  Report* const report_;
  const SteadyClock clock_;
  Random random_;
  PromptSource prompts_;
  std::unique_ptr<KvMemory> memory_;
  std::unique_ptr<PagePool> pool_;
  std::unique_ptr<KvManager> manager_;
  std::unique_ptr<KvWorker> worker_;  // goes before the memory

  std::map<uint64_t, Request> requests_;  // by arrival
  std::unordered_map<std::string, uint64_t> by_id_;
  uint64_t added_ = 0;
  uint64_t next_idle_ = 0;
  uint64_t weights_ = 0;                                // version; a reset makes a new one
  std::unordered_map<uint32_t, uint32_t> held_;         // references that we took, by page
  std::unordered_map<uint32_t, uint32_t> quarantined_;  // those of them after a load
  int64_t longest_step_ns_ = 0;
};

}  // namespace shadowserve::soak

#endif  // SHADOWSERVE_TESTS_SOAK_ENGINE_H_
