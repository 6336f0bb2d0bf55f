// Making, requests, lookups. Loads: kv_manager_loads.cc; saves: kv_manager_saves.cc; messages and
// connections: kv_manager_session.cc.
#include "client/kv_manager.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/log.h"
#include "client/random.h"
#include "rpc/convert.h"
#include "rpc/limits.h"

namespace shadowserve {
namespace {

constexpr double kSecondsMax = 86'400;

Status CheckSeconds(std::string_view name, double value) {
  if (std::isfinite(value) && value > 0 && value <= kSecondsMax) return OkStatus();
  return Status(StatusCode::kInvalidArgument,
                fmt::format("{} {}: takes more than 0 and at most {} s", name, value, kSecondsMax));
}

Status CheckOptions(const KvManagerOptions& options) {
  v1::SchedulerHello hello;
  hello.set_protocol(kProtocolVersion);
  hello.set_engine_id(options.engine_id);
  hello.set_world_size(options.world_size);
  hello.set_page_tokens(options.page_tokens);
  hello.set_profile(options.profile);
  SS_TRY(CheckHello(hello));
  SS_TRY(CheckModelShape(options.shape));
  SS_TRY(CheckSeconds("lookup_timeout_s", options.lookup_timeout_s));
  SS_TRY(CheckSeconds("fetch_deadline_s", options.fetch_deadline_s));
  return CheckSeconds("save_deadline_s", options.save_deadline_s);
}

int64_t ToNs(double seconds) {
  return static_cast<int64_t>(seconds * 1e9);
}

}  // namespace

Result<std::unique_ptr<KvManager>> KvManager::Create(KvManagerOptions options) {
  Result<Address> address = ParseAddress(options.data_plane);
  if (!address.ok()) return std::move(address).status().WithContext("data_plane");
  SS_TRY(CheckOptions(options));
  SS_TRY(CheckTlsFiles(options.tls, *address));
  SS_TRY(ReadTlsFiles(options.tls).status());
  options.session.address = *address;
  options.session.tls = options.tls;
  options.session.name = "ss-sched";
  if (options.ask_process == nullptr) {
    options.ask_process = [](const std::string& path) {
      constexpr int kAskMs = 500;
      return ExchangeSide(path, MakeSideToken(), -1, kAskMs);
    };
  }
  std::unique_ptr<KvManager> manager(new KvManager(std::move(options)));
  SessionListener* const listener = manager.get();
  manager->session_ = std::make_unique<Session>(manager->options_.session, listener);
  manager->session_->Start();
  return manager;
}

KvManager::KvManager(KvManagerOptions options)
    : options_(std::move(options)),
      clock_(options_.clock != nullptr ? options_.clock : &steady_clock_),
      epoch_(RandomNumber()),
      root_(options_.root),
      saves_(options_.saves_max) {}

KvManager::~KvManager() {
  Close();
}

void KvManager::Close() {
  if (session_ != nullptr) session_->Close();
}

Result<bool> KvManager::WaitReady(double timeout_s) {
  const double bounded_s = std::isfinite(timeout_s) ? std::clamp(timeout_s, 0.0, kSecondsMax) : 0;
  return session_->WaitReady(static_cast<int64_t>(bounded_s * 1e3));
}

KvManager::Request* KvManager::Find(const std::string& request_id) {
  const auto found = requests_.find(request_id);
  return found == requests_.end() ? nullptr : &found->second;
}

void KvManager::AddRequest(const std::string& request_id, std::span<const uint32_t> tokens,
                           std::vector<KeyExtra> extras, std::span<const std::string> parts,
                           std::string_view salt) {
  std::string name_space;
  {
    const std::lock_guard lock(mu_);
    if (requests_.contains(request_id) || requests_.size() >= kRequestsMax) return;
    name_space = name_space_;
  }
  Result<KeyChain> chain = KeyChain::Make(RequestRoot(root_, name_space, parts), std::move(extras));
  if (!chain.ok()) {
    Log(LogLevel::kWarn, "request {} is not cached: {}", request_id, chain.status().message());
    return;
  }
  chain->Extend(tokens);
  const TenantId tenant = TenantOf(salt);

  const std::lock_guard lock(mu_);
  Request& request = requests_[request_id];
  request.chain = std::move(*chain);
  request.tenant = tenant;
  request.prompt_tokens = static_cast<uint32_t>(std::min<size_t>(tokens.size(), UINT32_MAX));
  if (request.prompt_tokens < options_.min_hit_tokens || request.prompt_tokens == 0) return;
  // One token at least is left to compute, so the last chunk of an exact fit is never asked for.
  const bool worth_asking = request.prompt_tokens > kChunkTokens;
  if (worth_asking && !StartLookup(request)) ++stats_.lookups_timeout;
}

bool KvManager::StartLookup(Request& request) {
  if (!session_->healthy()) return false;
  const size_t keys = std::min<size_t>(
      {request.chain.keys().size(), kMaxKeysPerLookup, (request.prompt_tokens - 1) / kChunkTokens});
  const uint64_t id = lookups_.Add(static_cast<uint32_t>(keys), clock_->NowNs());
  if (id == 0) return false;
  v1::ClientMessage message;
  v1::Lookup* const lookup = message.mutable_lookup();
  lookup->set_lookup_id(id);
  lookup->set_keys(KeysToBytes(std::span(request.chain.keys()).first(keys)));
  if (!session_->Send(std::move(message), {.answer_owed = true}).ok()) {
    lookups_.Remove(id);
    return false;
  }
  request.lookup_id = id;
  return true;
}

void KvManager::ExtendRequest(const std::string& request_id, std::span<const uint32_t> tokens) {
  // Only the owner thread changes chains; the lock is for the map.
  Request* request = nullptr;
  {
    const std::lock_guard lock(mu_);
    request = Find(request_id);
  }
  if (request != nullptr) request->chain.Extend(tokens);
}

void KvManager::FinishRequest(const std::string& request_id) {
  const std::lock_guard lock(mu_);
  const auto found = requests_.find(request_id);
  if (found == requests_.end()) return;
  lookups_.Remove(found->second.lookup_id);
  requests_.erase(found);
}

void KvManager::NewNamespace() {
  std::string fresh = RandomBytes(16);
  const std::lock_guard lock(mu_);
  name_space_ = std::move(fresh);
}

std::optional<uint64_t> KvManager::MatchedTokens(const std::string& request_id,
                                                 uint64_t computed_tokens) {
  std::unique_lock lock(mu_);
  Request* const request = Find(request_id);
  if (request == nullptr || request->load_failed || request->lookup_id == 0) return 0;
  const uint64_t id = request->lookup_id;
  const auto answered = [&] { return lookups_.Get(id).phase != LookupTable::Phase::kPending; };
  if (!answered() && !session_->healthy()) GiveUpLookup(*request);
  if (!answered() && !request->asked) {
    request->asked = true;
    answered_.wait_for(lock, std::chrono::microseconds(options_.answer_wait_us), answered);
  }
  if (answered()) return UsableTokens(*request, computed_tokens);
  if (!lookups_.Expired(id, clock_->NowNs(), ToNs(options_.lookup_timeout_s))) return std::nullopt;
  GiveUpLookup(*request);
  return 0;
}

void KvManager::GiveUpLookup(Request& request) {
  lookups_.Remove(request.lookup_id);
  request.lookup_id = 0;
  ++stats_.lookups_timeout;
}

// Of an answered lookup: what the engine may be offered now.
uint64_t KvManager::UsableTokens(Request& request, uint64_t computed_tokens) {
  const LookupTable::State state = lookups_.Get(request.lookup_id);
  if (state.phase != LookupTable::Phase::kAnswered) {
    request.lookup_id = 0;
    return 0;
  }
  uint64_t end = uint64_t{state.chunks} * kChunkTokens;
  if (computed_tokens >= end || loads_.full()) return 0;
  if (loads_.tokens() + (end - computed_tokens) > options_.max_load_tokens) {
    // A prefix that could never be offered as a whole is offered in part when nothing else loads.
    if (loads_.size() > 0) return 0;
    end = (computed_tokens + options_.max_load_tokens) / kChunkTokens * kChunkTokens;
    if (computed_tokens >= end) return 0;
  }
  return end - computed_tokens;
}

KvManagerStats KvManager::TakeStats() {
  const std::lock_guard lock(mu_);
  KvManagerStats stats = std::exchange(stats_, {});
  const uint64_t breaks = session_->breaks();
  stats.reconnects = breaks - breaks_told_;
  breaks_told_ = breaks;
  stats.quarantined_pages = quarantine_.page_count();
  return stats;
}

}  // namespace shadowserve
