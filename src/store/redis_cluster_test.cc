// Clusters: who serves which key, and what happens when that changes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "base/clock.h"
#include "store/redis_process_test.h"
#include "store/redis_slots.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

using testing::AnyOf;

// [[0, 5460, ["10.0.0.1", 7000, "id"], ["10.0.0.2", 7001, "id"]], ...], by the collector itself.
std::vector<RespItem> Collect(std::string_view stream) {
  RespReader reader;
  RespCollector collector;
  while (true) {
    RespToken token;
    if (reader.Next(collector.target(), &token) == RespReader::Step::kToken) {
      if (collector.Add(token) != RespCollector::Step::kMore) return collector.items();
      continue;
    }
    iovec places[2];
    (void)reader.Places(64, stream.size(), places);
    const size_t bytes = std::min(places[0].iov_len, stream.size());
    SS_CHECK(bytes > 0, "the stream ends too early");
    std::memcpy(places[0].iov_base, stream.data(), bytes);
    stream.remove_prefix(bytes);
    reader.Received(bytes);
  }
}

// Values of the cluster specification ("123456789" is the CRC's published check value), and of
// CLUSTER KEYSLOT of Redis 7.0.15.
TEST(RedisSlots, AreThoseOfTheSpecification) {
  EXPECT_EQ(RedisSlot("123456789"), 0x31C3u % 16384);
  EXPECT_EQ(RedisSlot("foo"), 12182u);
  EXPECT_EQ(RedisSlot("{user1000}.following"), RedisSlot("{user1000}.followers"));
  EXPECT_EQ(RedisSlot("foo{}{bar}"), RedisSlot("foo{}{bar}"));
  EXPECT_NE(RedisSlot("foo{}{bar}"), RedisSlot("bar"));
  EXPECT_EQ(RedisSlot("foo{{bar}}zap"), RedisSlot("{bar"));
  EXPECT_EQ(RedisSlot("foo{bar}{zap}"), RedisSlot("bar"));
  EXPECT_EQ(RedisSlot("{open"), RedisSlot("{open"));
  EXPECT_EQ(RedisSlot(""), 0u);
}

TEST(RedisSlots, ObjectsOfAChunkShareOne) {
  ObjectName name = SegmentName(1);
  const uint32_t slot = RedisSlot("prefix:" + ToString(name));
  name.first_layer = 9;
  name.kind = ObjectKind::kMarker;
  EXPECT_EQ(RedisSlot("prefix:" + ToString(name)), slot);
  EXPECT_NE(RedisSlot("prefix:" + ToString(SegmentName(2))), slot);
}

TEST(RedisSlots, ReadsTheMap) {
  const auto ranges = ParseClusterSlots(
      Collect(
          "*2\r\n*4\r\n:0\r\n:99\r\n*4\r\n$8\r\n10.0.0.1\r\n:7000\r\n$2\r\nid\r\n*2\r\n$1\r\na\r\n"
          "$1\r\nb\r\n*3\r\n$8\r\n10.0.0.2\r\n:7001\r\n$2\r\nid\r\n"
          "*3\r\n:100\r\n:16383\r\n*3\r\n$3\r\n::1\r\n:7002\r\n$2\r\nid\r\n"),
      {"asked", 1});
  ASSERT_TRUE(ranges.ok()) << ranges.status().ToString();
  ASSERT_EQ(ranges->size(), 2u);
  EXPECT_EQ((*ranges)[0].last, 99u);
  EXPECT_EQ((*ranges)[0].master.host, "10.0.0.1");
  ASSERT_EQ((*ranges)[0].replicas.size(), 1u);
  EXPECT_EQ((*ranges)[0].replicas[0].host, "10.0.0.2");
  EXPECT_EQ((*ranges)[0].replicas[0].port, 7001);
  EXPECT_TRUE((*ranges)[1].replicas.empty());
  EXPECT_EQ((*ranges)[1].first, 100u);
  EXPECT_EQ((*ranges)[1].master.host, "[::1]");
  EXPECT_EQ((*ranges)[1].master.port, 7002);
}

