#include <algorithm>

#include "client/kv_manager.h"
#include "rpc/limits.h"

namespace shadowserve {

std::vector<uint32_t> KvManager::BeginSaves(const std::string& request_id, uint64_t computed_tokens,
                                            std::span<const uint32_t> page_ids) {
  std::vector<uint32_t> held;
  if (!options_.save) return held;
  const std::lock_guard lock(mu_);
  Request* const request = Find(request_id);
  if (request == nullptr) return held;
  SkipPresent(*request);
  const std::vector<ChunkKey>& keys = request->chain.keys();
  const size_t pages_per_chunk = kChunkTokens / options_.page_tokens;
  const size_t end = std::min({static_cast<size_t>(computed_tokens / kChunkTokens), keys.size(),
                               page_ids.size() / pages_per_chunk});
  if (request->next_save >= end) return held;
  const int64_t deadline_ns =
      clock_->NowNs() + static_cast<int64_t>(options_.save_deadline_s * 1e9);
  const bool healthy = session_->healthy();
  for (size_t& chunk = request->next_save; chunk < end; ++chunk) {
    const auto pages = page_ids.subspan(chunk * pages_per_chunk, pages_per_chunk);
    if (healthy && saves_.Add(keys[chunk], request->tenant, pages, deadline_ns)) {
      held.insert(held.end(), pages.begin(), pages.end());
    } else {
      ++stats_.saves_dropped;
    }
  }
  return held;
}

// What the lookup found is in the store already.
void KvManager::SkipPresent(Request& request) {
  if (request.load_failed || request.lookup_id == 0) return;
  const LookupTable::State state = lookups_.Get(request.lookup_id);
  if (state.phase == LookupTable::Phase::kAnswered) {
    request.next_save = std::max<size_t>(request.next_save, state.chunks);
  }
}

bool KvManager::Unsaved(const std::string& request_id) {
  if (!options_.save) return false;
  const std::lock_guard lock(mu_);
  Request* const request = Find(request_id);
  if (request == nullptr) return false;
  SkipPresent(*request);
  return request->next_save < request->chain.keys().size();
}

void KvManager::Flush() {
  const std::lock_guard lock(mu_);
  while (saves_.queued() > 0) {
    const std::vector<SaveQueue::Item> items = saves_.TakeQueued(kMaxItemsPerSave);
    v1::ClientMessage message;
    for (const SaveQueue::Item& item : items) {
      v1::SaveItem* const proto = message.mutable_save()->add_items();
      proto->set_save_id(item.save_id);
      proto->set_key(item.key.data(), item.key.size());
      proto->set_tenant(item.tenant.data(), item.tenant.size());
      proto->mutable_pages()->Assign(item.pages.begin(), item.pages.end());
    }
    if (!session_->Send(std::move(message)).ok()) {
      stats_.saves_dropped += saves_.Revoke(items, &freed_);
    }
  }
}

void KvManager::OnSaveRead(const v1::SaveRead& read) {
  v1::ClientMessage message;
  v1::SaveConfirm* const confirm = message.mutable_save_confirm();
  const auto decide = [&](uint64_t save_id, bool all) {
    if (saves_.Confirm(save_id, all, &freed_)) {
      confirm->add_held(save_id);
    } else {
      confirm->add_revoked(save_id);
    }
  };
  for (const uint64_t save_id : read.partial()) decide(save_id, false);
  for (const uint64_t save_id : read.save_ids()) decide(save_id, true);
  (void)session_->Send(std::move(message), {.overflow = Session::Overflow::kBreak});
}

void KvManager::OnSaveDone(const v1::SaveDone& done) {
  for (const uint64_t save_id : done.save_ids()) {
    if (!saves_.Done(save_id, &freed_)) continue;
    if (done.result() == "stored") {
      ++stats_.saves_stored;
    } else if (done.result() == "present") {
      ++stats_.saves_present;
    } else {
      ++stats_.saves_dropped;
    }
  }
}

}  // namespace shadowserve
