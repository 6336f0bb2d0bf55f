#include "client/lookup_table.h"

namespace shadowserve {

uint64_t LookupTable::Add(uint32_t keys, int64_t now_ns) {
  if (lookups_.size() >= kLookupsMax) return 0;
  const uint64_t id = next_id_++;
  lookups_.emplace(id, Lookup{keys, now_ns, State{Phase::kPending, 0}});
  ++pending_;
  return id;
}

bool LookupTable::Answer(uint64_t id, uint32_t chunks) {
  const auto found = lookups_.find(id);
  if (found == lookups_.end() || found->second.state.phase != Phase::kPending) return false;
  found->second.state = {Phase::kAnswered, chunks <= found->second.keys ? chunks : 0};
  --pending_;
  return true;
}

LookupTable::State LookupTable::Get(uint64_t id) const {
  const auto found = lookups_.find(id);
  return found == lookups_.end() ? State{} : found->second.state;
}

bool LookupTable::Expired(uint64_t id, int64_t now_ns, int64_t timeout_ns) const {
  const auto found = lookups_.find(id);
  return found != lookups_.end() && found->second.state.phase == Phase::kPending &&
         now_ns - found->second.since_ns >= timeout_ns;
}

void LookupTable::Remove(uint64_t id) {
  const auto found = lookups_.find(id);
  if (found == lookups_.end()) return;
  if (found->second.state.phase == Phase::kPending) --pending_;
  lookups_.erase(found);
}

void LookupTable::FailPending() {
  std::erase_if(lookups_,
                [](const auto& item) { return item.second.state.phase == Phase::kPending; });
  pending_ = 0;
}

}  // namespace shadowserve