TEST(RedisSlots, AMasterWithoutAnAddressIsTheOneThatWasAsked) {
  for (const char* host : {"$-1\r\n", "$0\r\n\r\n"}) {
    const auto ranges = ParseClusterSlots(
        Collect("*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n" + std::string(host) + ":7002\r\n"),
        {"asked", 1});
    ASSERT_TRUE(ranges.ok());
    EXPECT_EQ((*ranges)[0].master.host, "asked");
    EXPECT_EQ((*ranges)[0].master.port, 7002);
  }
}

TEST(RedisSlots, RefusesNonsense) {
  for (const char* bad :
       {"*0\r\n", ":1\r\n", "*1\r\n:1\r\n", "*1\r\n*1\r\n:1\r\n", "*1\r\n*2\r\n:0\r\n:1\r\n",
        "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n",
        "*1\r\n*3\r\n:5\r\n:4\r\n*2\r\n$1\r\na\r\n:1\r\n",
        "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\na\r\n:0\r\n",
        "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\na\r\n:65536\r\n",
        "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n:1\r\n:1\r\n", "*1\r\n*3\r\n:0\r\n:1\r\n:2\r\n",
        "*1\r\n*3\r\n:0\r\n:1\r\n*1\r\n$1\r\na\r\n",
        "*1\r\n*4\r\n:0\r\n:1\r\n*2\r\n$1\r\na\r\n:1\r\n*2\r\n$1\r\nb\r\n:0\r\n"}) {
    EXPECT_FALSE(ParseClusterSlots(Collect(bad), {"asked", 1}).ok()) << bad;
  }
  EXPECT_FALSE(ParseClusterSlots({}, {"asked", 1}).ok());
}

TEST(RedisSlots, ReadsRedirects) {
  const auto moved = ParseRedirect("MOVED 3999 127.0.0.1:6381", {"asked", 1});
  ASSERT_TRUE(moved.ok());
  EXPECT_FALSE(moved->ask);
  EXPECT_EQ(moved->slot, 3999u);
  EXPECT_EQ(moved->server.host, "127.0.0.1");
  EXPECT_EQ(moved->server.port, 6381);
  const auto ask = ParseRedirect("ASK 0 ::1:6381", {"asked", 1});
  ASSERT_TRUE(ask.ok());
  EXPECT_TRUE(ask->ask);
  EXPECT_EQ(ask->server.host, "[::1]");
  EXPECT_EQ(ParseRedirect("MOVED 1 :6381", {"asked", 1})->server.host, "asked");
  for (const char* bad :
       {"MOVED", "MOVED ", "MOVED x a:1", "MOVED 16384 a:1", "MOVED 1 a",
        "MOVED 1 a:", "MOVED 1 a:0", "MOVED 1 a:70000", "MOVED 1 a:1 ", "ERR", "MOVED 1", ""}) {
    EXPECT_FALSE(ParseRedirect(bad, {"asked", 1}).ok()) << bad;
  }
}

class RedisClusterTest : public testing::Test {
 protected:
  static constexpr uint64_t kObjects = 60;

