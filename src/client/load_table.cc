#include "client/load_table.h"

#include <utility>

namespace shadowserve {

Load& LoadTable::Add(Load load) {
  const uint64_t attempt = load.attempt;
  tokens_ += load.tokens;
  attempt_of_[load.request_id] = attempt;
  new_loads_.push_back({attempt, load.request_id});
  return loads_.insert_or_assign(attempt, std::move(load)).first->second;
}

bool LoadTable::Contains(std::string_view request_id) const {
  return attempt_of_.contains(std::string(request_id));
}

Load* LoadTable::Find(uint64_t attempt) {
  const auto found = loads_.find(attempt);
  return found == loads_.end() ? nullptr : &found->second;
}

Load* LoadTable::FindByRequest(std::string_view request_id) {
  const auto found = attempt_of_.find(std::string(request_id));
  return found == attempt_of_.end() ? nullptr : Find(found->second);
}

std::optional<Load> LoadTable::Take(std::string_view request_id) {
  const auto found = attempt_of_.find(std::string(request_id));
  if (found == attempt_of_.end()) return std::nullopt;
  auto node = loads_.extract(found->second);
  attempt_of_.erase(found);
  if (node.empty()) return std::nullopt;
  tokens_ -= node.mapped().tokens;
  return std::move(node.mapped());
}

void LoadTable::Fail(Load& load) {
  if (load.failed) return;
  load.failed = true;
  new_failures_.push_back(load.attempt);
}

void LoadTable::FailAll() {
  for (auto& [attempt, load] : loads_) Fail(load);
}

std::vector<uint64_t> LoadTable::Expired(int64_t now_ns) const {
  std::vector<uint64_t> expired;
  for (const auto& [attempt, load] : loads_) {
    if (!load.failed && now_ns >= load.deadline_ns) expired.push_back(attempt);
  }
  return expired;
}

void LoadTable::AddUndrained(uint64_t incarnation, std::vector<uint64_t>* attempts) const {
  for (const auto& [attempt, load] : loads_) {
    if (!load.drained && load.process != nullptr && load.process->incarnation == incarnation) {
      attempts->push_back(attempt);
    }
  }
}

void LoadTable::TakeStep(StepMetadata* step) {
  step->loads = std::exchange(new_loads_, {});
  step->failed = std::exchange(new_failures_, {});
}

}  // namespace shadowserve
