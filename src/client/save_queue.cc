#include "client/save_queue.h"

#include <algorithm>
#include <iterator>

namespace shadowserve {

bool SaveQueue::Add(const ChunkKey& key, const TenantId& tenant, std::span<const uint32_t> pages,
                    int64_t deadline_ns) {
  if (full()) return false;
  const uint64_t id = next_id_++;
  queued_.push_back({id, key, tenant, {pages.begin(), pages.end()}});
  saves_.emplace(id, Save{{pages.begin(), pages.end()}, deadline_ns});
  page_count_ += pages.size();
  return true;
}

std::vector<SaveQueue::Item> SaveQueue::TakeQueued(size_t items_max) {
  const auto end = queued_.begin() + static_cast<ptrdiff_t>(std::min(items_max, queued_.size()));
  std::vector<Item> items(std::make_move_iterator(queued_.begin()), std::make_move_iterator(end));
  queued_.erase(queued_.begin(), end);
  return items;
}

bool SaveQueue::Confirm(uint64_t save_id, bool all, std::vector<uint32_t>* freed) {
  const auto found = saves_.find(save_id);
  if (found == saves_.end() || found->second.pages.empty()) return false;
  if (all) FreePages(found->second, freed);
  return true;
}

bool SaveQueue::Done(uint64_t save_id, std::vector<uint32_t>* freed) {
  const auto found = saves_.find(save_id);
  if (found == saves_.end()) return false;
  FreePages(found->second, freed);
  saves_.erase(found);
  return true;
}

size_t SaveQueue::Revoke(std::span<const Item> items, std::vector<uint32_t>* freed) {
  size_t revoked = 0;
  for (const Item& item : items) revoked += Done(item.save_id, freed) ? 1 : 0;
  return revoked;
}

size_t SaveQueue::RevokeExpired(int64_t now_ns, std::vector<uint32_t>* freed) {
  size_t revoked = 0;
  while (!saves_.empty() && saves_.begin()->second.deadline_ns <= now_ns) {
    const uint64_t id = saves_.begin()->first;
    std::erase_if(queued_, [id](const Item& item) { return item.save_id == id; });
    revoked += Done(id, freed) ? 1 : 0;
  }
  return revoked;
}

size_t SaveQueue::RevokeAll(std::vector<uint32_t>* freed) {
  const size_t revoked = saves_.size();
  for (auto& [id, save] : saves_) FreePages(save, freed);
  saves_.clear();
  queued_.clear();
  return revoked;
}

void SaveQueue::FreePages(Save& save, std::vector<uint32_t>* freed) {
  freed->insert(freed->end(), save.pages.begin(), save.pages.end());
  page_count_ -= save.pages.size();
  save.pages.clear();
}

}  // namespace shadowserve