  void SetUp() override { SS_NEEDS_REDIS(); }
  void Open(RedisClusterProcesses* cluster, const std::string& options = "") {
    Result<std::unique_ptr<Store>> store =
        OpenStore(cluster->url() + options, StoreOptions{{}, &servers_});
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    store_ = std::move(store).value();
    driver_ = std::make_unique<StoreDriver>(store_.get());
    for (uint64_t i = 0; i < kObjects; ++i) {
      ASSERT_EQ(driver_->PutPair(i, 1000 + i), StatusCode::kOk);
    }
  }
  bool AllHold() {
    for (uint64_t i = 0; i < kObjects; ++i) {
      if (!driver_->Holds(SegmentName(i), MakeContents(SegmentName(i), 1000 + i))) return false;
    }
    return true;
  }
  bool AllHoldSoon() {
    for (int i = 0; i < 500; ++i) {
      if (AllHold()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  // Which third of the slots an object lives in.
  static size_t MasterOf(uint64_t number) {
    const uint32_t slot = RedisSlot(ToString(SegmentName(number)));
    return slot < 16384 / 3 ? 0 : slot < 16384 * 2 / 3 ? 1 : 2;
  }

  const ServerMetrics& CountsOf(const RedisProcess& server) {
    return *servers_.RowOf(server.host_port());
  }

  const SteadyClock clock_;
  ServerTable servers_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<StoreDriver> driver_;
};

TEST_F(RedisClusterTest, AKilledMasterIsReplacedByItsReplicaAndOthersGoOn) {
  RedisClusterProcesses cluster;
  Open(&cluster, "?timeout_ms=500");
  // Replication is asynchronous: what a replica had not seen would be lost.
  for (size_t i = 0; i < cluster.masters(); ++i) (void)cluster.master(i).Ask({"WAIT", "1", "1000"});
  cluster.master(1).Kill();
  for (uint64_t i = 0; i < kObjects; ++i) {
    const StatusCode code = driver_->GetCode(SegmentName(i));
    if (MasterOf(i) != 1) {
      EXPECT_EQ(code, StatusCode::kOk) << i;
    } else {
      EXPECT_THAT(code, AnyOf(StatusCode::kOk, StatusCode::kUnavailable)) << i;
    }
  }
  EXPECT_TRUE(AllHoldSoon());
  EXPECT_EQ(driver_->PutPair(1000, 5000), StatusCode::kOk);
  // The dead one left the cluster: nobody is to be alarmed for ever.
  EXPECT_EQ(CountsOf(cluster.master(1)).events[ServerEventLabel::kOpened].value(), 1u);
  EXPECT_EQ(CountsOf(cluster.master(1)).breaker.value(),
            static_cast<int64_t>(BreakerState::kClosed));
  EXPECT_EQ(CountsOf(cluster.master(0)).events[ServerEventLabel::kOpened].value(), 0u);
}

TEST_F(RedisClusterTest, AFailOverByHandLosesNothing) {
  RedisClusterProcesses cluster;
  Open(&cluster);
  ASSERT_TRUE(cluster.replica(0).Ask({"CLUSTER", "FAILOVER"}).starts_with("+OK"));
  for (int i = 0; i < 20; ++i) {
    for (uint64_t object = 0; object < kObjects; ++object) {
      // While it changes over, a server may close connections or refuse; it never lies.
      EXPECT_THAT(driver_->GetCode(SegmentName(object)),
                  AnyOf(StatusCode::kOk, StatusCode::kUnavailable));
    }
  }
  EXPECT_TRUE(AllHoldSoon());
  for (uint64_t i = 0; i < kObjects; ++i) {
    EXPECT_EQ(driver_->PutPair(i, 1000 + i), StatusCode::kOk) << i;  // to the new masters
  }
}

TEST_F(RedisClusterTest, FollowsASlotWhileAndAfterItMigrates) {
  RedisClusterProcesses cluster(3, false);
  Open(&cluster);
  // The slot of an object of master 0, to master 1.
  uint64_t object = 0;
  while (MasterOf(object) != 0) ++object;
  const ObjectName name = SegmentName(object);
  const std::string slot = std::to_string(RedisSlot(ToString(name)));
  RedisProcess& from = cluster.master(0);
  RedisProcess& to = cluster.master(1);
  const std::string from_id = from.Ask({"CLUSTER", "MYID"}).substr(5, 40);
  const std::string to_id = to.Ask({"CLUSTER", "MYID"}).substr(5, 40);
  const Bytes contents = MakeContents(name, 1000 + object);
  ASSERT_TRUE(to.Ask({"CLUSTER", "SETSLOT", slot, "IMPORTING", from_id}).starts_with("+OK"));
  ASSERT_TRUE(from.Ask({"CLUSTER", "SETSLOT", slot, "MIGRATING", to_id}).starts_with("+OK"));
  EXPECT_TRUE(driver_->Holds(name, contents));  // still there
  ASSERT_TRUE(
      from.Ask({"MIGRATE", "127.0.0.1", std::to_string(to.port()), ToString(name), "0", "5000"})
          .starts_with("+OK"));
  EXPECT_TRUE(driver_->Holds(name, contents));  // by ASK
  EXPECT_EQ(CountsOf(from).events[ServerEventLabel::kAsk].value(), 1u);
  EXPECT_EQ(CountsOf(from).events[ServerEventLabel::kMoved].value(), 0u);
  // New objects of a migrating slot are born at its destination.
  ObjectName sibling = name;
  sibling.first_layer = 7;
  const Bytes more = MakeContents(sibling, 200'000);
  EXPECT_EQ(driver_->Put(sibling, more), StatusCode::kOk);
  EXPECT_TRUE(driver_->Holds(sibling, more));
  EXPECT_EQ(driver_->Run(StoreOp::kExists, sibling).code, StatusCode::kOk);
  EXPECT_EQ(driver_->Delete(sibling), StatusCode::kOk);
  EXPECT_EQ(driver_->GetCode(sibling), StatusCode::kNotFound);
  const std::string rest = from.Ask({"CLUSTER", "GETKEYSINSLOT", slot, "10"});
  ASSERT_NE(rest.find(ToString(name.AsKind(ObjectKind::kMarker))), std::string::npos);
  ASSERT_TRUE(from.Ask({"MIGRATE", "127.0.0.1", std::to_string(to.port()),
                        ToString(name.AsKind(ObjectKind::kMarker)), "0", "5000"})
                  .starts_with("+OK"));
  for (RedisProcess* server : {&to, &from, &cluster.master(2)}) {
    ASSERT_TRUE(server->Ask({"CLUSTER", "SETSLOT", slot, "NODE", to_id}).starts_with("+OK"));
  }
  EXPECT_TRUE(driver_->Holds(name, contents));  // by MOVED
  EXPECT_EQ(CountsOf(from).events[ServerEventLabel::kMoved].value(), 1u);
  EXPECT_TRUE(AllHold());
}

TEST_F(RedisClusterTest, AStoppedServerDoesNotHoldUpTheOthers) {
  RedisClusterProcesses cluster(3, false);
  Open(&cluster, "?timeout_ms=1500");
  cluster.master(2).Signal(SIGSTOP);
  std::vector<Bytes> buffers(kObjects, Bytes(2000));
  const int64_t start_ns = clock_.NowNs();
  std::map<uint64_t, uint64_t> object_of;
  size_t others = 0;
  for (uint64_t i = 0; i < kObjects; ++i) {
    object_of[driver_->Start(StoreOp::kGet, SegmentName(i), buffers[i])] = i;
    others += MasterOf(i) != 2 ? 1 : 0;
  }
  const auto answered = [&] {
    return std::ranges::count_if(object_of, [&](const auto& get) {
      return MasterOf(get.second) != 2 && driver_->completions().contains(get.first);
    });
  };
  while (answered() < static_cast<int64_t>(others)) driver_->WaitAndPoll();
  EXPECT_LT(static_cast<double>(clock_.NowNs() - start_ns) / 1e9, 0.5);
  driver_->Drain();
  for (const auto& [get, object] : object_of) {
    EXPECT_EQ(driver_->completions().at(get).code,
              MasterOf(object) == 2 ? StatusCode::kUnavailable : StatusCode::kOk);
  }
  cluster.master(2).Signal(SIGCONT);
  EXPECT_TRUE(AllHoldSoon());
}

TEST_F(RedisClusterTest, AClusterThatIsDownIsUnavailableUntilItIsWholeAgain) {
  RedisClusterProcesses cluster(3, false);
  Open(&cluster, "?timeout_ms=500");
  uint64_t object = 0;
  while (MasterOf(object) != 1) ++object;
  cluster.master(0).Kill();
  StatusCode code = StatusCode::kOk;
  for (int i = 0; i < 500 && code == StatusCode::kOk; ++i) {
    code = driver_->GetCode(SegmentName(object));  // of another master: it refuses, CLUSTERDOWN
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(code, StatusCode::kUnavailable);
  cluster.master(0).Start();
  for (int i = 0; i < 500 && code != StatusCode::kOk; ++i) {
    code = driver_->PutPair(object, 1000);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  EXPECT_EQ(code, StatusCode::kOk);
}

// Another process that reads what this one's store_ puts, from replicas too.
class RedisReplicaTest : public RedisClusterTest {
 protected:
  void OpenReader(RedisClusterProcesses* cluster) {
    Open(cluster);
    for (size_t i = 0; i < cluster->masters(); ++i) {
      (void)cluster->master(i).Ask({"WAIT", "1", "1000"});
    }
    writer_ = std::move(store_);
    writing_ = std::move(driver_);
    Result<std::unique_ptr<Store>> store =
        OpenStore(cluster->url() + "?read_replicas=1&timeout_ms=500", StoreOptions{{}, &reading_});
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    store_ = std::move(store).value();
    driver_ = std::make_unique<StoreDriver>(store_.get());
    // Connections to replicas are made in the background.
    for (int i = 0; i < 500 && Reads(cluster->replica(0)) == 0; ++i) ASSERT_TRUE(AllHold());
    ASSERT_GT(Reads(cluster->replica(0)), 0u);
  }
  uint64_t Reads(const RedisProcess& server) {
    return reading_.RowOf(server.host_port())->events[ServerEventLabel::kReplicaRead].value();
  }
  uint64_t Retries(const RedisProcess& server) {
    return reading_.RowOf(server.host_port())->events[ServerEventLabel::kReplicaRetry].value();
  }
  // It goes on serving what it has, and learns nothing more.
  static void CutOff(const RedisProcess& replica) {
    (void)replica.Ask({"CONFIG", "SET", "masteruser", "nobody"});
    (void)replica.Ask({"CONFIG", "SET", "masterauth", "wrong"});
    ASSERT_EQ(replica.Ask({"CLIENT", "KILL", "TYPE", "master"}), ":1\r\n");
  }

  ServerTable reading_;
  std::unique_ptr<Store> writer_;
  std::unique_ptr<StoreDriver> writing_;
};

TEST_F(RedisReplicaTest, GetsAreSpreadOverMasterAndReplica) {
  RedisClusterProcesses cluster;
  OpenReader(&cluster);
  for (size_t i = 0; i < cluster.masters(); ++i) {
    (void)cluster.master(i).Ask({"CONFIG", "RESETSTAT"});
    (void)cluster.replica(i).Ask({"CONFIG", "RESETSTAT"});
  }
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(AllHold());
  for (size_t i = 0; i < cluster.masters(); ++i) {
    for (const RedisProcess* server : {&cluster.master(i), &cluster.replica(i)}) {
      EXPECT_NE(server->Ask({"INFO", "commandstats"}).find("cmdstat_get:"), std::string::npos) << i;
    }
    EXPECT_EQ(Retries(cluster.replica(i)), 0u);
  }
}

TEST_F(RedisReplicaTest, WhatAReplicaDoesNotHaveYetIsFoundAtItsMaster) {
  RedisClusterProcesses cluster;
  OpenReader(&cluster);
  for (size_t i = 0; i < cluster.masters(); ++i) CutOff(cluster.replica(i));
  for (uint64_t i = 100; i < 160; ++i) ASSERT_EQ(writing_->PutPair(i, 2000), StatusCode::kOk);
  constexpr uint64_t kRounds = 4;
  for (uint64_t round = 0; round < kRounds; ++round) {
    for (uint64_t i = 100; i < 160; ++i) {
      EXPECT_TRUE(driver_->Holds(SegmentName(i), MakeContents(SegmentName(i), 2000))) << i;
      EXPECT_EQ(driver_->Run(StoreOp::kExists, MarkerName(i)).code, StatusCode::kOk);
    }
    EXPECT_EQ(driver_->GetCode(SegmentName(1000 + round)), StatusCode::kNotFound);
  }
  uint64_t retries = 0;
  for (size_t i = 0; i < cluster.masters(); ++i) retries += Retries(cluster.replica(i));
  EXPECT_GT(retries, 0u);
  EXPECT_LE(retries, kRounds * 61);  // at most once a request
}

TEST_F(RedisReplicaTest, OwnChangesAreSeenThoughTheReplicaDoesNotHaveThem) {
  RedisClusterProcesses cluster;
  OpenReader(&cluster);
  for (size_t i = 0; i < cluster.masters(); ++i) CutOff(cluster.replica(i));
  for (uint64_t i = 0; i < 30; ++i) {
    const Bytes changed = MakeContents(SegmentName(i), 3000, 2);
    ASSERT_EQ(driver_->Put(SegmentName(i), changed), StatusCode::kOk);
    ASSERT_EQ(driver_->Delete(SegmentName(30 + i)), StatusCode::kOk);
    for (int round = 0; round < 3; ++round) {
      EXPECT_TRUE(driver_->Holds(SegmentName(i), changed)) << i;
      EXPECT_EQ(driver_->GetCode(SegmentName(30 + i)), StatusCode::kNotFound) << i;
    }
  }
}

TEST_F(RedisReplicaTest, AMasterThatBecameAReplicaDoesNotAnswerForItsSuccessor) {
  RedisClusterProcesses cluster;
  OpenReader(&cluster);
  const auto take_over = [](const RedisProcess& replica, const RedisProcess& master) {
    ASSERT_EQ(replica.Ask({"CLUSTER", "FAILOVER"}), "+OK\r\n");
    for (int i = 0; i < 500; ++i) {
      const std::string info = master.Ask({"INFO", "replication"});
      if (info.find("master_link_status:up") != std::string::npos) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL() << "no fail-over";
  };
  // There and back: the reader has asked either server as a replica before.
  take_over(cluster.replica(0), cluster.master(0));
  for (int i = 0; i < 500 && Reads(cluster.master(0)) == 0; ++i) ASSERT_TRUE(AllHoldSoon());
  ASSERT_GT(Reads(cluster.master(0)), 0u);
  take_over(cluster.master(0), cluster.replica(0));
  CutOff(cluster.replica(0));
  for (uint64_t i = 100; i < 160; ++i) ASSERT_EQ(writing_->PutPair(i, 2000), StatusCode::kOk);
  // The reader's map is the old one.
  for (uint64_t i = 100; i < 160; ++i) {
    EXPECT_TRUE(driver_->Holds(SegmentName(i), MakeContents(SegmentName(i), 2000))) << i;
    EXPECT_EQ(driver_->Run(StoreOp::kExists, MarkerName(i)).code, StatusCode::kOk);
  }
}

TEST_F(RedisReplicaTest, AReplicaThatDiesOrStopsCostsNoGet) {
  RedisClusterProcesses cluster;
  OpenReader(&cluster);
  cluster.replica(0).Kill();
  cluster.replica(1).Signal(SIGSTOP);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(AllHold());
  EXPECT_GT(Retries(cluster.replica(1)), 0u);
  cluster.replica(1).Signal(SIGCONT);
}

TEST_F(RedisReplicaTest, ReplicasServeWhileTheirMasterIsGone) {
  RedisClusterProcesses cluster;
  OpenReader(&cluster);
  for (size_t i = 0; i < cluster.masters(); ++i) {
    for (const RedisProcess* server : {&cluster.master(i), &cluster.replica(i)}) {
      (void)server->Ask({"CONFIG", "SET", "cluster-replica-no-failover", "yes"});
      (void)server->Ask({"CONFIG", "SET", "cluster-require-full-coverage", "no"});
      (void)server->Ask({"CONFIG", "SET", "cluster-allow-reads-when-down", "yes"});
    }
  }
  cluster.master(1).Kill();
  EXPECT_TRUE(AllHoldSoon());
  uint64_t object = 0;
  while (MasterOf(object) != 1) ++object;
  EXPECT_EQ(driver_->Run(StoreOp::kExists, MarkerName(object)).code, StatusCode::kOk);
  // Whether it is absent only the master knows.
  uint64_t absent = 1000;
  while (MasterOf(absent) != 1) ++absent;
  EXPECT_EQ(driver_->GetCode(SegmentName(absent)), StatusCode::kUnavailable);
}

TEST_F(RedisClusterTest, OpensWhileSomeSeedsAreAway) {
  RedisClusterProcesses cluster;
  const std::string url = "redis+cluster://127.0.0.1:1," + cluster.master(2).host_port();
  Result<std::unique_ptr<Store>> store = OpenStore(url, {});
  ASSERT_TRUE(store.ok());
  StoreDriver driver(store->get());
  for (uint64_t i = 0; i < 10; ++i) EXPECT_EQ(driver.PutPair(i, 1000), StatusCode::kOk);
}

}  // namespace
}  // namespace shadowserve
