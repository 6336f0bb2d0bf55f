#include <algorithm>

#include "base/log.h"
#include "client/kv_manager.h"
#include "rpc/convert.h"
#include "rpc/limits.h"

namespace shadowserve {
namespace {

// The workers' deadline comes first: they know which ranks finished.
constexpr int64_t kDeadlineGraceNs = 500 * kNsPerMs;

}  // namespace

void KvManager::BeginLoad(const std::string& request_id, std::span<const uint32_t> page_ids,
                          uint64_t computed_tokens, uint64_t external_tokens) {
  const std::lock_guard lock(mu_);
  if (loads_.Contains(request_id)) return;  // its report is still to come
  const int64_t deadline_ns = static_cast<int64_t>(options_.fetch_deadline_s * 1e9);
  Load load;
  load.attempt = loads_.NextAttempt();
  load.request_id = request_id;
  load.tokens = static_cast<uint32_t>(std::min<uint64_t>(external_tokens, UINT32_MAX));
  load.deadline_ns = clock_->NowNs() + deadline_ns + kDeadlineGraceNs;
  const Request* const request = Find(request_id);
  Status sent = Status(StatusCode::kInvalidArgument, "the request is not known");
  if (request != nullptr) {
    sent = SendLoad(load, *request, page_ids, computed_tokens, external_tokens);
  }
  if (sent.ok()) {
    const auto first = static_cast<size_t>(computed_tokens / options_.page_tokens);
    const auto end = static_cast<size_t>(
        (computed_tokens + external_tokens + options_.page_tokens - 1) / options_.page_tokens);
    load.pages.assign(page_ids.begin() + static_cast<ptrdiff_t>(first),
                      page_ids.begin() + static_cast<ptrdiff_t>(end));
    load.process = process_;
    loads_.Add(std::move(load));
    return;
  }
  Log(LogLevel::kDebug, "load {} {} not started: {}", load.attempt, request_id, sent.message());
  load.drained = true;  // nobody ever heard of it
  loads_.Fail(loads_.Add(std::move(load)));
}

Status KvManager::SendLoad(const Load& load, const Request& request,
                           std::span<const uint32_t> page_ids, uint64_t computed_tokens,
                           uint64_t external_tokens) {
  const std::vector<ChunkKey>& keys = request.chain.keys();
  const uint64_t first_chunk = computed_tokens / kChunkTokens;
  const uint64_t end_token = computed_tokens + external_tokens;
  const uint64_t pages_per_chunk = kChunkTokens / options_.page_tokens;
  if (external_tokens == 0 || end_token < computed_tokens || end_token % kChunkTokens != 0 ||
      end_token / kChunkTokens > keys.size() ||
      end_token / kChunkTokens - first_chunk > kMaxKeysPerLoad ||
      end_token / options_.page_tokens > page_ids.size()) {
    return Status(StatusCode::kInvalidArgument, "tokens, keys and pages do not fit together");
  }
  const uint64_t end_chunk = end_token / kChunkTokens;
  v1::ClientMessage message;
  v1::Load* const proto = message.mutable_load();
  proto->set_attempt(load.attempt);
  proto->set_request_id(load.request_id.substr(0, kMaxIdBytes));
  proto->set_keys(KeysToBytes(
      std::span(keys).subspan(first_chunk, static_cast<size_t>(end_chunk - first_chunk))));
  const auto pages =
      page_ids.subspan(first_chunk * pages_per_chunk, (end_chunk - first_chunk) * pages_per_chunk);
  proto->mutable_pages()->Assign(pages.begin(), pages.end());
  proto->set_first_token(static_cast<uint32_t>(computed_tokens % kChunkTokens));
  proto->set_granted(options_.early_write);
  proto->set_deadline_ms(static_cast<uint32_t>(std::max(1.0, options_.fetch_deadline_s * 1e3)));
  return session_->Send(std::move(message));
}

void KvManager::SendCancel(uint64_t attempt) {
  v1::ClientMessage message;
  message.mutable_cancel()->set_epoch(epoch_);
  message.mutable_cancel()->add_attempts(attempt);
  // Without a connection nothing is lost: the data plane cancels what belongs to a broken stream,
  // and the pages stay held until it says so.
  (void)session_->Send(std::move(message));
}

bool KvManager::CancelLoad(const std::string& request_id) {
  const std::lock_guard lock(mu_);
  const Load* const load = loads_.FindByRequest(request_id);
  if (load == nullptr) return false;
  if (!load->drained) SendCancel(load->attempt);
  return true;
}

bool KvManager::Loading(const std::string& request_id) {
  const std::lock_guard lock(mu_);
  return loads_.Contains(request_id);
}

std::vector<uint32_t> KvManager::LoadFinished(const std::string& request_id, bool failed) {
  const std::lock_guard lock(mu_);
  std::optional<Load> load = loads_.Take(request_id);
  if (!load.has_value()) return {};
  if (failed) {
    ++stats_.loads_failed;
    if (Request* const request = Find(request_id); request != nullptr) {
      request->load_failed = true;
      request->next_save = 0;  // a chunk that was bad is stored anew
    }
  } else {
    ++stats_.loads_ok;
    stats_.load_tokens += load->tokens;
  }
  if (load->drained || load->process == nullptr) return {};
  if (failed) SendCancel(load->attempt);
  std::vector<uint32_t> pages = load->pages;
  quarantine_.Hold(load->attempt, std::move(load->pages), std::move(load->process));
  return pages;
}

void KvManager::OnDrained(const v1::Drained& drained) {
  if (process_ == nullptr) return;
  for (const uint64_t attempt : drained.attempts()) {
    quarantine_.Drained(attempt, process_->incarnation, &freed_);
    Load* const load = loads_.Find(attempt);
    if (load == nullptr || load->process == nullptr ||
        load->process->incarnation != process_->incarnation) {
      continue;
    }
    load->drained = true;
    // A rank whose stream broke never hears of a failure: it is told by the metadata.
    if (drained.status() != 0) loads_.Fail(*load);
  }
}

std::vector<uint32_t> KvManager::TakeReleases() {
  const std::lock_guard lock(mu_);
  quarantine_.ReapExited(&freed_);
  if (saves_.size() > 0) stats_.saves_dropped += saves_.RevokeExpired(clock_->NowNs(), &freed_);
  return std::exchange(freed_, {});
}

size_t KvManager::HeldPages() {
  const std::lock_guard lock(mu_);
  return quarantine_.page_count() + saves_.page_count() + freed_.size();
}

std::string KvManager::Metadata() {
  const std::lock_guard lock(mu_);
  for (const uint64_t attempt : loads_.Expired(clock_->NowNs())) {
    SendCancel(attempt);
    loads_.Fail(*loads_.Find(attempt));
  }
  StepMetadata step;
  step.epoch = epoch_;
  step.grant = !options_.early_write;
  loads_.TakeStep(&step);
  return EncodeStep(step);
}

}  // namespace shadowserve
