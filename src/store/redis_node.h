// RedisNode: one server, the connections to it, and the circuit breaker in front of it.
//
// Commands wait in two queues: values go to whichever of `connections` sockets has least to do,
// small questions ("urgent") to a socket of their own, so that they never stand behind values.
//
// Breaker. Closed: commands are sent, or wait for a connection no longer than their deadline. After
// kFailuresMax failures in a row (a connection refused or lost with commands on it), or one
// time-out, or a server that refuses the greeting, it opens: every command fails at once (kLost).
// After a back-off (kBackoffMinNs, doubled up to kBackoffMaxNs, with jitter) one connection probes:
// its greeting ends with PING. An answer closes the breaker, a failure opens it for longer. Nothing
// is sent twice by a node.
//
// Host names are resolved in the background, again before each probe and before a connection is
// made in place of one that ended: the name may have moved. While no answer comes, the last one
// counts. Renew ends connections for that reason alone.
//
// Owner thread: the store's.
#ifndef SHADOWSERVE_STORE_REDIS_NODE_H_
#define SHADOWSERVE_STORE_REDIS_NODE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "store/host_resolver.h"
#include "store/redis_connection.h"

namespace shadowserve {

class RedisNode {
 public:
  static constexpr uint32_t kFailuresMax = 3;
  static constexpr int64_t kBackoffMinNs = 100 * kNsPerMs;
  static constexpr int64_t kBackoffMaxNs = 5 * kNsPerSecond;
  static constexpr int64_t kRenewNs = 5 * kNsPerSecond;
  // How often time-outs are looked at while something waits.
  static constexpr int64_t kTickNs = 20 * kNsPerMs;

  // `connection` is copied; its host is set to `address`. `connections` for values, at least 1.
  // `counts` outlives it.
  RedisNode(const RedisConnectionOptions& connection, uint32_t connections, HostPort address,
            int epoll_fd, ServerMetrics* counts);

  const HostPort& address() const { return address_; }
  bool usable() const { return breaker_ == BreakerState::kClosed; }
  // Something waits for it.
  bool busy() const;
  // At least one connection is ready.
  bool ready() const;
  // The last failure.
  RedisFault fault() const { return fault_; }
  const std::string& error() const { return error_; }
  // Bytes of value under way to or from it, as its users say.
  uint64_t load_bytes() const { return load_bytes_; }
  void AddLoad(uint64_t bytes) { load_bytes_ += bytes; }
  void RemoveLoad(uint64_t bytes) { load_bytes_ -= bytes; }

  void Count(ServerEventLabel event) { counts_->events[event].Add(); }

  // Takes a command; while the breaker is not closed it fails here and now.
  void Queue(RedisCommand* command, bool urgent);
  // The address may lead to another server now: connections end when nothing is left on them, and
  // are made anew. At most every kRenewNs.
  void Renew(int64_t now_ns);
  // Gives waiting commands to connections and sends.
  void Work(int64_t now_ns);
  void OnEvents(RedisConnection* connection, uint32_t events, int64_t now_ns, uint64_t* budget);
  // Time-outs, reconnects, probes.
  void Tick(int64_t now_ns);
  // When to call Tick next.
  int64_t next_tick_ns(int64_t now_ns) const;
  // Receives what TLS holds back; true when some is left after the budget is spent.
  bool DrainBuffered(int64_t now_ns, uint64_t* budget);
  void Forgive(int64_t away_ns);
  // Nobody needs it now: what failed is forgotten.
  void Retire();
  // Ends all connections; what waits fails.
  void Shut();

 private:
  struct Link {
    std::unique_ptr<RedisConnection> connection;
    bool open = false;  // as of the last Notice
    bool ready = false;
    bool served = false;  // was ready before
    bool renew = false;   // takes no more commands, and ends after its last one
    uint64_t replies = 0;
    uint32_t failures = 0;
    int64_t retry_ns = 0;

    bool Takes(uint64_t expected_bytes) const {
      return !renew && connection->ready() && connection->HasRoom(expected_bytes);
    }
  };

  Link* LinkOf(const RedisConnection* connection);
  Link* PickLink(uint64_t expected_bytes);
  void Notice(Link* link, int64_t now_ns);
  void OnClosed(Link* link, int64_t now_ns);
  void Trip(int64_t now_ns);
  void SetBreaker(BreakerState state);
  void Reset();
  void OpenLinks(int64_t now_ns);
  bool HaveAddresses(int64_t now_ns);
  void OpenLink(Link* link, int64_t now_ns);
  int64_t Backoff(uint32_t failures);
  void FailOverdue(RedisCommandList* queue, int64_t now_ns);

  RedisConnectionOptions connection_options_;
  const HostPort address_;
  std::string name_;         // for logs
  std::vector<Link> links_;  // the first one is for urgent commands
  RedisCommandList queue_;
  RedisCommandList urgent_;
  uint64_t load_bytes_ = 0;
  HostResolver resolver_;
  std::vector<SocketAddress> addresses_;
  bool addresses_stale_ = false;
  size_t next_address_ = 0;
  int64_t resolving_ns_ = 0;  // since when

  ServerMetrics* const counts_;
  BreakerState breaker_ = BreakerState::kClosed;
  RedisFault fault_ = RedisFault::kNone;
  std::string error_;
  uint32_t failures_ = 0;  // in a row
  uint32_t trips_ = 0;     // since the last reply
  int64_t probe_ns_ = 0;
  int64_t renewed_ns_ = -kRenewNs;
  uint64_t random_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_NODE_H_
