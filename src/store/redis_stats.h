// RedisStats: what the servers say about themselves (INFO), asked in the background when somebody
// wants to know and the last answer is older than kAgeNs. Sums over masters. `objects` counts the
// whole database, `bytes` the memory in use, whoever put it there. Owner thread: the store's.
#ifndef SHADOWSERVE_STORE_REDIS_STATS_H_
#define SHADOWSERVE_STORE_REDIS_STATS_H_

#include <string>
#include <string_view>

#include "store/redis_servers.h"
#include "store/store.h"

namespace shadowserve {

class RedisStats final : public RedisReplyListener {
 public:
  static constexpr int64_t kAgeNs = 5 * kNsPerSecond;

  RedisStats(RedisServers* servers, int64_t timeout_ns, uint64_t database);

  // The last answers; asks for new ones.
  StoreStats Get(int64_t now_ns);
  void OnReply(RedisCommand* command, const RedisReply& reply) override;

 private:
  void AskNext();

  RedisServers* servers_;
  const int64_t timeout_ns_;
  const std::string keyspace_;  // "db0:keys="
  const std::string question_text_;
  RedisCommand question_;
  RespCollector collector_;
  std::vector<RedisNode*> to_ask_;
  bool asking_ = false;
  int64_t asked_ns_ = INT64_MIN;
  int64_t now_ns_ = 0;
  StoreStats sum_;
  StoreStats last_;
};

// The number behind "\r\n<name>:" in the text of INFO, else 0. For tests.
uint64_t InfoNumber(std::string_view info, std::string_view name);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_STATS_H_
