#include "store/redis_node.h"

#include <algorithm>
#include <utility>

#include "base/log.h"

namespace shadowserve {

RedisNode::RedisNode(const RedisConnectionOptions& connection, uint32_t connections,
                     HostPort address, int epoll_fd, ServerMetrics* counts)
    : connection_options_(connection),
      address_(std::move(address)),
      name_(address_.host + ":" + std::to_string(address_.port)),
      counts_(counts),
      random_(std::hash<std::string>()(name_) ^
              static_cast<uint64_t>(reinterpret_cast<uintptr_t>(this))) {
  connection_options_.host = BareHost(address_);
  links_.resize(connections + size_t{1});
  for (Link& link : links_) {
    link.connection = std::make_unique<RedisConnection>(&connection_options_, epoll_fd, this);
  }
}

bool RedisNode::ready() const {
  return std::ranges::any_of(links_, [](const Link& link) { return link.connection->ready(); });
}

bool RedisNode::busy() const {
  return !queue_.empty() || !urgent_.empty() || resolver_.busy() ||
         std::ranges::any_of(links_, [](const Link& link) {
           return link.connection->outstanding_commands() > 0 ||
                  (link.open && !link.connection->ready());
         });
}

void RedisNode::Queue(RedisCommand* command, bool urgent) {
  if (!usable()) {
    RedisCommandList refused;
    refused.Push(command);
    return LoseAll(refused);
  }
  (urgent ? urgent_ : queue_).Push(command);
}

RedisNode::Link* RedisNode::PickLink(uint64_t expected_bytes) {
  Link* best = nullptr;
  for (Link& link : links_) {
    if (&link == &links_[0] || !link.Takes(expected_bytes)) continue;
    const auto load = [](const RedisConnection& connection) {
      return std::pair(connection.outstanding_bytes(), connection.outstanding_commands());
    };
    if (best == nullptr || load(*link.connection) < load(*best->connection)) best = &link;
  }
  return best;
}

void RedisNode::Work(int64_t now_ns) {
  if (!usable()) return;
  while (!urgent_.empty() && links_[0].Takes(0)) {
    links_[0].connection->Queue(urgent_.Pop(), now_ns);
  }
  while (!queue_.empty()) {
    Link* const link = PickLink(queue_.front()->expected_bytes);
    if (link == nullptr) break;
    link->connection->Queue(queue_.Pop(), now_ns);
  }
  for (Link& link : links_) {
    RedisConnection& connection = *link.connection;
    if (!connection.ready()) continue;
    if (connection.HasUnsent()) {
      connection.Flush(now_ns);
    } else if (link.renew && connection.outstanding_commands() == 0) {
      connection.Close(RedisFault::kUnreachable, "made anew");
    } else {
      continue;
    }
    Notice(&link, now_ns);
  }
}

void RedisNode::Renew(int64_t now_ns) {
  if (now_ns - renewed_ns_ < kRenewNs) return;
  renewed_ns_ = now_ns;
  for (Link& link : links_) link.renew = link.ready;
}

RedisNode::Link* RedisNode::LinkOf(const RedisConnection* connection) {
  for (Link& link : links_) {
    if (link.connection.get() == connection) return &link;
  }
  return nullptr;
}

void RedisNode::OnEvents(RedisConnection* connection, uint32_t events, int64_t now_ns,
                         uint64_t* budget) {
  // An event of a socket that was closed earlier in the same batch.
  if (connection->state() == RedisConnection::State::kClosed) return;
  connection->OnEvents(events, now_ns, budget);
  Notice(LinkOf(connection), now_ns);
}

bool RedisNode::DrainBuffered(int64_t now_ns, uint64_t* budget) {
  bool left = false;
  for (Link& link : links_) {
    if (!link.connection->HasBuffered()) continue;
    if (*budget > 0) OnEvents(link.connection.get(), 0, now_ns, budget);
    left = left || link.connection->HasBuffered();
  }
  return left;
}

// What became of a connection since the last look.
void RedisNode::Notice(Link* link, int64_t now_ns) {
  const RedisConnection& connection = *link->connection;
  if (connection.replies() != link->replies) {
    link->replies = connection.replies();
    link->failures = 0;
    failures_ = 0;
    trips_ = 0;
  }
  if (connection.ready() && !link->ready) {
    link->ready = true;
    if (link->served) Count(ServerEventLabel::kReconnect);
    link->served = true;
    if (breaker_ == BreakerState::kHalfOpen) {
      SetBreaker(BreakerState::kClosed);
      failures_ = 0;
      Log(LogLevel::kInfo, "redis {}: available again", name_);
    }
  }
  if (link->open && connection.state() == RedisConnection::State::kClosed) OnClosed(link, now_ns);
}

void RedisNode::OnClosed(Link* link, int64_t now_ns) {
  const RedisConnection& connection = *link->connection;
  const bool idle_end = link->ready && connection.lost_commands() == 0;
  link->open = link->ready = link->renew = false;
  addresses_stale_ = true;
  link->retry_ns = now_ns + Backoff(link->failures++);
  if (idle_end) {
    // Servers close idle connections: no failure, but not a reason to spin either.
    link->failures = std::min(link->failures, 1u);
    link->retry_ns = now_ns + kBackoffMinNs;
    return;
  }
  fault_ = connection.fault();
  error_ = connection.error();
  if (fault_ == RedisFault::kTimeout) Count(ServerEventLabel::kTimeout);
  const bool silent = fault_ == RedisFault::kTimeout || fault_ == RedisFault::kRefused ||
                      fault_ == RedisFault::kTls;
  failures_ += silent ? kFailuresMax : 1;
  if (breaker_ == BreakerState::kHalfOpen || failures_ >= kFailuresMax) Trip(now_ns);
}

void RedisNode::Trip(int64_t now_ns) {
  if (breaker_ == BreakerState::kClosed) {
    Count(ServerEventLabel::kOpened);
    Log(LogLevel::kWarn, "redis {}: unavailable: {}", name_, error_);
  }
  SetBreaker(BreakerState::kOpen);
  probe_ns_ = now_ns + Backoff(trips_++);
  Reset();
}

void RedisNode::Reset() {
  for (Link& link : links_) {
    link.open = link.ready = link.renew = false;
    link.retry_ns = 0;
    if (link.connection->state() == RedisConnection::State::kClosed) continue;
    link.connection->Close(RedisFault::kUnreachable, "given up");
  }
  LoseAll(queue_.TakeAll());
  LoseAll(urgent_.TakeAll());
}

void RedisNode::SetBreaker(BreakerState state) {
  breaker_ = state;
  counts_->breaker.Set(static_cast<int64_t>(state));
}

void RedisNode::Retire() {
  if (usable()) return;
  SetBreaker(BreakerState::kClosed);
  failures_ = 0;
  trips_ = 0;
}

void RedisNode::Shut() {
  SetBreaker(BreakerState::kOpen);
  probe_ns_ = INT64_MAX;
  Reset();
}

void RedisNode::FailOverdue(RedisCommandList* queue, int64_t now_ns) {
  RedisCommandList overdue;
  while (!queue->empty() && queue->front()->deadline_ns <= now_ns) overdue.Push(queue->Pop());
  LoseAll(overdue);
}

void RedisNode::Tick(int64_t now_ns) {
  for (Link& link : links_) {
    link.connection->CheckTime(now_ns);
    Notice(&link, now_ns);
  }
  FailOverdue(&queue_, now_ns);
  FailOverdue(&urgent_, now_ns);
  if (breaker_ == BreakerState::kOpen && now_ns < probe_ns_) return;
  if (HaveAddresses(now_ns)) OpenLinks(now_ns);
}

// Starts to resolve the host, or takes the answer; false: not yet.
bool RedisNode::HaveAddresses(int64_t now_ns) {
  const bool again = breaker_ == BreakerState::kOpen;
  if (!resolver_.busy() && (addresses_.empty() || addresses_stale_ || again)) {
    resolver_.Start(address_);
    resolving_ns_ = now_ns;
    addresses_stale_ = false;
  }
  if (!resolver_.busy()) return true;
  std::vector<SocketAddress> found;
  std::string error;
  if (!resolver_.Poll(&found, &error)) {
    const bool late = now_ns - resolving_ns_ >= connection_options_.connect_timeout_ns;
    if (late && usable() && !addresses_.empty()) return true;
    if (late && usable()) {
      Count(ServerEventLabel::kTimeout);
      fault_ = RedisFault::kTimeout;
      error_ = "host name: not resolved within the time-out";
      Trip(now_ns);
    }
    return false;
  }
  if (found.empty() && addresses_.empty()) {
    fault_ = RedisFault::kUnreachable;
    error_ = error;
    Trip(now_ns);
    return false;
  }
  if (!found.empty()) addresses_ = std::move(found);
  if (again) {
    // Answered: this Tick goes on to the probe.
    SetBreaker(BreakerState::kHalfOpen);
    Count(ServerEventLabel::kProbe);
    OpenLink(&links_[0], now_ns);
    return false;
  }
  return true;
}

void RedisNode::OpenLinks(int64_t now_ns) {
  if (breaker_ == BreakerState::kHalfOpen) return;
  for (Link& link : links_) {
    if (!usable()) return;  // the last one tripped it
    const bool closed = link.connection->state() == RedisConnection::State::kClosed;
    if (closed && now_ns >= link.retry_ns) OpenLink(&link, now_ns);
  }
}

void RedisNode::OpenLink(Link* link, int64_t now_ns) {
  // A name may have addresses where nobody listens: each attempt takes the next, until one serves.
  if (link->failures > 0 || failures_ > 0 || trips_ > 0) ++next_address_;
  link->open = true;
  link->connection->Open(addresses_[next_address_ % addresses_.size()], now_ns);
  Notice(link, now_ns);
}

// With jitter of a quarter either way, so that many clients do not return together.
int64_t RedisNode::Backoff(uint32_t failures) {
  random_ = random_ * 6364136223846793005u + 1442695040888963407u;  // Knuth's MMIX generator
  const int64_t base = std::min(kBackoffMinNs << std::min(failures, 10u), kBackoffMaxNs);
  return base * 3 / 4 + static_cast<int64_t>((random_ >> 33) % static_cast<uint64_t>(base / 2));
}

int64_t RedisNode::next_tick_ns(int64_t now_ns) const {
  if (breaker_ == BreakerState::kOpen && !resolver_.busy()) return probe_ns_;
  if (busy()) return now_ns + kTickNs;
  int64_t next_ns = INT64_MAX;
  for (const Link& link : links_) {
    if (!link.open) next_ns = std::min(next_ns, std::max(link.retry_ns, now_ns + kNsPerMs));
  }
  return next_ns;
}

void RedisNode::Forgive(int64_t away_ns) {
  for (Link& link : links_) link.connection->Forgive(away_ns);
}

}  // namespace shadowserve
