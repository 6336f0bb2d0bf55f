#include "store/redis_listing.h"

#include <sys/epoll.h>

#include <array>
#include <deque>
#include <unordered_set>

#include "base/clock.h"
#include "store/host_resolver.h"
#include "store/resp_collector.h"
#include "store/resp_writer.h"

namespace shadowserve {
namespace {

constexpr std::string_view kScanCount = "512";
constexpr uint64_t kBudget = uint64_t{1} << 20;

// One connection that is waited for.
class BlockingConnection final : public RedisReplyListener {
 public:
  explicit BlockingConnection(const RedisConnectionOptions& options, const HostPort& server)
      : options_(options), server_(server), epoll_(epoll_create1(EPOLL_CLOEXEC)) {
    options_.host = BareHost(server);
    connection_ = std::make_unique<RedisConnection>(&options_, epoll_.get(), nullptr);
  }
  ~BlockingConnection() override { connection_->Close(RedisFault::kNone, ""); }

  Status Open() {
    std::vector<SocketAddress> addresses;
    std::string error;
    const int64_t give_up_ns = clock_.NowNs() + options_.connect_timeout_ns;
    resolver_.Start(server_);
    while (!resolver_.Poll(&addresses, &error)) {
      if (clock_.NowNs() > give_up_ns) return Gone("its name is not resolved");
      Wait();
    }
    for (const SocketAddress& address : addresses) {
      connection_->Open(address, clock_.NowNs());
      while (!connection_->ready() && connection_->state() != RedisConnection::State::kClosed) {
        Turn();
      }
      if (connection_->ready()) return OkStatus();
      error = connection_->error();
    }
    return Gone(error);
  }

  // Items of an array reply.
  Result<std::span<const RespItem>> Ask(std::initializer_list<std::string_view> arguments) {
    const std::string text = RespCommand(arguments);
    RedisCommand command;
    command.pieces[0] = std::as_bytes(std::span(text));
    command.collector = &collector_;
    command.listener = this;
    SS_TRY(Run(std::span(&command, 1)));
    if (replies_[0].kind != RedisReply::Kind::kCollected) return Gone("an answer is no list");
    return std::span<const RespItem>(collector_.items());
  }

  // Sizes of values, 0 for those that are gone.
  Status Sizes(std::span<const std::string> keys, std::vector<uint64_t>* sizes) {
    sizes->clear();
    while (!keys.empty()) {
      const size_t count = std::min<size_t>(keys.size(), RedisConnection::kCommandsMax);
      std::deque<std::string> texts;
      std::vector<RedisCommand> commands(count);
      for (size_t i = 0; i < count; ++i) {
        texts.push_back(RespCommand({"STRLEN", keys[i]}));
        commands[i].pieces[0] = std::as_bytes(std::span(texts.back()));
        commands[i].listener = this;
      }
      SS_TRY(Run(commands));
      for (const RedisReply& reply : replies_) {
        sizes->push_back(static_cast<uint64_t>(reply.number));
      }
      keys = keys.subspan(count);
    }
    return OkStatus();
  }

  void OnReply(RedisCommand* /*command*/, const RedisReply& reply) override {
    replies_.push_back(reply);
    lost_ = lost_ || reply.kind == RedisReply::Kind::kLost;
  }

 private:
  Status Run(std::span<RedisCommand> commands) {
    replies_.clear();
    for (RedisCommand& command : commands) connection_->Queue(&command, clock_.NowNs());
    connection_->Flush(clock_.NowNs());
    while (replies_.size() < commands.size()) Turn();
    return lost_ ? Gone(connection_->error()) : OkStatus();
  }
  void Turn() {
    uint64_t budget = kBudget;
    const uint32_t events = connection_->HasBuffered() ? EPOLLIN : Wait();
    if (events != 0) connection_->OnEvents(events, clock_.NowNs(), &budget);
    connection_->CheckTime(clock_.NowNs());
  }
  uint32_t Wait() {
    epoll_event event = {};
    return epoll_wait(epoll_.get(), &event, 1, 20) == 1 ? event.events : 0;
  }
  Status Gone(std::string_view why) const {
    return Status(
        StatusCode::kUnavailable,
        "redis " + server_.host + ":" + std::to_string(server_.port) + ": " + std::string(why));
  }

  RedisConnectionOptions options_;
  const HostPort server_;
  const SteadyClock clock_;
  UniqueFd epoll_;
  HostResolver resolver_;
  std::unique_ptr<RedisConnection> connection_;
  RespCollector collector_;
  std::vector<RedisReply> replies_;
  bool lost_ = false;
};

class Listing {
 public:
  Listing(const std::string& key_prefix,
          const std::function<bool(const ObjectName&, uint64_t)>& visit)
      : key_prefix_(key_prefix), visit_(visit) {}

  // True when the visitor wants no more.
  Result<bool> ListServer(BlockingConnection* server) {
    std::string cursor = "0";
    do {
      SS_TRY_ASSIGN(const std::span<const RespItem> items,
                    server->Ask({"SCAN", cursor, "MATCH", key_prefix_ + "ss1:*", "COUNT",
                                 kScanCount, "TYPE", "string"}));
      // *2, the next cursor, *count, keys
      if (items.size() < 3 || items[0].number != 2 || items[2].type != RespType::kArray) {
        return Status(StatusCode::kUnavailable, "redis: SCAN answers something else");
      }
      cursor = items[1].text;
      TakeNames(items.subspan(3));
      SS_TRY(server->Sizes(keys_, &sizes_));
      for (size_t i = 0; i < names_.size(); ++i) {
        if (!visit_(names_[i], sizes_[i])) return true;
      }
    } while (cursor != "0");
    return false;
  }

 private:
  void TakeNames(std::span<const RespItem> keys) {
    names_.clear();
    keys_.clear();
    for (const RespItem& key : keys) {
      if (!std::string_view(key.text).starts_with(key_prefix_)) continue;
      const Result<ObjectName> name =
          ParseObjectName(std::string_view(key.text).substr(key_prefix_.size()));
      // SCAN may show a key twice.
      if (!name.ok() || !seen_.insert(*name).second) continue;
      names_.push_back(*name);
      keys_.push_back(key.text);
    }
  }

  const std::string& key_prefix_;
  const std::function<bool(const ObjectName&, uint64_t)>& visit_;
  std::unordered_set<ObjectName, ObjectNameHash> seen_;
  std::vector<ObjectName> names_;
  std::vector<std::string> keys_;
  std::vector<uint64_t> sizes_;
};

}  // namespace

Status ListRedisObjects(const RedisConnectionOptions& options, const std::vector<HostPort>& servers,
                        const std::string& key_prefix,
                        const std::function<bool(const ObjectName&, uint64_t)>& visit) {
  if (servers.empty()) return Status(StatusCode::kUnavailable, "redis: no server is known");
  Listing listing(key_prefix, visit);
  for (const HostPort& server : servers) {
    BlockingConnection connection(options, server);
    SS_TRY(connection.Open());
    SS_TRY_ASSIGN(const bool enough, listing.ListServer(&connection));
    if (enough) break;
  }
  return OkStatus();
}

}  // namespace shadowserve
