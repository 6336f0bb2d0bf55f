#include "store/redis_stats.h"

#include <charconv>

#include "store/resp_writer.h"

namespace shadowserve {

RedisStats::RedisStats(RedisServers* servers, int64_t timeout_ns, uint64_t database)
    : servers_(servers),
      timeout_ns_(timeout_ns),
      keyspace_("db" + std::to_string(database) + ":keys="),
      question_text_(RespCommand({"INFO"})) {}

uint64_t InfoNumber(std::string_view info, std::string_view name) {
  for (size_t at = info.find(name); at != std::string_view::npos; at = info.find(name, at + 1)) {
    if (at > 0 && info[at - 1] != '\n') continue;
    uint64_t number = 0;
    (void)std::from_chars(info.data() + at + name.size(), info.data() + info.size(), number);
    return number;
  }
  return 0;
}

StoreStats RedisStats::Get(int64_t now_ns) {
  const bool old = asked_ns_ == INT64_MIN || now_ns - asked_ns_ >= kAgeNs;
  if (!asking_ && old) {
    asked_ns_ = now_ns_ = now_ns;
    sum_ = {};
    to_ask_ = servers_->Masters();
    AskNext();
  }
  return last_;
}

void RedisStats::AskNext() {
  while (!to_ask_.empty() && !to_ask_.back()->usable()) to_ask_.pop_back();
  asking_ = !to_ask_.empty();
  if (!asking_) {
    last_ = sum_;
    return;
  }
  question_ = RedisCommand{};
  question_.pieces[0] = std::as_bytes(std::span(question_text_));
  question_.collector = &collector_;
  question_.deadline_ns = now_ns_ + timeout_ns_;
  question_.listener = this;
  RedisNode* const node = to_ask_.back();
  to_ask_.pop_back();
  node->Queue(&question_, true);
}

void RedisStats::OnReply(RedisCommand* /*command*/, const RedisReply& reply) {
  if (reply.kind == RedisReply::Kind::kBulk && collector_.items().size() == 1) {
    const std::string_view info = collector_.items()[0].text;
    sum_.objects += InfoNumber(info, keyspace_);
    sum_.bytes += InfoNumber(info, "used_memory:");
    sum_.capacity_bytes += InfoNumber(info, "maxmemory:");
    sum_.evicted_objects += InfoNumber(info, "evicted_keys:");
  }
  AskNext();
}

}  // namespace shadowserve
