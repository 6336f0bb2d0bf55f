// What is particular to Redis stores: URLs, errors, faults of real servers and of the way to them.
#include "store/redis_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>

#include "base/clock.h"
#include "store/allocation_count_test.h"
#include "store/redis_process_test.h"
#include "store/redis_stats.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

// Short time-outs, for tests that wait for them.
constexpr const char* kFast = "?timeout_ms=300&connect_timeout_ms=300";

class RedisStoreTest : public testing::Test {
 protected:
  void SetUp() override { SS_NEEDS_REDIS(); }
  void Open(const std::string& url) {
    Result<std::unique_ptr<Store>> store = OpenStore(url, StoreOptions{{}, &servers_});
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    driver_.reset();
    store_ = std::move(store).value();
    driver_ = std::make_unique<StoreDriver>(store_.get());
  }
  // Asks again and again until the answer is `code`; false after 10 s.
  bool Becomes(StatusCode code, const ObjectName& name) {
    for (int i = 0; i < 1000; ++i) {
      if (driver_->GetCode(name) == code) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }
  double Seconds() const { return static_cast<double>(clock_.NowNs() - start_ns_) / 1e9; }
  void Restart() { start_ns_ = clock_.NowNs(); }

  // Of the first server that was opened.
  uint64_t Count(ServerEventLabel event) const { return servers_.rows()[0].events[event].value(); }
  BreakerState Breaker() const {
    return static_cast<BreakerState>(servers_.rows()[0].breaker.value());
  }

  const SteadyClock clock_;
  int64_t start_ns_ = 0;
  ServerTable servers_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<StoreDriver> driver_;
};

TEST_F(RedisStoreTest, OpensWithoutItsServerAndServesWhenItComes) {
  RedisProcess redis;
  redis.Kill();
  Open(redis.url());
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  EXPECT_EQ(driver_->PutPair(1, 100), StatusCode::kUnavailable);
  EXPECT_EQ(driver_->Delete(SegmentName(1)), StatusCode::kUnavailable);
  EXPECT_EQ(driver_->Run(StoreOp::kExists, SegmentName(1)).code, StatusCode::kUnavailable);
  EXPECT_EQ(store_->List([](const ObjectName&, uint64_t) { return true; }).code(),
            StatusCode::kUnavailable);
  redis.Start();
  EXPECT_TRUE(Becomes(StatusCode::kNotFound, SegmentName(1)));
  EXPECT_EQ(driver_->PutPair(1, 100), StatusCode::kOk);
}

TEST_F(RedisStoreTest, FailsAtOnceWhileItsServerIsAway) {
  RedisProcess redis;
  redis.Kill();
  Open(redis.url());
  Restart();
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  }
  EXPECT_LT(Seconds(), 1.0);
}

