#include "client/completion_table.h"

namespace shadowserve {

void CompletionTable::Expect(const Key& key, std::string request_id, int64_t deadline_ns) {
  if (key.first == last_.first && key.second <= last_.second) return;
  last_ = key;
  const auto expected =
      expected_.insert_or_assign(key, Expected{std::move(request_id), deadline_ns});
  const auto early = early_.find(key);
  if (early == early_.end()) return;
  const bool ok = early->second;
  early_.erase(early);
  Finish(expected.first, ok);
}

void CompletionTable::Complete(const Key& key, bool ok) {
  const auto expected = expected_.find(key);
  if (expected != expected_.end()) {
    Finish(expected, ok);
    return;
  }
  const bool late = key.first == last_.first && key.second <= last_.second;
  if (late) return;
  // The lowest attempt is the oldest. One that is pushed out or never expected costs nothing more.
  early_.try_emplace(key, ok);
  if (early_.size() > kEarlyMax) early_.erase(early_.begin());
}

void CompletionTable::Fail(const Key& key) {
  const auto expected = expected_.find(key);
  if (expected != expected_.end()) Finish(expected, false);
}

void CompletionTable::FailAll() {
  for (auto expected = expected_.begin(); expected != expected_.end();) {
    expected = Finish(expected, false);
  }
}

std::vector<CompletionTable::Key> CompletionTable::Expire(int64_t now_ns) {
  std::vector<Key> expired;
  for (auto expected = expected_.begin(); expected != expected_.end();) {
    if (now_ns < expected->second.deadline_ns) {
      ++expected;
      continue;
    }
    expired.push_back(expected->first);
    expected = Finish(expected, false);
  }
  return expired;
}

CompletionTable::Finished CompletionTable::Take() {
  return std::exchange(finished_, {});
}

CompletionTable::Expectations::iterator CompletionTable::Finish(Expectations::iterator expected,
                                                                bool ok) {
  (ok ? finished_.received : finished_.failed).push_back(std::move(expected->second.request_id));
  return expected_.erase(expected);
}

}  // namespace shadowserve
