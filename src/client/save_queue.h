// Saves from begin_saves to the data plane's last word, and whether their pages are still held.
//
// A save's pages are held by the engine until they come out of one of the functions below, in
// `freed`. The answer to "were they held all the while?" is the presence of the save in this table,
// so both change together under the owner's lock: a save that left the table is answered "revoked"
// for ever, and its pages are freed at the same moment, not before. Freeing early is harmless for
// the engine (the data plane only reads); it only must never be followed by "held". Not
// thread-safe: guarded by its owner's lock. Time is passed in.
#ifndef SHADOWSERVE_CLIENT_SAVE_QUEUE_H_
#define SHADOWSERVE_CLIENT_SAVE_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "format/chunk_key.h"
#include "format/tenant.h"

namespace shadowserve {

class SaveQueue {
 public:
  struct Item {
    uint64_t save_id = 0;
    ChunkKey key{};
    TenantId tenant{};
    std::vector<uint32_t> pages;
  };

  explicit SaveQueue(size_t saves_max) : saves_max_(saves_max) {}

  // Holds the pages and queues the chunk. False when too many saves are on their way.
  bool Add(const ChunkKey& key, const TenantId& tenant, std::span<const uint32_t> pages,
           int64_t deadline_ns);
  bool full() const { return saves_.size() >= saves_max_; }
  // Up to `items_max` queued saves, now on their way.
  std::vector<Item> TakeQueued(size_t items_max);

  // The data plane read (part of) these pages: is what it read good? True = held; if `all`, the
  // pages are freed then and the save lives on without pages, to be counted.
  bool Confirm(uint64_t save_id, bool all, std::vector<uint32_t>* freed);
  // The last word on a save. False when it was revoked before.
  bool Done(uint64_t save_id, std::vector<uint32_t>* freed);
  // Returns how many saves were given up.
  size_t Revoke(std::span<const Item> items, std::vector<uint32_t>* freed);
  size_t RevokeExpired(int64_t now_ns, std::vector<uint32_t>* freed);
  size_t RevokeAll(std::vector<uint32_t>* freed);

  size_t size() const { return saves_.size(); }
  size_t queued() const { return queued_.size(); }
  size_t page_count() const { return page_count_; }

 private:
  struct Save {
    std::vector<uint32_t> pages;  // empty: read, waits for Done
    int64_t deadline_ns = 0;
  };
  void FreePages(Save& save, std::vector<uint32_t>* freed);

  const size_t saves_max_;
  std::map<uint64_t, Save> saves_;  // ids rise, and with them deadlines
  std::vector<Item> queued_;
  uint64_t next_id_ = 1;
  size_t page_count_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_SAVE_QUEUE_H_
