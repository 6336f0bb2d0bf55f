// Steps of the engine. Saves, references and checks of pages: engine_pages.cc; idle phases and the
// end: engine_idle.cc.
#include "engine.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <thread>

namespace shadowserve::soak {
namespace {

constexpr uint32_t kStepTokens = 2048;
// A fast GPU's; without it saves would be offered faster than any engine can, and be dropped.
constexpr std::chrono::microseconds kTokenTime{10};
constexpr uint32_t kLingerStepsMax = 12;
constexpr int64_t kIdleWaitUs = 1000;  // python/shadowserve/worker_half.py
// Requests that may find pages in the engine's own cache; the others are work for the data plane.
constexpr double kOwnCacheShare = 0.5;
constexpr double kAbortsPerStep = 0.01;
constexpr double kPreemptionsPerStep = 0.01;
constexpr double kFlipsPerStep = 0.01;
constexpr double kLookupTimeoutS = 0.1;

constexpr ModelShape kShape = {.layers = 4, .kv_heads = 4, .head_dim = 64};

Digest RootOfRun(uint64_t seed) {
  const std::string name = fmt::format("soak {}", seed);
  const std::array<std::string_view, 1> parts = {name};
  return RootKey(parts);
}

}  // namespace

Engine::Engine(EngineOptions options, Report* report)
    : options_(std::move(options)),
      report_(report),
      random_(options_.own_seed),
      prompts_(options_.seed, options_.own_seed + 1, options_.documents) {}

Result<std::unique_ptr<Engine>> Engine::Create(EngineOptions options, Report* report) {
  std::unique_ptr<Engine> engine(new Engine(std::move(options), report));
  SS_TRY(engine->Start());
  return engine;
}

Status Engine::Start() {
  const uint64_t pages = uint64_t{options_.chunks} * kChunkTokens / options_.page_tokens;
  SS_TRY_ASSIGN(memory_,
                KvMemory::Create(kShape, options_.page_tokens, pages, options_.pages_outermost));
  pool_ = std::make_unique<PagePool>(memory_.get(), Mix(options_.own_seed));

  KvManagerOptions manager;
  manager.data_plane = options_.data_plane;
  manager.engine_id = options_.name;
  manager.root = RootOfRun(options_.seed);
  manager.shape = kShape;
  manager.page_tokens = options_.page_tokens;
  manager.lookup_timeout_s = kLookupTimeoutS;
  manager.fetch_deadline_s = options_.fetch_deadline_s;
  manager.save_deadline_s = options_.save_deadline_s;
  manager.early_write = options_.early_write;
  manager.max_load_tokens = uint64_t{options_.chunks} * kChunkTokens * 3 / 4;
  manager.session.dead_ms = options_.dead_ms;
  SS_TRY_ASSIGN(manager_, KvManager::Create(std::move(manager)));

  KvWorkerOptions worker;
  worker.data_plane = options_.data_plane;
  worker.engine_id = options_.name;
  worker.shape = kShape;
  worker.devices = {"mapped"};
  worker.fetch_deadline_s = options_.fetch_deadline_s;
  worker.session.dead_ms = options_.dead_ms;
  SS_TRY_ASSIGN(worker_, KvWorker::Create(std::move(worker)));
  SS_TRY_ASSIGN(const std::string kind, worker_->Register(memory_->region(), memory_->layout()));
  if (kind != "mapped") return Status(StatusCode::kUnavailable, "the data plane does not answer");
  return OkStatus();
}

void Engine::Step() {
  const int64_t start_ns = clock_.NowNs();
  Release();
  Schedule();
  OfferSaves();
  worker_->BeginStep(manager_->Metadata());
  Compute();
  Collect();
  FinishDone();
  RandomEvents();
  CheckLateLoads();
  CheckPage(static_cast<uint32_t>(random_.Below(pool_->page_count())), "at random");
  longest_step_ns_ = std::max(longest_step_ns_, clock_.NowNs() - start_ns);
  KeepMax(&report_->step_ms_max, static_cast<uint64_t>(longest_step_ns_ / kNsPerMs));
}

void Engine::Add() {
  Prompt prompt = prompts_.Next();
  const uint64_t number = added_++;
  Request& request = requests_[number];
  request.id = fmt::format("{}-{}", options_.name, number);
  request.keys = GranuleKeys(RootOf(options_.seed, weights_, prompt.salt), prompt.tokens);
  request.tokens = std::move(prompt.tokens);
  request.use_cache = random_.Chance(kOwnCacheShare);
  by_id_[request.id] = number;
  std::vector<std::string> parts;
  if (!prompt.salt.empty()) parts.push_back(prompt.salt);
  manager_->AddRequest(request.id, request.tokens, {}, parts);
}

void Engine::Schedule() {
  for (auto& [number, request] : requests_) {
    if (request.state == State::kWaiting && !Admit(request)) break;
  }
}

// False when there is no room: those behind it wait too.
bool Engine::Admit(Request& request) {
  const auto count = static_cast<uint32_t>(request.tokens.size());
  const uint32_t page_tokens = options_.page_tokens;
  // The last token is always computed: the engine needs its logits.
  std::vector<uint64_t> hashes;
  for (uint32_t page = 1; request.use_cache && page <= (count - 1) / page_tokens; ++page) {
    hashes.push_back(request.keys[page * memory_->page_granules() - 1]);
  }
  std::vector<uint32_t> pages;
  const size_t cached = pool_->TouchCached(hashes, &pages);
  const auto computed = static_cast<uint32_t>(cached) * page_tokens;
  std::optional<uint64_t> matched = 0;
  if (!request.failed_once) matched = manager_->MatchedTokens(request.id, computed);
  const size_t page_count = (count + page_tokens - 1) / page_tokens;
  if (!matched || !pool_->Allocate(page_count - cached, &pages)) {
    pool_->Free(pages);
    return !matched;
  }
  const auto end = static_cast<uint32_t>(
      std::min<uint64_t>(computed + *matched, (count - 1) / kChunkTokens * kChunkTokens));
  request.pages = std::move(pages);
  CheckSuspects(request.pages, "when it was taken again after a failed load");
  request.computed = computed;
  if (cached > 0) ++report_->local_hits;
  if (end <= computed) {
    request.state = State::kRunning;
    if (count > kChunkTokens && cached == 0 && !std::exchange(request.missed, true))
      ++report_->misses;
    return true;
  }
  request.state = State::kLoading;
  request.load_from = computed;
  request.load_end = end;
  request.load_since_ns = clock_.NowNs();
  request.late_told = false;
  pool_->Open(std::span(request.pages).subspan(cached, end / page_tokens - cached));
  ++report_->loads;
  manager_->BeginLoad(request.id, request.pages, computed, end - computed);
  return true;
}

void Engine::Compute() {
  uint32_t budget = kStepTokens;
  for (auto& [number, request] : requests_) {
    const auto count = static_cast<uint32_t>(request.tokens.size());
    if (request.state != State::kRunning || request.computed >= count || budget == 0) continue;
    const uint32_t end = std::min(count, request.computed + budget);
    for (uint32_t granule = request.computed / kGranuleTokens; granule * kGranuleTokens < end;
         ++granule) {
      const uint32_t page = granule / memory_->page_granules();
      pool_->Write(request.pages[page], granule % memory_->page_granules(), request.keys[granule]);
    }
    report_->tokens_computed += end - request.computed;
    // Budgets are whole granules; only a prompt's end is not.
    budget -= std::min(
        budget, (end - request.computed + kGranuleTokens - 1) / kGranuleTokens * kGranuleTokens);
    request.computed = end;
    RegisterPages(request);
    if (end == count) request.linger_steps = static_cast<uint32_t>(random_.Below(kLingerStepsMax));
  }
  std::this_thread::sleep_for(kTokenTime * (kStepTokens - budget));
  if (budget == kStepTokens && worker_->Pending() == 0) {
    std::this_thread::sleep_for(std::chrono::microseconds(200));  // nothing to do: leave the core
  }
}

void Engine::Collect() {
  const bool idle = std::ranges::none_of(
      requests_, [](const auto& entry) { return entry.second.state == State::kRunning; });
  const CompletionTable::Finished finished = worker_->Poll(idle ? kIdleWaitUs : 0);
  for (const std::string& id : finished.received) LoadOver(id, false);
  for (const std::string& id : finished.failed) LoadOver(id, true);
}

void Engine::LoadOver(const std::string& id, bool failed) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end() || requests_.at(found->second).state != State::kLoading) {
    report_->Violation(fmt::format("{}: a load was reported that is not in flight", id));
    return;
  }
  Request& request = requests_.at(found->second);
  KeepMax(&report_->load_ms_max,
          static_cast<uint64_t>((clock_.NowNs() - request.load_since_ns) / kNsPerMs));
  ++(failed ? report_->loads_failed : report_->loads_good);
  const std::vector<uint32_t> reachable = manager_->LoadFinished(id, failed);
  if (options_.breaking != Break::kLateWrite) Hold(reachable, true);
  if (request.aborted) {
    pool_->Free(request.pages);
    requests_.erase(found->second);
    by_id_.erase(found);
    ++report_->requests;
    ++report_->aborted;
  } else if (failed) {
    request.failed_once = true;
    Preempt(request);
  } else {
    CheckLoaded(request);
    report_->tokens_loaded += request.load_end - request.load_from;
    request.computed = request.load_end;
    request.state = State::kRunning;
    RegisterPages(request);
  }
}

