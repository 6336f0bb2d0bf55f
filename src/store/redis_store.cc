#include "store/redis_store.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "store/completion_queue.h"
#include "store/redis_listing.h"
#include "store/redis_requests.h"
#include "store/redis_servers.h"
#include "store/redis_slots.h"
#include "store/redis_stats.h"
#include "store/resp_writer.h"

namespace shadowserve {
namespace {

constexpr uint64_t kReadBytesPerPoll = uint64_t{1} << 20;
constexpr int kEventsPerPoll = 64;
constexpr uint32_t kRedirectsMax = 4;
// An owner that was away longer than this did other work: servers are forgiven the silence.
constexpr int64_t kAwayNs = 200 * kNsPerMs;
// A request that waits for a connection is given up after so many times the time-out.
constexpr int64_t kWaitFactor = 4;
constexpr int64_t kLogEveryNs = 10 * kNsPerSecond;
// What gets are expected to bring before the first ones came: a design value of segments.
constexpr uint64_t kExpectedBytesFirst = uint64_t{1} << 20;
constexpr uint64_t kLargeBytes = 64 * 1024;
// For so long after a change of ours a chunk is read from its master only. What others changed, and
// a replica has not seen, is at worst an older object of the same name: checked like any other.
constexpr int64_t kReplicaLagNs = 60 * kNsPerSecond;

StatusCode CodeOfError(std::string_view error) {
  if (error.starts_with("OOM")) return StatusCode::kExhausted;
  if (error.starts_with("WRONGTYPE")) return StatusCode::kCorrupt;
  return StatusCode::kUnavailable;
}

class RedisStore final : public Store, public RedisReplyListener {
 public:
  explicit RedisStore(RedisStoreOptions options)
      : options_(std::move(options)), requests_(options_.key_prefix, options_.ttl_s) {
    if (options_.read_replicas) changed_ns_.resize(kRedisSlots, -kReplicaLagNs);
  }
  ~RedisStore() override {
    if (servers_ != nullptr) servers_->Shut();
  }

  Status Open(ServerTable* table);

  size_t Submit(std::span<const StoreRequest> requests) override;
  size_t Poll(std::span<StoreCompletion> completions) override;
  int event_fd() const override { return epoll_.get(); }
  bool MayContain(const ObjectName&) const override { return true; }
  bool has_index() const override { return false; }
  Status List(const std::function<bool(const ObjectName&, uint64_t)>& visit) override {
    return ListRedisObjects(connection_options_, Addresses(), options_.key_prefix, visit);
  }
  StoreStats Stats() const override { return stats_->Get(clock_.NowNs()); }
  std::string Describe() const override { return DescribeRedisStore(options_); }

  void OnReply(RedisCommand* command, const RedisReply& reply) override;

 private:
  Status OpenDescriptors();
  Status MakeConnectionOptions();
  Status WaitForServers();
  std::vector<HostPort> Addresses() const;
  void Step();
  void ReadEvents(int64_t now_ns);
  void ArmTimer(int64_t now_ns);
  void Signal();
  void Start(RedisRequest* request);
  // Then each of its commands says whether it is for a master or a replica: a master may have
  // become a replica since the map was read, and must then refuse instead of saying what it lacks.
  bool ReadsReplicas(const RedisRequest& request) const {
    return options_.read_replicas && !IsChange(request.request.op);
  }
  RedisNode* PickReader(const RedisRequest& request, RedisNode* master);
  void Send(RedisRequest* request, RedisNode* node);
  void Redirect(RedisRequest* request, std::string_view error);
  void Finish(RedisRequest* request, StatusCode code, uint64_t bytes = 0);
  void LogError(std::string_view error);

