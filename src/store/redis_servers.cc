#include "store/redis_servers.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "store/resp_writer.h"

namespace shadowserve {
namespace {

// Errors of a greeting that pass by themselves.
bool Passes(std::string_view error) {
  return error.starts_with("LOADING") || error.starts_with("MASTERDOWN") ||
         error.starts_with("BUSY") || error.starts_with("ERR max number of clients");
}

}  // namespace

RedisServers::RedisServers(Options options, int epoll_fd, ServerTable* table)
    : options_(std::move(options)),
      epoll_fd_(epoll_fd),
      table_(table != nullptr ? table : &own_table_),
      refresh_wanted_(options_.cluster),
      question_text_(RespCommand({"CLUSTER", "SLOTS"})) {
  slots_.fill(options_.cluster ? kNobody : 0);
  for (const HostPort& seed : options_.seeds) (void)FindOrAdd(seed);
  if (!options_.cluster) is_master_[0] = true;
}

uint16_t RedisServers::FindOrAdd(const HostPort& address) {
  for (uint16_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i]->address().host == address.host && nodes_[i]->address().port == address.port) {
      return i;
    }
  }
  if (nodes_.size() == kServersMax) return kNobody;
  ServerMetrics* const counts = table_->RowOf(address.host + ":" + std::to_string(address.port));
  nodes_.push_back(std::make_unique<RedisNode>(options_.connection, options_.connections, address,
                                               epoll_fd_, counts));
  is_master_.push_back(false);
  is_replica_.push_back(false);
  replicas_of_.emplace_back();
  return static_cast<uint16_t>(nodes_.size() - 1);
}

RedisNode* RedisServers::Route(std::string_view key) const {
  const uint16_t node = slots_[options_.cluster ? RedisSlot(key) : 0];
  return node == kNobody ? nullptr : nodes_[node].get();
}

RedisNode* RedisServers::RouteRead(std::string_view key) {
  const uint16_t master = slots_[RedisSlot(key)];
  const std::vector<RedisNode*>& replicas = replicas_of_[master];
  RedisNode* best = nullptr;
  const size_t first = next_reader_++;
  for (size_t i = 0; i <= replicas.size(); ++i) {
    const size_t turn = (first + i) % (replicas.size() + 1);
    RedisNode* const each = turn == 0 ? nodes_[master].get() : replicas[turn - 1];
    if (!each->usable() || !each->ready()) continue;
    if (best == nullptr || each->load_bytes() < best->load_bytes()) best = each;
  }
  return best != nullptr ? best : nodes_[master].get();
}

RedisNode* RedisServers::Follow(const RedisRedirect& redirect) {
  if (!options_.cluster) return nullptr;
  const uint16_t node = FindOrAdd(redirect.server);
  if (node == kNobody) return nullptr;
  is_master_[node] = true;
  if (!redirect.ask) {
    slots_[redirect.slot] = node;
    WantRefresh();
  }
  return nodes_[node].get();
}

// Any server that answers knows; each question goes to the next one.
void RedisServers::AskForSlots(int64_t now_ns) {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const size_t at = (next_asked_ + i) % nodes_.size();
    if (!nodes_[at]->usable() || !nodes_[at]->ready()) continue;
    next_asked_ = at + 1;
    asked_ = static_cast<uint16_t>(at);
    refresh_ns_ = now_ns;
    refresh_wanted_ = false;
    asking_ = true;
    question_ = RedisCommand{};
    question_.pieces[0] = std::as_bytes(std::span(question_text_));
    question_.collector = &collector_;
    question_.deadline_ns = now_ns + options_.connection.timeout_ns;
    question_.listener = this;
    return nodes_[at]->Queue(&question_, true);
  }
}

void RedisServers::OnReply(RedisCommand* /*command*/, const RedisReply& reply) {
  asking_ = false;
  if (reply.kind == RedisReply::Kind::kCollected) {
    const Result<std::vector<RedisSlotRange>> ranges =
        ParseClusterSlots(collector_.items(), nodes_[asked_]->address());
    if (ranges.ok()) return TakeSlots(*ranges);
    slots_error_ = ranges.status().message();
  } else if (reply.kind == RedisReply::Kind::kError) {
    slots_error_ = reply.text;
  }
  refresh_wanted_ = true;
}