void Engine::Preempt(Request& request) {
  pool_->Free(request.pages);
  request.pages.clear();
  request.computed = 0;
  request.state = State::kWaiting;
}

void Engine::FinishDone() {
  std::vector<std::string> done;
  for (auto& [number, request] : requests_) {
    if (request.state != State::kRunning || request.computed < request.tokens.size()) continue;
    if (request.linger_steps-- == 0) done.push_back(request.id);
  }
  for (const std::string& id : done) Finish(id, false);
}

void Engine::Finish(const std::string& id, bool aborted) {
  const auto found = by_id_.find(id);
  Request& request = requests_.at(found->second);
  if (request.state == State::kLoading) {
    manager_->CancelLoad(id);
    manager_->FinishRequest(id);
    request.aborted = true;
    return;
  }
  if (request.state == State::kRunning) SaveRest(request);
  CheckSuspects(request.pages, "at the end of the request that took it after a failed load");
  manager_->FinishRequest(id);
  pool_->Free(request.pages);
  requests_.erase(found->second);
  by_id_.erase(found);
  ++report_->requests;
  if (aborted) ++report_->aborted;
}

void Engine::RandomEvents() {
  if (requests_.empty()) return;
  auto chosen = requests_.begin();
  std::advance(chosen, static_cast<ptrdiff_t>(random_.Below(requests_.size())));
  Request& request = chosen->second;
  if (random_.Chance(kPreemptionsPerStep) && request.state == State::kRunning) {
    ++report_->preemptions;
    Preempt(request);
  } else if (random_.Chance(kAbortsPerStep) && !request.aborted) {
    Finish(std::string(request.id), true);
  }
  if (options_.breaking == Break::kFlip && random_.Chance(kFlipsPerStep)) {
    memory_->Flip(static_cast<uint32_t>(random_.Below(pool_->page_count())));
  }
}

}  // namespace shadowserve::soak
