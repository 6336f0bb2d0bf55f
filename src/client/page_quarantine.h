// Pages that a late write of the data plane could still reach (design.md, "Fencing").
//
// An attempt's pages stay until the data plane reported it drained, or until the very process that
// was given the attempt has ended. A broken stream says nothing about writes, and neither does a
// new incarnation: the old process may be stopped and wake up. Without a pidfd only a drain report
// frees pages: they are counted, and lost to the engine if it never comes, but never written by
// surprise. Not thread-safe: guarded by its owner's lock.
#ifndef SHADOWSERVE_CLIENT_PAGE_QUARANTINE_H_
#define SHADOWSERVE_CLIENT_PAGE_QUARANTINE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

#include "client/plane_process.h"

namespace shadowserve {

class PageQuarantine {
 public:
  // REQUIRES: process is not null.
  void Hold(uint64_t attempt, std::vector<uint32_t> pages, PlaneProcessPtr process);
  // The report of `incarnation` itself. Frees the attempt's pages if it was given to that process.
  void Drained(uint64_t attempt, uint64_t incarnation, std::vector<uint32_t>* freed);
  // Frees what processes that have ended were given. One poll(2) per process that holds something.
  void ReapExited(std::vector<uint32_t>* freed);
  void AddUndrained(uint64_t incarnation, std::vector<uint64_t>* attempts) const;

  size_t page_count() const { return page_count_; }
  // Pages that nothing but a drain report of an incarnation other than `current` can free.
  size_t stranded_page_count(uint64_t current) const;
  bool empty() const { return held_.empty(); }

 private:
  struct Entry {
    std::vector<uint32_t> pages;
    PlaneProcessPtr process;
  };
  using Entries = std::map<uint64_t, Entry>;
  Entries::iterator Free(Entries::iterator entry, std::vector<uint32_t>* freed);

  Entries held_;  // by attempt
  size_t page_count_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_PAGE_QUARANTINE_H_
