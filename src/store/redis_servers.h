// RedisServers: the servers of one store and who serves which key.
//
// One server: it serves all. A cluster: a map of slots to masters, learned from CLUSTER SLOTS of
// any server that answers, at start, after a redirect and while a server of it is unavailable, at
// most every kRefreshNs; where replicas are read also every kReplicasRefreshNs, since nothing else
// tells of new ones. Servers that left stay known, with no work, up to kServersMax in all.
//
// Owner thread: the store's.
#ifndef SHADOWSERVE_STORE_REDIS_SERVERS_H_
#define SHADOWSERVE_STORE_REDIS_SERVERS_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "store/redis_node.h"
#include "store/redis_slots.h"
#include "store/resp_collector.h"

namespace shadowserve {

class RedisServers final : public RedisReplyListener {
 public:
  static constexpr size_t kServersMax = 256;
  static constexpr int64_t kRefreshNs = kNsPerSecond;
  static constexpr int64_t kReplicasRefreshNs = 30 * kNsPerSecond;

  struct Options {
    bool cluster = false;
    bool read_replicas = false;  // of a cluster
    std::vector<HostPort> seeds;
    uint32_t connections = 1;
    RedisConnectionOptions connection;
  };
  // `table` counts; null: one of its own.
  RedisServers(Options options, int epoll_fd, ServerTable* table);

  // The master. Null: nobody is known to serve the key.
  RedisNode* Route(std::string_view key) const;
  // The master or one of its replicas: of those that are ready the one with the least under way, in
  // turn where that is equal. REQUIRES: Route(key) is not null, Options::read_replicas.
  RedisNode* RouteRead(std::string_view key);
  // The server of a redirect, null when there are too many. After MOVED the slot is its.
  RedisNode* Follow(const RedisRedirect& redirect);
  // Asks for the map of slots again, soon.
  void WantRefresh() { refresh_wanted_ = options_.cluster; }

  void Work(int64_t now_ns);
  void Tick(int64_t now_ns);
  int64_t next_tick_ns(int64_t now_ns) const;
  bool DrainBuffered(int64_t now_ns, uint64_t* budget);
  void Forgive(int64_t away_ns);
  void Shut();

  // Masters with slots; without a cluster the one server.
  std::vector<RedisNode*> Masters() const;
  // Who serves keys is known, and a connection to each of them is up or known not to be.
  bool settled() const;
  // Why no server can ever be used with these options, or OK. For the start only.
  Status Refusal() const;

  void OnReply(RedisCommand* command, const RedisReply& reply) override;

 private:
  static constexpr uint16_t kNobody = UINT16_MAX;
  bool Needed(size_t node) const;
  uint16_t FindOrAdd(const HostPort& address);
  void AskForSlots(int64_t now_ns);
  void TakeSlots(const std::vector<RedisSlotRange>& ranges);
  void TakeReplicas(uint16_t master, const std::vector<HostPort>& replicas);

  const Options options_;
  const int epoll_fd_;
  ServerTable own_table_;
  ServerTable* const table_;
  std::vector<std::unique_ptr<RedisNode>> nodes_;
  std::vector<bool> is_master_;
  std::vector<bool> is_replica_;  // that is read
  std::vector<std::vector<RedisNode*>> replicas_of_;
  size_t next_reader_ = 0;
  std::array<uint16_t, kRedisSlots> slots_;
  bool refresh_wanted_ = false;
  bool asking_ = false;
  bool have_slots_ = false;
  size_t next_asked_ = 0;
  uint16_t asked_ = 0;
  int64_t refresh_ns_ = INT64_MIN;  // when it was asked last
  std::string slots_error_;
  RedisCommand question_;
  const std::string question_text_;
  RespCollector collector_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_SERVERS_H_
