#include "page_pool.h"

#include "base/check.h"

namespace shadowserve::soak {

PagePool::PagePool(KvMemory* memory, uint64_t seed)
    : memory_(memory), random_(seed), pages_(memory->layout().page_count) {
  for (uint32_t page = 0; page < pages_.size(); ++page) {
    pages_[page].keys.resize(memory->page_granules());
    FillWithNoise(page);
    free_.push_back({page, 0});
  }
  free_count_ = pages_.size();
}

void PagePool::FillWithNoise(uint32_t page) {
  for (uint32_t granule = 0; granule < memory_->page_granules(); ++granule) {
    Write(page, granule, random_.Next());
  }
  pages_[page].open = false;
  pages_[page].suspect = 2;
}

void PagePool::DropHash(Page& page) {
  if (page.hash != 0) by_hash_.erase(page.hash);
  page.hash = 0;
}

// A free page leaves the queue by its number.
void PagePool::Reference(uint32_t page) {
  if (pages_[page].references++ > 0) return;
  ++pages_[page].queue_entry;
  --free_count_;
}

bool PagePool::Allocate(size_t count, std::vector<uint32_t>* pages) {
  if (count > free_count_) return false;
  while (count > 0) {
    const Entry entry = free_.front();
    free_.pop_front();
    Page& page = pages_[entry.page];
    if (page.references > 0 || page.queue_entry != entry.number) continue;
    DropHash(page);
    Reference(entry.page);
    pages->push_back(entry.page);
    --count;
  }
  return true;
}

void PagePool::Touch(std::span<const uint32_t> pages) {
  for (const uint32_t page : pages) Reference(page);
}

void PagePool::Free(std::span<const uint32_t> pages) {
  for (size_t i = pages.size(); i-- > 0;) {
    Page& page = pages_[pages[i]];
    SS_CHECK(page.references > 0, "a page was freed that nobody holds");
    if (--page.references > 0) continue;
    ++free_count_;
    if (page.open) FillWithNoise(pages[i]);
    free_.push_back({pages[i], page.queue_entry});
  }
}

size_t PagePool::TouchCached(std::span<const uint64_t> hashes, std::vector<uint32_t>* pages) {
  size_t count = 0;
  for (; count < hashes.size(); ++count) {
    const auto found = by_hash_.find(hashes[count]);
    if (found == by_hash_.end()) break;
    Reference(found->second);
    pages->push_back(found->second);
  }
  return count;
}

void PagePool::SetHash(uint32_t page, uint64_t hash) {
  if (pages_[page].hash != 0 || !by_hash_.try_emplace(hash, page).second) return;
  pages_[page].hash = hash;
}

void PagePool::ForgetHashes() {
  for (Page& page : pages_) DropHash(page);
}

void PagePool::Write(uint32_t page, uint32_t granule, ContentKey key) {
  memory_->Write(page, granule, key);
  pages_[page].keys[granule] = key;
}

void PagePool::Open(std::span<const uint32_t> pages) {
  for (const uint32_t page : pages) pages_[page].open = true;
}

void PagePool::Loaded(uint32_t page, uint32_t granule, ContentKey key) {
  pages_[page].keys[granule] = key;
}

void PagePool::Close(uint32_t page) {
  pages_[page].open = false;
}

bool PagePool::TakeSuspect(uint32_t page) {
  if (pages_[page].suspect == 0) return false;
  --pages_[page].suspect;
  return true;
}

void PagePool::Restore(uint32_t page) {
  for (uint32_t granule = 0; granule < memory_->page_granules(); ++granule) {
    memory_->Write(page, granule, pages_[page].keys[granule]);
  }
}

bool PagePool::Check(uint32_t page) const {
  for (uint32_t granule = 0; granule < memory_->page_granules(); ++granule) {
    if (!memory_->Holds(page, granule, pages_[page].keys[granule])) return false;
  }
  return true;
}

}  // namespace shadowserve::soak