  const RedisStoreOptions options_;
  const SteadyClock clock_;
  UniqueFd epoll_;
  UniqueFd timer_;
  UniqueFd wake_;
  std::unique_ptr<TlsContext> tls_;
  RedisConnectionOptions connection_options_;
  std::unique_ptr<RedisServers> servers_;
  std::unique_ptr<RedisStats> stats_;
  RedisRequests requests_;
  std::vector<int64_t> changed_ns_;  // by slot: when we changed something there; for replicas
  CompletionQueue<kRedisQueueDepth> ready_;
  uint32_t outstanding_ = 0;  // accepted requests whose completion was not handed out yet
  uint64_t expected_bytes_ = kExpectedBytesFirst;  // average of what large gets bring
  int64_t timeout_ns_ = 0;
  int64_t now_ns_ = 0;  // of this Step
  int64_t next_tick_ns_ = 0;
  bool signalled_ = false;
  bool buffered_ = false;  // TLS holds bytes that epoll does not tell about
  int64_t logged_ns_ = INT64_MIN;
};

Status RedisStore::OpenDescriptors() {
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  timer_ = UniqueFd(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  wake_ = UniqueFd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  epoll_event timer = {};
  timer.events = EPOLLIN;
  timer.data.ptr = &timer_;
  epoll_event wake = {};
  wake.events = EPOLLIN;
  wake.data.ptr = &wake_;
  const bool ok = epoll_.valid() && timer_.valid() && wake_.valid() &&
                  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, timer_.get(), &timer) == 0 &&
                  epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &wake) == 0;
  return ok ? OkStatus() : Status(StatusCode::kUnavailable, "redis store: no file descriptors");
}

Status RedisStore::MakeConnectionOptions() {
  timeout_ns_ = static_cast<int64_t>(options_.timeout_ms) * kNsPerMs;
  connection_options_.timeout_ns = timeout_ns_;
  connection_options_.connect_timeout_ns =
      static_cast<int64_t>(options_.connect_timeout_ms) * kNsPerMs;
  SS_TRY_ASSIGN(const std::string password, RedisPassword(options_));
  const auto add = [this](std::initializer_list<std::string_view> command) {
    connection_options_.greeting += RespCommand(command);
    ++connection_options_.greeting_replies;
  };
  if (!options_.user.empty()) {
    add({"AUTH", options_.user, password});
  } else if (!password.empty()) {
    add({"AUTH", password});
  }
  if (options_.database != 0) add({"SELECT", std::to_string(options_.database)});
  add({"PING"});
  if (!options_.tls) return OkStatus();
  SS_TRY_ASSIGN(tls_, MakeTlsContext(options_.tls_options));
  connection_options_.tls = tls_.get();
  return OkStatus();
}

Status RedisStore::Open(ServerTable* table) {
  SS_TRY(OpenDescriptors());
  SS_TRY(MakeConnectionOptions());
  RedisServers::Options servers;
  servers.cluster = options_.cluster;
  servers.read_replicas = options_.read_replicas;
  servers.seeds = options_.servers;
  servers.connections = static_cast<uint32_t>(options_.connections);
  servers.connection = connection_options_;
  servers_ = std::make_unique<RedisServers>(std::move(servers), epoll_.get(), table);
  stats_ = std::make_unique<RedisStats>(servers_.get(), timeout_ns_, options_.database);
  return WaitForServers();
}

Status RedisStore::WaitForServers() {
  const int64_t give_up_ns = clock_.NowNs() + connection_options_.connect_timeout_ns;
  Step();
  while (!servers_->settled() && now_ns_ < give_up_ns) {
    pollfd event = {epoll_.get(), POLLIN, 0};
    (void)poll(&event, 1, static_cast<int>(RedisNode::kTickNs / kNsPerMs));
    Step();
  }
  SS_TRY(servers_->Refusal());
  const std::vector<RedisNode*> masters = servers_->Masters();
  const bool up = !masters.empty() &&
                  std::ranges::all_of(masters, [](const RedisNode* node) { return node->ready(); });
  Log(up ? LogLevel::kInfo : LogLevel::kWarn, "store {}: {}", Describe(),
      up ? "connected" : "not there yet, or not all of it; going on without");
  return OkStatus();
}

std::vector<HostPort> RedisStore::Addresses() const {
  std::vector<HostPort> addresses;
  for (const RedisNode* node : servers_->Masters()) addresses.push_back(node->address());
  return addresses;
}

size_t RedisStore::Submit(std::span<const StoreRequest> requests) {
  size_t accepted = 0;
  now_ns_ = clock_.NowNs();
  while (accepted < requests.size() && outstanding_ < kRedisQueueDepth) {
    RedisRequest* const request = requests_.Take(requests[accepted++]);
    ++outstanding_;
    request->listener = this;
    if (!request->waits) Start(request);
  }
  // Poll sends: many requests, few system calls.
  if (accepted > 0) Signal();
  return accepted;
}

size_t RedisStore::Poll(std::span<StoreCompletion> completions) {
  Step();
  const size_t count = ready_.PopInto(completions);
  outstanding_ -= static_cast<uint32_t>(count);
  if (!ready_.empty() || buffered_) Signal();
  return count;
}

void RedisStore::Step() {
  now_ns_ = clock_.NowNs();
  const bool timed = next_tick_ns_ != 0 && next_tick_ns_ != INT64_MAX;
  if (timed && now_ns_ - next_tick_ns_ > kAwayNs) servers_->Forgive(now_ns_ - next_tick_ns_);
  ReadEvents(now_ns_);
  if (now_ns_ >= next_tick_ns_) servers_->Tick(now_ns_);
  servers_->Work(now_ns_);
  ArmTimer(now_ns_);
}

void RedisStore::ReadEvents(int64_t now_ns) {
  std::array<epoll_event, kEventsPerPoll> events;
  const int count = epoll_wait(epoll_.get(), events.data(), kEventsPerPoll, 0);
  uint64_t budget = kReadBytesPerPoll;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<size_t>(i)];
    if (event.data.ptr == &wake_ || event.data.ptr == &timer_) {
      uint64_t ignored = 0;
      const bool wake = event.data.ptr == &wake_;
      (void)!read(wake ? wake_.get() : timer_.get(), &ignored, sizeof(ignored));
      if (wake) signalled_ = false;
      continue;
    }
    auto* const connection = static_cast<RedisConnection*>(event.data.ptr);
    if (budget > 0) connection->node()->OnEvents(connection, event.events, now_ns, &budget);
  }
  buffered_ = options_.tls && servers_->DrainBuffered(now_ns, &budget);
}

