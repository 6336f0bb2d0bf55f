// PagePool: the engine's pages, as vLLM's BlockPool has them: references, a queue of free pages
// that is used from its front, contents that stay findable by their hash until the page is taken.
//
// Besides, it knows what every page must hold at any moment. A page's content changes only when the
// engine writes it or a load into it was begun; such a page is OPEN until the load succeeded, or
// until the last reference to it is dropped, when it is overwritten with noise. So a write that
// comes late, by anybody, into any page that is not open is found by Check. Not thread-safe.
#ifndef SHADOWSERVE_TESTS_SOAK_PAGE_POOL_H_
#define SHADOWSERVE_TESTS_SOAK_PAGE_POOL_H_

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv_content.h"

namespace shadowserve::soak {

class PagePool {
 public:
  // Fills all pages with noise. `memory` outlives the pool.
  PagePool(KvMemory* memory, uint64_t seed);

  size_t page_count() const { return pages_.size(); }
  // Pages without a reference.
  size_t free_count() const { return free_count_; }

  // Appends `count` pages with one reference each; false, and nothing changed, when so many are not
  // free.
  bool Allocate(size_t count, std::vector<uint32_t>* pages);
  void Touch(std::span<const uint32_t> pages);
  // The last page becomes the first to be taken again, as in vLLM.
  void Free(std::span<const uint32_t> pages);

  // How many of these leading hashes are found; their pages are appended, with a reference each.
  size_t TouchCached(std::span<const uint64_t> hashes, std::vector<uint32_t>* pages);
  void SetHash(uint32_t page, uint64_t hash);
  void ForgetHashes();

  // The engine computes a granule.
  void Write(uint32_t page, uint32_t granule, ContentKey key);
  void Open(std::span<const uint32_t> pages);
  // A load wrote this granule, so they say.
  void Loaded(uint32_t page, uint32_t granule, ContentKey key);
  void Close(uint32_t page);

  bool open(uint32_t page) const { return pages_[page].open; }
  // Does a page that is not open hold what it must? Its bytes, all of them.
  bool Check(uint32_t page) const;
  // True for a page that was freed open, when it is taken again and when it is free again: the
  // times to look whether a late write hit it. Called at those times, and only then.
  bool TakeSuspect(uint32_t page);
  // Writes what a page must hold, so that one wrong write is found once.
  void Restore(uint32_t page);
  KvMemory& memory() { return *memory_; }

 private:
  struct Page {
    uint32_t references = 0;
    uint32_t queue_entry = 0;  // a free page's entry in free_ counts if it has this number
    bool open = false;
    uint8_t suspect = 0;  // looks that are due
    uint64_t hash = 0;    // 0: none
    std::vector<ContentKey> keys;
  };
  struct Entry {
    uint32_t page = 0;
    uint32_t number = 0;
  };

  void FillWithNoise(uint32_t page);
  void DropHash(Page& page);
  void Reference(uint32_t page);

  KvMemory* const memory_;
  Random random_;
  std::vector<Page> pages_;
  std::deque<Entry> free_;
  size_t free_count_ = 0;
  std::unordered_map<uint64_t, uint32_t> by_hash_;
};

}  // namespace shadowserve::soak

#endif  // SHADOWSERVE_TESTS_SOAK_PAGE_POOL_H_