TEST_F(RedisStoreTest, ServesAgainAfterItsServerWasKilledAndCameBackEmpty) {
  RedisProcess redis;
  Open(redis.url());
  ASSERT_EQ(driver_->PutPair(1, 100'000), StatusCode::kOk);
  redis.Kill();
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  redis.Start();
  EXPECT_TRUE(Becomes(StatusCode::kNotFound, SegmentName(1)));
  ASSERT_EQ(driver_->PutPair(1, 100'000), StatusCode::kOk);
  EXPECT_TRUE(driver_->Holds(SegmentName(1), MakeContents(SegmentName(1), 100'000)));
}

TEST_F(RedisStoreTest, AKilledServerCompletesEveryRequestInFlightOnce) {
  RedisProcess redis;
  Open(redis.url());
  ASSERT_EQ(driver_->PutPair(1, 2'000'000), StatusCode::kOk);
  std::vector<Bytes> buffers(64, Bytes(2'000'000));
  const uint64_t first = driver_->Start(StoreOp::kGet, SegmentName(1), buffers[0]);
  for (size_t i = 1; i < buffers.size(); ++i) {
    (void)driver_->Start(i % 2 == 0 ? StoreOp::kPut : StoreOp::kGet,
                         SegmentName(i % 2 == 0 ? i : 1), buffers[i]);
  }
  (void)store_->Poll({});  // sends
  redis.Kill();
  driver_->Drain();
  EXPECT_EQ(driver_->twice(), 0u);
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_THAT(driver_->completions().at(first + i).code,
                AnyOf(StatusCode::kUnavailable, StatusCode::kOk));
  }
}

TEST_F(RedisStoreTest, AStoppedServerCostsOneTimeOutAndNoBufferIsTouchedLater) {
  RedisProcess redis;
  Open(redis.url() + kFast);
  const Bytes contents = MakeContents(SegmentName(1), 1'000'000);
  ASSERT_EQ(driver_->Put(SegmentName(1), contents), StatusCode::kOk);
  redis.Signal(SIGSTOP);
  Restart();
  Bytes buffer(1'000'000, std::byte{0x55});
  EXPECT_EQ(driver_->Run(StoreOp::kGet, SegmentName(1), buffer).code, StatusCode::kUnavailable);
  EXPECT_GT(Seconds(), 0.25);
  EXPECT_LT(Seconds(), 2.0);
  Restart();
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  }
  EXPECT_LT(Seconds(), 0.2);  // the breaker is open
  redis.Signal(SIGCONT);
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
  EXPECT_EQ(buffer, Bytes(1'000'000, std::byte{0x55}));
  EXPECT_TRUE(driver_->Holds(SegmentName(1), contents));
}

TEST_F(RedisStoreTest, CountsWhatHappensWithItsServer) {
  RedisProcess redis;
  Open(redis.url() + kFast);
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  ASSERT_EQ(servers_.rows().size(), 1u);
  EXPECT_EQ(servers_.rows()[0].name, redis.host_port());
  for (size_t i = 0; i < static_cast<size_t>(ServerEventLabel::kCount); ++i) {
    EXPECT_EQ(Count(static_cast<ServerEventLabel>(i)), 0u) << i;
  }
  redis.Signal(SIGSTOP);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  EXPECT_EQ(Breaker(), BreakerState::kOpen);
  EXPECT_EQ(Count(ServerEventLabel::kOpened), 1u);
  EXPECT_EQ(Count(ServerEventLabel::kTimeout), 1u);
  redis.Signal(SIGCONT);
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
  EXPECT_EQ(Breaker(), BreakerState::kClosed);
  EXPECT_EQ(Count(ServerEventLabel::kOpened), 1u);
  EXPECT_GE(Count(ServerEventLabel::kProbe), 1u);
  EXPECT_GE(Count(ServerEventLabel::kReconnect), 1u);
  EXPECT_EQ(Count(ServerEventLabel::kMoved) + Count(ServerEventLabel::kAsk), 0u);
}

TEST_F(RedisStoreTest, AnOwnerThatIsAwayIsNotTakenForASilentServer) {
  RedisProcess redis;
  Open(redis.url() + kFast);
  ASSERT_EQ(driver_->PutPair(1, 3'000'000), StatusCode::kOk);
  std::vector<Bytes> buffers(20, Bytes(3'000'000));
  const uint64_t first = driver_->Start(StoreOp::kGet, SegmentName(1), buffers[0]);
  for (size_t i = 1; i < buffers.size(); ++i) {
    (void)driver_->Start(StoreOp::kGet, SegmentName(1), buffers[i]);
  }
  (void)store_->Poll({});
  std::this_thread::sleep_for(std::chrono::milliseconds(800));
  driver_->Drain();
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(driver_->completions().at(first + i).code, StatusCode::kOk);
  }
}

TEST_F(RedisStoreTest, AFullServerIsExhaustedAndGoesOnServing) {
  RedisProcess redis({"--maxmemory", "8mb", "--maxmemory-policy", "noeviction"});
  Open(redis.url());
  ASSERT_EQ(driver_->PutPair(1, 1'000'000), StatusCode::kOk);
  StatusCode code = StatusCode::kOk;
  for (uint64_t i = 2; i < 20 && code == StatusCode::kOk; ++i)
    code = driver_->PutPair(i, 1'000'000);
  EXPECT_EQ(code, StatusCode::kExhausted);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kOk);
  EXPECT_EQ(driver_->Delete(SegmentName(1)), StatusCode::kOk);
}

TEST_F(RedisStoreTest, EvictionAndExpiryAreMisses) {
  RedisProcess redis({"--maxmemory", "8mb", "--maxmemory-policy", "allkeys-lru"});
  Open(redis.url() + "?ttl_s=1");
  for (uint64_t i = 0; i < 20; ++i) ASSERT_EQ(driver_->PutPair(i, 1'000'000), StatusCode::kOk);
  uint64_t kept = 0;
  for (uint64_t i = 0; i < 20; ++i) {
    const StatusCode code = driver_->GetCode(SegmentName(i));
    EXPECT_THAT(code, AnyOf(StatusCode::kOk, StatusCode::kNotFound));
    kept += code == StatusCode::kOk ? 1 : 0;
  }
  EXPECT_LT(kept, 9u);
  EXPECT_GT(kept, 0u);
  EXPECT_TRUE(Becomes(StatusCode::kNotFound, SegmentName(19)));
}

TEST_F(RedisStoreTest, AnotherTypeUnderTheNameIsCorrupt) {
  RedisProcess redis;
  Open(redis.url());
  (void)redis.Ask({"HSET", ToString(SegmentName(1)), "a", "b"});
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kCorrupt);
  ASSERT_EQ(driver_->PutPair(1, 10), StatusCode::kOk);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kOk);
}

TEST_F(RedisStoreTest, AValueThatGrewIsCorruptAndTheConnectionGoesOn) {
  RedisProcess redis;
  Open(redis.url() + "?connections=1");
  ASSERT_EQ(driver_->Put(SegmentName(1), Bytes(3'000'000)), StatusCode::kOk);
  Bytes buffer(1'000'001, std::byte{0x55});
  const StoreCompletion done =
      driver_->Run(StoreOp::kGet, SegmentName(1), std::span(buffer).first(1'000'000));
  EXPECT_EQ(done.code, StatusCode::kCorrupt);
  EXPECT_EQ(done.bytes, 3'000'000u);
  EXPECT_EQ(buffer, Bytes(1'000'001, std::byte{0x55}));
  EXPECT_EQ(driver_->Run(StoreOp::kExists, SegmentName(1)).code, StatusCode::kOk);
  EXPECT_EQ(redis.Ask({"INFO", "stats"}).find("total_connections_received:0"), std::string::npos);
}

TEST_F(RedisStoreTest, AReplicaRefusesToBeChangedAndServesReads) {
  RedisProcess master;
  Open(master.url());
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  RedisProcess replica({"--replicaof", "127.0.0.1", std::to_string(master.port()),
                        "--repl-diskless-sync-delay", "0"});
  Open(replica.url());
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
  EXPECT_EQ(driver_->PutPair(2, 1000), StatusCode::kUnavailable);
  EXPECT_EQ(driver_->Delete(SegmentName(1)), StatusCode::kUnavailable);
}

// Behind one address, as fail-overs of hosted servers are: connections that are open stay with the
// old master, which is a replica now.
TEST_F(RedisStoreTest, AnAddressThatLeadsToANewMasterIsConnectedAnew) {
  RedisProcess first;
  RedisProcess second;
  RedisProxy address(first.port());
  Open(address.url());
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  ASSERT_THAT(first.Ask({"REPLICAOF", "127.0.0.1", std::to_string(second.port())}),
              HasSubstr("OK"));
  address.Lead(second.port());
  const uint64_t opened = Count(ServerEventLabel::kOpened);
  const uint64_t connections = address.connections();
  EXPECT_EQ(driver_->PutPair(2, 1000), StatusCode::kUnavailable);
  bool stored = false;
  for (int i = 0; i < 500 && !stored; ++i) stored = driver_->PutPair(2, 1000) == StatusCode::kOk;
  EXPECT_TRUE(stored);
  EXPECT_TRUE(driver_->Holds(SegmentName(2), MakeContents(SegmentName(2), 1000)));
  EXPECT_GT(address.connections(), connections);
  EXPECT_EQ(Count(ServerEventLabel::kOpened), opened);
  EXPECT_THAT(second.Ask({"DBSIZE"}), HasSubstr(":2"));
}

TEST_F(RedisStoreTest, AReplicaWithoutItsMasterIsAway) {
  RedisProcess replica({"--replicaof", "127.0.0.1", "1", "--replica-serve-stale-data", "no"});
  Open(replica.url());
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  ASSERT_THAT(replica.Ask({"REPLICAOF", "NO", "ONE"}), HasSubstr("OK"));
  EXPECT_TRUE(Becomes(StatusCode::kNotFound, SegmentName(1)));
}

TEST_F(RedisStoreTest, ALoadingServerIsUnavailableUntilItHasLoaded) {
  RedisProcess redis({"--loading-process-events-interval-bytes", "1024", "--rdbcompression", "no",
                      "--rdbchecksum", "no"});
  Open(redis.url() + "?connect_timeout_ms=500");
  for (uint64_t i = 0; i < 400; ++i) ASSERT_EQ(driver_->PutPair(i, 1000), StatusCode::kOk);
  ASSERT_THAT(redis.Ask({"SAVE"}), HasSubstr("OK"));
  // Loading is slowed down: each key takes 5 ms.
  redis.set_arguments(
      {"--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"});
  redis.Kill();
  redis.Start(false);
  bool loading = false;
  for (int i = 0; i < 200 && !loading; ++i) {
    loading = redis.Ask({"PING"}).starts_with("-LOADING");
    if (!loading) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  ASSERT_TRUE(loading);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  Result<std::unique_ptr<Store>> second = OpenStore(redis.url(), {});
  EXPECT_TRUE(second.ok());  // it will pass: no reason to refuse to start
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
}

TEST_F(RedisStoreTest, RefusesToStartWithAWrongPasswordAndSaysWhy) {
  RedisProcess redis({"--requirepass", "right"});
  for (const std::string user : {"", ":wrong@", "nobody:right@"}) {
    const Status status = OpenStore("redis://" + user + redis.host_port(), {}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << user;
    EXPECT_THAT(std::string(status.message()), AnyOf(HasSubstr("NOAUTH"), HasSubstr("WRONGPASS")));
    EXPECT_EQ(std::string(status.message()).find("wrong@"), std::string::npos);
    EXPECT_EQ(std::string(status.message()).find('\n'), std::string::npos);
  }
  Open("redis://:right@" + redis.host_port());
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kNotFound);
  // Changed under way: what is connected stays, what comes later is refused.
  (void)redis.Ask({"CONFIG", "SET", "requirepass", "other"});
  redis.set_password("other");
  (void)redis.Ask({"CLIENT", "KILL", "TYPE", "normal"});
  EXPECT_TRUE(Becomes(StatusCode::kUnavailable, SegmentName(1)));
  (void)redis.Ask({"CONFIG", "SET", "requirepass", "right"});
  EXPECT_TRUE(Becomes(StatusCode::kNotFound, SegmentName(1)));
}

TEST_F(RedisStoreTest, ReadsThePasswordFromAFile) {
  RedisProcess redis({"--requirepass", "right one"});
  const std::string file = redis.directory() + "/password";
  std::ofstream(file) << "right one\n";
  Open(redis.url() + "?password_file=" + file);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kNotFound);
  EXPECT_EQ(store_->Describe(), redis.url());
  EXPECT_EQ(OpenStore(redis.url() + "?password_file=/none", {}).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_F(RedisStoreTest, RefusesToStartOnADatabaseThatIsNotThereOrAServerThatIsNoCluster) {
  RedisProcess redis;
  EXPECT_THAT(OpenStore(redis.url() + "/99", {}).status().ToString(), HasSubstr("DB index"));
  EXPECT_THAT(OpenStore("redis+cluster://" + redis.host_port(), {}).status().ToString(),
              HasSubstr("cluster support disabled"));
}

TEST_F(RedisStoreTest, ACutInTheMiddleOfAValueIsUnavailableThenServedByANewConnection) {
  RedisProcess redis;
  RedisProxy proxy(redis.port());
  Open(proxy.url());
  const Bytes contents = MakeContents(SegmentName(1), 1'000'000);
  ASSERT_EQ(driver_->Put(SegmentName(1), contents), StatusCode::kOk);
  for (const uint64_t after : {uint64_t{0}, uint64_t{1}, uint64_t{9}, uint64_t{10}, uint64_t{11},
                               uint64_t{500'000}, uint64_t{1'000'009}, uint64_t{1'000'011}}) {
    proxy.Set(RedisProxy::Mode::kCut, after);
    EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable) << after;
    proxy.Set(RedisProxy::Mode::kForward);
    EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
    EXPECT_TRUE(driver_->Holds(SegmentName(1), contents));
  }
}

// Host names as this test says, for this process only: files of its own over the system's.
class HostNames {
 public:
  // False: this user may not have a mount namespace.
  bool Begin() {
    const int flags = CLONE_NEWNS | (geteuid() == 0 ? 0 : CLONE_NEWUSER);
    if (unshare(flags) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      return false;
    }
    Write("nsswitch.conf", "hosts: files\n");
    Write("hosts", "");
    mounted_ = Mount("nsswitch.conf") && Mount("hosts");
    return mounted_;
  }
  ~HostNames() {
    if (!mounted_) return;
    (void)umount("/etc/hosts");
    (void)umount("/etc/nsswitch.conf");
  }
  void Set(const std::string& address) { Write("hosts", address + " cache.test\n"); }
  void Forget() { Write("hosts", ""); }

 private:
  void Write(const std::string& file, const std::string& text) const {
    std::ofstream(dir_.path() + "/" + file) << text;
  }
  bool Mount(const std::string& file) const {
    const std::string from = dir_.path() + "/" + file;
    return mount(from.c_str(), ("/etc/" + file).c_str(), nullptr, MS_BIND, nullptr) == 0;
  }
  TempDir dir_;
  bool mounted_ = false;
};

TEST_F(RedisStoreTest, AHostNameIsResolvedAnewForEachConnectionInPlaceOfAnother) {
  HostNames names;
  if (!names.Begin()) GTEST_SKIP() << "no mount namespace: " << std::strerror(errno);
  RedisProcess redis({"--bind", "127.0.0.1", "127.0.0.2"});
  const auto connected_to = [&redis](const std::string& address) {
    const std::string clients = redis.Ask({"CLIENT", "LIST", "TYPE", "NORMAL"});
    return clients.find("laddr=" + address + ":") != std::string::npos;
  };
  Open("redis://cache.test:" + std::to_string(redis.port()));
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);  // no such name
  names.Set("127.0.0.1");
  ASSERT_TRUE(Becomes(StatusCode::kNotFound, SegmentName(1)));
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  EXPECT_FALSE(connected_to("127.0.0.2"));
  const uint64_t opened = Count(ServerEventLabel::kOpened);
  // It moves. The old place answers as well: only a new look at the name tells.
  names.Set("127.0.0.2");
  (void)redis.Ask({"CLIENT", "KILL", "TYPE", "NORMAL"});
  bool moved = false;
  for (int i = 0; i < 500 && !moved; ++i) {
    (void)driver_->GetCode(SegmentName(1));
    moved = connected_to("127.0.0.2");
  }
  EXPECT_TRUE(moved);
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
  // A name that is no longer known: what was known of it goes on.
  names.Forget();
  (void)redis.Ask({"CLIENT", "KILL", "TYPE", "NORMAL"});
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
  EXPECT_EQ(Count(ServerEventLabel::kOpened), opened);
}

TEST_F(RedisStoreTest, NoiseInPlaceOfARepliesHeaderIsUnavailable) {
  RedisProcess redis;
  RedisProxy proxy(redis.port());
  Open(proxy.url());
  ASSERT_EQ(driver_->PutPair(1, 100'000), StatusCode::kOk);
  proxy.Set(RedisProxy::Mode::kGarble, 0);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  proxy.Set(RedisProxy::Mode::kForward);
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
}

TEST_F(RedisStoreTest, AServerThatDripsIsADeadOne) {
  RedisProcess redis;
  RedisProxy proxy(redis.port());
  Open(proxy.url() + kFast);
  ASSERT_EQ(driver_->PutPair(1, 500'000), StatusCode::kOk);
  proxy.Set(RedisProxy::Mode::kDrip, 1000);
  Restart();
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
  EXPECT_LT(Seconds(), 2.0);
  proxy.Set(RedisProxy::Mode::kForward);
  EXPECT_TRUE(Becomes(StatusCode::kOk, SegmentName(1)));
}

TEST_F(RedisStoreTest, QuestionsDoNotStandBehindValues) {
  RedisProcess redis;
  Open(redis.url() + "?connections=1");
  ASSERT_EQ(driver_->PutPair(1, 4'000'000), StatusCode::kOk);
  std::vector<Bytes> buffers(50, Bytes(4'000'000));
  std::vector<uint64_t> gets;
  for (Bytes& buffer : buffers) {
    gets.push_back(driver_->Start(StoreOp::kGet, SegmentName(1), buffer));
  }
  const uint64_t question = driver_->Start(StoreOp::kExists, MarkerName(1));
  while (!driver_->completions().contains(question)) driver_->WaitAndPoll();
  EXPECT_FALSE(driver_->completions().contains(gets[25]));
  driver_->Drain();
}

TEST_F(RedisStoreTest, RequestsAllocateNothing) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "not checked under a sanitizer, which has its own allocator";
#endif
  RedisProcess redis;
  Open(redis.url());
  Bytes buffer(300'000);
  const auto run = [&](StoreOp op, const ObjectName& name) {
    const StoreRequest request{
        op, name, IsChange(op) || op == StoreOp::kGet ? std::span(buffer) : std::span<std::byte>(),
        1};
    while (store_->Submit(std::span(&request, 1)) == 0) {
    }
    StoreCompletion done;
    while (store_->Poll(std::span(&done, 1)) == 0) {
    }
    return done.code;
  };
  const ObjectName name = SegmentName(1);
  ASSERT_EQ(run(StoreOp::kPut, name), StatusCode::kOk);
  const AllocationCount before = CountAllocations();
  for (int i = 0; i < 50; ++i) {
    ASSERT_EQ(run(StoreOp::kPut, name), StatusCode::kOk);
    ASSERT_EQ(run(StoreOp::kGet, name), StatusCode::kOk);
    ASSERT_EQ(run(StoreOp::kExists, name), StatusCode::kOk);
  }
  EXPECT_EQ(CountAllocations().calls, before.calls);
}

TEST_F(RedisStoreTest, TellsWhatTheServerSaysAboutItself) {
  RedisProcess redis({"--maxmemory", "64mb"});
  Open(redis.url());
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(driver_->PutPair(i, 100'000), StatusCode::kOk);
  StoreStats stats = store_->Stats();
  for (int i = 0; i < 100 && stats.objects == 0; ++i) {
    (void)driver_->GetCode(MarkerName(1));
    stats = store_->Stats();
  }
  EXPECT_EQ(stats.objects, 10u);
  EXPECT_GT(stats.bytes, 500'000u);
  EXPECT_EQ(stats.capacity_bytes, uint64_t{64} << 20);
}

TEST_F(RedisStoreTest, TlsTrustsOnlyTheRightServer) {
  const TempDir dir;
  if (!MakeCertificates(dir.path(), "DNS:cache.example,IP:127.0.0.1")) {
    GTEST_SKIP() << "no openssl program";
  }
  RedisProcess redis(TlsArguments(dir.path()), true);
  const std::string url = "rediss://127.0.0.1:" + std::to_string(redis.tls_port());
  const std::string ca = "?ca_file=" + dir.path() + "/ca.crt";
  const std::string own =
      "&cert_file=" + dir.path() + "/client.crt&key_file=" + dir.path() + "/client.key";
  Open(url + ca + own);
  ASSERT_EQ(driver_->PutPair(1, 1'000'000), StatusCode::kOk);
  Open(url + ca + own + "&server_name=cache.example");
  EXPECT_TRUE(driver_->Holds(SegmentName(1), MakeContents(SegmentName(1), 1'000'000)));
  const auto refusal = [](const std::string& bad) {
    const Status status = OpenStore(bad, {}).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << bad;
    return status.ToString();
  };
  EXPECT_THAT(refusal(url + ca + own + "&server_name=other.example"), HasSubstr("not trusted"));
  EXPECT_THAT(refusal(url + "?ca_file=" + dir.path() + "/stranger.crt" + own),
              HasSubstr("not trusted"));
  EXPECT_THAT(refusal(url), HasSubstr("not trusted"));
  EXPECT_THAT(refusal(url + "?ca_file=/none"), HasSubstr("ca_file"));
  // A plain port waits for more of what it takes for a command: away, not refused.
  Open("rediss://" + redis.host_port() + ca + "&connect_timeout_ms=300");
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kUnavailable);
}

TEST(RedisStats, ReadsNumbersOfInfo) {
  const std::string_view info =
      "# Memory\r\nused_memory:123\r\nused_memory_rss:9\r\ndb1:keys=7,expires=0\r\n";
  EXPECT_EQ(InfoNumber(info, "used_memory:"), 123u);
  EXPECT_EQ(InfoNumber(info, "db1:keys="), 7u);
  EXPECT_EQ(InfoNumber(info, "keys="), 0u);
  EXPECT_EQ(InfoNumber("", "x:"), 0u);
}

}  // namespace
}  // namespace shadowserve