void RedisServers::TakeSlots(const std::vector<RedisSlotRange>& ranges) {
  slots_error_.clear();
  slots_.fill(kNobody);
  std::fill(is_master_.begin(), is_master_.end(), false);
  std::fill(is_replica_.begin(), is_replica_.end(), false);
  std::ranges::for_each(replicas_of_, [](auto& replicas) { replicas.clear(); });
  uint32_t covered = 0;
  for (const RedisSlotRange& range : ranges) {
    const uint16_t node = FindOrAdd(range.master);
    if (node == kNobody) continue;
    is_master_[node] = true;
    std::fill(slots_.begin() + range.first, slots_.begin() + range.last + 1, node);
    covered += range.last - range.first + 1;
    if (options_.read_replicas) TakeReplicas(node, range.replicas);
  }
  if (!have_slots_) {
    Log(LogLevel::kInfo, "redis cluster: masters {} slots {}", Masters().size(), covered);
  }
  have_slots_ = true;
  if (covered < kRedisSlots) refresh_wanted_ = true;
}

// A master has one list, whatever the number of its ranges.
void RedisServers::TakeReplicas(uint16_t master, const std::vector<HostPort>& replicas) {
  if (!replicas_of_[master].empty()) return;
  for (const HostPort& address : replicas) {
    const uint16_t node = FindOrAdd(address);
    if (node == kNobody) continue;
    is_replica_[node] = true;
    replicas_of_[master].push_back(nodes_[node].get());
  }
}

// Seeds are needed until the map is there; later only those that serve something.
bool RedisServers::Needed(size_t node) const {
  return is_master_[node] || is_replica_[node] || !have_slots_ || nodes_[node]->ready() ||
         nodes_[node]->busy();
}

void RedisServers::Work(int64_t now_ns) {
  for (size_t i = 0; i < nodes_.size(); ++i) nodes_[i]->Work(now_ns);
}

void RedisServers::Tick(int64_t now_ns) {
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (Needed(i)) {
      nodes_[i]->Tick(now_ns);
    } else {
      nodes_[i]->Retire();
    }
    // A fail-over is due, or the replica is no longer one.
    if ((is_master_[i] || is_replica_[i]) && !nodes_[i]->usable()) WantRefresh();
  }
  if (options_.read_replicas && now_ns >= refresh_ns_ + kReplicasRefreshNs) WantRefresh();
  const bool due = refresh_ns_ == INT64_MIN || now_ns - refresh_ns_ >= kRefreshNs;
  if (refresh_wanted_ && !asking_ && due) AskForSlots(now_ns);
}

int64_t RedisServers::next_tick_ns(int64_t now_ns) const {
  int64_t next_ns = INT64_MAX;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (Needed(i)) next_ns = std::min(next_ns, nodes_[i]->next_tick_ns(now_ns));
  }
  if (refresh_wanted_) {
    next_ns = std::min(next_ns, std::max(now_ns + RedisNode::kTickNs, refresh_ns_ + kRefreshNs));
  } else if (options_.read_replicas) {
    next_ns = std::min(next_ns, refresh_ns_ + kReplicasRefreshNs);
  }
  return next_ns;
}

bool RedisServers::DrainBuffered(int64_t now_ns, uint64_t* budget) {
  bool left = false;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    left = nodes_[i]->DrainBuffered(now_ns, budget) || left;
  }
  return left;
}

void RedisServers::Forgive(int64_t away_ns) {
  for (const auto& node : nodes_) node->Forgive(away_ns);
}

void RedisServers::Shut() {
  for (const auto& node : nodes_) node->Shut();
}

std::vector<RedisNode*> RedisServers::Masters() const {
  std::vector<RedisNode*> masters;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    if (is_master_[i]) masters.push_back(nodes_[i].get());
  }
  return masters;
}

bool RedisServers::settled() const {
  if (options_.cluster && !have_slots_) {
    return !slots_error_.empty() ||
           std::ranges::none_of(nodes_, [](const auto& node) { return node->usable(); });
  }
  return std::ranges::all_of(
      Masters(), [](const RedisNode* node) { return node->ready() || !node->usable(); });
}

Status RedisServers::Refusal() const {
  const auto refusal = [](const RedisNode& node, std::string_view why) {
    return Status(StatusCode::kInvalidArgument, "store: redis " + node.address().host + ":" +
                                                    std::to_string(node.address().port) + ": " +
                                                    std::string(why));
  };
  if (options_.cluster && slots_error_.starts_with("ERR")) {
    return refusal(*nodes_[asked_], slots_error_ + " (is it a cluster? without one: redis://)");
  }
  for (const auto& node : nodes_) {
    if (node->ready()) return OkStatus();
  }
  for (const auto& node : nodes_) {
    const bool refused = node->fault() == RedisFault::kRefused && !Passes(node->error());
    if (refused || node->fault() == RedisFault::kTls || node->fault() == RedisFault::kProtocol) {
      return refusal(*node, node->error());
    }
  }
  return OkStatus();
}

}  // namespace shadowserve
