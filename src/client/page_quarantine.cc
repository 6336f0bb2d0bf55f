#include "client/page_quarantine.h"

#include <utility>

namespace shadowserve {

void PageQuarantine::Hold(uint64_t attempt, std::vector<uint32_t> pages, PlaneProcessPtr process) {
  page_count_ += pages.size();
  held_.insert_or_assign(attempt, Entry{std::move(pages), std::move(process)});
}

void PageQuarantine::Drained(uint64_t attempt, uint64_t incarnation, std::vector<uint32_t>* freed) {
  const auto found = held_.find(attempt);
  if (found == held_.end() || found->second.process->incarnation != incarnation) return;
  Free(found, freed);
}

void PageQuarantine::ReapExited(std::vector<uint32_t>* freed) {
  std::map<const PlaneProcess*, bool> exited;
  for (auto entry = held_.begin(); entry != held_.end();) {
    const PlaneProcess* const process = entry->second.process.get();
    const auto [known, is_new] = exited.try_emplace(process, false);
    if (is_new) known->second = process->HasExited();
    entry = known->second ? Free(entry, freed) : std::next(entry);
  }
}

void PageQuarantine::AddUndrained(uint64_t incarnation, std::vector<uint64_t>* attempts) const {
  for (const auto& [attempt, entry] : held_) {
    if (entry.process->incarnation == incarnation) attempts->push_back(attempt);
  }
}

size_t PageQuarantine::stranded_page_count(uint64_t current) const {
  size_t count = 0;
  for (const auto& [attempt, entry] : held_) {
    if (!entry.process->pidfd.valid() && entry.process->incarnation != current) {
      count += entry.pages.size();
    }
  }
  return count;
}

PageQuarantine::Entries::iterator PageQuarantine::Free(Entries::iterator entry,
                                                       std::vector<uint32_t>* freed) {
  freed->insert(freed->end(), entry->second.pages.begin(), entry->second.pages.end());
  page_count_ -= entry->second.pages.size();
  return held_.erase(entry);
}

}  // namespace shadowserve