void RedisStore::ArmTimer(int64_t now_ns) {
  const int64_t next_ns = servers_->next_tick_ns(now_ns);
  // Earlier than needed is fine: it fires, and is armed again.
  if (next_tick_ns_ > now_ns && next_tick_ns_ <= next_ns) return;
  next_tick_ns_ = next_ns;
  itimerspec when = {};
  if (next_ns != INT64_MAX) {
    const int64_t wait_ns = std::max<int64_t>(next_ns - now_ns, 1);
    when.it_value = {.tv_sec = wait_ns / kNsPerSecond, .tv_nsec = wait_ns % kNsPerSecond};
  }
  (void)timerfd_settime(timer_.get(), 0, &when, nullptr);
}

void RedisStore::Signal() {
  if (signalled_) return;
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof(one));
  signalled_ = true;
}

void RedisStore::Start(RedisRequest* request) {
  RedisNode* const master = servers_->Route(request->key_text());
  if (master == nullptr) {
    servers_->WantRefresh();
    return Finish(request, StatusCode::kUnavailable);
  }
  if (request->request.op == StoreOp::kGet) {
    request->expected_bytes = std::min<uint64_t>(request->target.size(), expected_bytes_);
  }
  request->deadline_ns = now_ns_ + kWaitFactor * timeout_ns_;
  RedisNode* const node = ReadsReplicas(*request) ? PickReader(*request, master) : master;
  request->at_replica = node != master;
  if (request->at_replica) {
    requests_.Compose(request, "READONLY");
  } else if (ReadsReplicas(*request)) {
    requests_.Compose(request, "READWRITE");
  }
  Send(request, node);
}

// Questions are small: they go to a replica only for want of a master.
RedisNode* RedisStore::PickReader(const RedisRequest& request, RedisNode* master) {
  const bool question = request.request.op == StoreOp::kExists;
  const bool reachable = master->usable() && master->ready();
  if (request.master_only || (question && reachable)) return master;
  const int64_t changed_ns = changed_ns_[RedisSlot(request.key_text())];
  if (now_ns_ - changed_ns < kReplicaLagNs) return master;
  return servers_->RouteRead(request.key_text());
}

void RedisStore::Send(RedisRequest* request, RedisNode* node) {
  request->node = node;
  node->AddLoad(request->expected_bytes);
  node->Queue(request, request->request.op == StoreOp::kExists);
}

void RedisStore::OnReply(RedisCommand* command, const RedisReply& reply) {
  using Kind = RedisReply::Kind;
  auto* const request = static_cast<RedisRequest*>(command);
  const StoreOp op = request->request.op;
  const auto bytes = static_cast<uint64_t>(reply.number);
  request->node->RemoveLoad(request->expected_bytes);
  if (request->at_replica) {
    const bool found = reply.kind == Kind::kBulk || (reply.kind == Kind::kInteger && bytes > 0);
    request->node->Count(found ? ServerEventLabel::kReplicaRead : ServerEventLabel::kReplicaRetry);
    if (reply.kind == Kind::kError) servers_->WantRefresh();  // it may be no replica any more
    if (!found) {
      request->master_only = true;
      return Start(request);
    }
  }
  if (reply.kind == Kind::kLost) return Finish(request, StatusCode::kUnavailable);
  if (reply.kind == Kind::kError) {
    if (reply.text.starts_with("MOVED ") || reply.text.starts_with("ASK ")) {
      return Redirect(request, reply.text);
    }
    if (reply.text.starts_with("CLUSTERDOWN")) servers_->WantRefresh();
    // A fail-over behind one name, or one address: the way to the new master is a new connection.
    if (reply.text.starts_with("READONLY")) request->node->Renew(now_ns_);
    const StatusCode code = CodeOfError(reply.text);
    if (code != StatusCode::kExhausted) LogError(reply.text);
    return Finish(request, code);
  }
  if (op == StoreOp::kGet) {
    if (reply.kind == Kind::kNil) return Finish(request, StatusCode::kNotFound);
    if (reply.kind != Kind::kBulk) return Finish(request, StatusCode::kCorrupt, bytes);
    if (bytes >= kLargeBytes) expected_bytes_ = (expected_bytes_ * 7 + bytes) / 8;
    return Finish(request, StatusCode::kOk, bytes);
  }
  const Kind expected = op == StoreOp::kPut ? Kind::kSimple : Kind::kInteger;
  if (reply.kind != expected) return Finish(request, StatusCode::kCorrupt);
  const bool absent = op == StoreOp::kExists && reply.number == 0;
  Finish(request, absent ? StatusCode::kNotFound : StatusCode::kOk);
}

void RedisStore::Redirect(RedisRequest* request, std::string_view error) {
  const Result<RedisRedirect> redirect = ParseRedirect(error, request->node->address());
  if (redirect.ok()) {
    request->node->Count(redirect->ask ? ServerEventLabel::kAsk : ServerEventLabel::kMoved);
  }
  RedisNode* const node =
      redirect.ok() && request->redirects++ < kRedirectsMax ? servers_->Follow(*redirect) : nullptr;
  if (node == nullptr) {
    LogError(options_.cluster ? error : "a cluster's server: write redis+cluster://");
    return Finish(request, StatusCode::kUnavailable);
  }
  requests_.Compose(request, redirect->ask ? "ASKING" : ReadsReplicas(*request) ? "READWRITE" : "");
  Send(request, node);
}

void RedisStore::Finish(RedisRequest* request, StatusCode code, uint64_t bytes) {
  ready_.Push({request->request.user_data, code, bytes});
  if (options_.read_replicas && IsChange(request->request.op)) {
    changed_ns_[RedisSlot(request->key_text())] = now_ns_;
  }
  RedisRequest* const next = requests_.Release(request);
  if (next != nullptr) Start(next);
}

void RedisStore::LogError(std::string_view error) {
  if (logged_ns_ != INT64_MIN && now_ns_ - logged_ns_ < kLogEveryNs) return;
  logged_ns_ = now_ns_;
  Log(LogLevel::kWarn, "store {}: {}", Describe(), error);
}

}  // namespace

Result<std::unique_ptr<Store>> OpenRedisStore(const RedisStoreOptions& options,
                                              ServerTable* servers) {
  auto store = std::make_unique<RedisStore>(options);
  SS_TRY(store->Open(servers));
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shadowserve
