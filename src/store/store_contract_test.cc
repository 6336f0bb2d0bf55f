// What every store promises (store.h), run on every back end.
#include <gtest/gtest.h>

#include <set>

#include "store/redis_process_test.h"
#include "store/store_table.h"
#include "store/store_test_util.h"

namespace shadowserve {
namespace {

enum class Server {
  kNone,
  kRedis,
  kRedisWithPassword,
  kRedisWithTls,
  kRedisCluster,
  kRedisClusterWithTls
};

// What docs/operations.md gives to the store's user.
const std::vector<std::string> kStoreUser = {
    "--user",         "shadow",  "on",        ">p w%",     "~p:ss1:*", "+get",  "+set",
    "+unlink",        "+exists", "+strlen",   "+scan",     "+select",  "+ping", "+info",
    "+cluster|slots", "+asking", "+readonly", "+readwrite"};

struct BackEnd {
  const char* name;
  // With the directory in place of DIR and the server's address in place of HOST.
  const char* url;
  Server server = Server::kNone;
};

std::ostream& operator<<(std::ostream& out, const BackEnd& back_end) {
  return out << back_end.name;
}

class StoreContract : public testing::TestWithParam<BackEnd> {
 protected:
  void SetUp() override {
    if (GetParam().server != Server::kNone) {
      SS_NEEDS_REDIS();
      StartServer();
    }
    if (Url("").find("io=uring") == std::string::npos) return;
    const Result<std::unique_ptr<Store>> store = OpenStore(Url("1MiB"), {});
    if (store.status().code() == StatusCode::kUnsupported) GTEST_SKIP() << store.status().message();
  }
  void StartServer() {
    switch (GetParam().server) {
      case Server::kNone:
        break;
      case Server::kRedis:
        redis_ = std::make_unique<RedisProcess>();
        break;
      case Server::kRedisWithPassword:
        redis_ = std::make_unique<RedisProcess>(WithUser({"--requirepass", "default's"}));
        break;
      case Server::kRedisWithTls:
        if (!MakeCertificates(dir_.path(), "IP:127.0.0.1")) GTEST_SKIP() << "no openssl program";
        redis_ = std::make_unique<RedisProcess>(TlsArguments(dir_.path()), true);
        break;
      case Server::kRedisCluster:
        cluster_ = std::make_unique<RedisClusterProcesses>();
        break;
      case Server::kRedisClusterWithTls: {
        if (!MakeCertificates(dir_.path(), "IP:127.0.0.1")) GTEST_SKIP() << "no openssl program";
        std::vector<std::string> arguments = TlsArguments(dir_.path());
        arguments.insert(arguments.end(), {"--requirepass", "other", "--masterauth", "other"});
        cluster_ = std::make_unique<RedisClusterProcesses>(3, true, WithUser(arguments), true);
        break;
      }
    }
  }
  static std::vector<std::string> WithUser(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), kStoreUser.begin(), kStoreUser.end());
    return arguments;
  }
  std::string Url(const std::string& capacity) const {
    std::string url = GetParam().url;
    const auto replace = [&url](const std::string& what, const std::string& by) {
      for (size_t at = url.find(what); at != std::string::npos; at = url.find(what)) {
        url.replace(at, what.size(), by);
      }
    };
    replace("DIR", dir_.path());
    if (redis_ != nullptr) {
      const bool tls = redis_->tls_port() != 0;
      replace("HOST", "127.0.0.1:" + std::to_string(tls ? redis_->tls_port() : redis_->port()));
    }
    if (cluster_ != nullptr) replace("HOST", cluster_->host_ports());
    if (GetParam().server != Server::kNone) return url;
    return url + (url.find('?') == std::string::npos ? "?capacity=" : "&capacity=") + capacity;
  }
  void Open(const std::string& capacity = "64MiB") {
    Result<std::unique_ptr<Store>> store = OpenStore(Url(capacity), {});
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    store_ = std::move(store).value();
    driver_ = std::make_unique<StoreDriver>(store_.get());
  }
  struct Totals {
    uint64_t objects = 0;
    uint64_t bytes = 0;
  };
  Totals Listed() {
    Totals totals;
    const Status listed = store_->List([&](const ObjectName&, uint64_t bytes) {
      totals.objects += 1;
      totals.bytes += bytes;
      return true;
    });
    EXPECT_TRUE(listed.ok()) << listed.ToString();
    if (store_->has_index()) {
      EXPECT_EQ(store_->Stats().objects, totals.objects);
      EXPECT_EQ(store_->Stats().bytes, totals.bytes);
    }
    return totals;
  }

  TempDir dir_;
  std::unique_ptr<RedisProcess> redis_;
  std::unique_ptr<RedisClusterProcesses> cluster_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<StoreDriver> driver_;
};

// Of stores that know what they hold, and bound it.
class IndexedStoreContract : public StoreContract {};

TEST_P(StoreContract, ReturnsWhatWasPut) {
  Open();
  for (size_t size : {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{700'001}}) {
    const Bytes contents = MakeContents(SegmentName(size), size);
    ASSERT_EQ(driver_->Put(SegmentName(size), contents), StatusCode::kOk);
    EXPECT_TRUE(driver_->Holds(SegmentName(size), contents)) << size;
  }
}

TEST_P(StoreContract, TellsSegmentAndMarkerApart) {
  Open();
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  EXPECT_TRUE(driver_->Holds(SegmentName(1), MakeContents(SegmentName(1), 1000)));
  EXPECT_TRUE(driver_->Holds(MarkerName(1), MakeContents(MarkerName(1), 64)));
}

TEST_P(StoreContract, ReplacesAnObjectAsAWhole) {
  Open();
  const ObjectName name = SegmentName(1);
  ASSERT_EQ(driver_->Put(name, MakeContents(name, 300'000, 1)), StatusCode::kOk);
  const Bytes smaller = MakeContents(name, 1000, 2);
  ASSERT_EQ(driver_->Put(name, smaller), StatusCode::kOk);
  EXPECT_TRUE(driver_->Holds(name, smaller));
  EXPECT_EQ(Listed().objects, 1u);
  EXPECT_EQ(Listed().bytes, 1000u);
}

TEST_P(StoreContract, ReadersSeeTheOldOrTheNewObjectWhileItIsReplaced) {
  Open();
  const ObjectName name = SegmentName(1);
  Bytes old_contents = MakeContents(name, 400'000, 1);
  Bytes new_contents = MakeContents(name, 300'000, 2);
  ASSERT_EQ(driver_->Put(name, old_contents), StatusCode::kOk);
  std::vector<Bytes> buffers(30, Bytes(500'000));
  std::vector<uint64_t> gets;
  for (size_t i = 0; i < buffers.size(); ++i) {
    (void)driver_->Start(StoreOp::kPut, name, i % 2 == 0 ? new_contents : old_contents);
    gets.push_back(driver_->Start(StoreOp::kGet, name, buffers[i]));
  }
  driver_->Drain();
  for (size_t i = 0; i < buffers.size(); ++i) {
    const StoreCompletion& done = driver_->completions().at(gets[i]);
    ASSERT_EQ(done.code, StatusCode::kOk);
    buffers[i].resize(done.bytes);
    EXPECT_TRUE(buffers[i] == old_contents || buffers[i] == new_contents) << i;
  }
}

TEST_P(StoreContract, RunsChangesOfOneNameInOrder) {
  Open();
  const ObjectName name = SegmentName(1);
  Bytes first = MakeContents(name, 200'000, 1);
  Bytes last = MakeContents(name, 100, 2);
  for (int round = 0; round < 10; ++round) {
    (void)driver_->Start(StoreOp::kPut, name, first);
    (void)driver_->Start(StoreOp::kDelete, name);
    (void)driver_->Start(StoreOp::kPut, name, last);
    driver_->Drain();
    EXPECT_TRUE(driver_->Holds(name, last));
    (void)driver_->Start(StoreOp::kPut, name, first);
    (void)driver_->Start(StoreOp::kDelete, name);
    driver_->Drain();
    EXPECT_EQ(driver_->GetCode(name), StatusCode::kNotFound);
  }
}

TEST_P(StoreContract, SaysNotFoundForWhatIsNotThere) {
  Open();
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kNotFound);
}

TEST_P(StoreContract, SaysWhatExists) {
  Open();
  const auto code = [this](const ObjectName& name) {
    return driver_->Run(StoreOp::kExists, name).code;
  };
  EXPECT_EQ(code(MarkerName(1)), StatusCode::kNotFound);
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  EXPECT_EQ(code(MarkerName(1)), StatusCode::kOk);
  EXPECT_EQ(code(SegmentName(1)), StatusCode::kOk);
  EXPECT_EQ(code(SegmentName(2)), StatusCode::kNotFound);
  ASSERT_EQ(driver_->Delete(MarkerName(1)), StatusCode::kOk);
  EXPECT_EQ(code(MarkerName(1)), StatusCode::kNotFound);
}

TEST_P(StoreContract, DeletesAnyNumberOfTimes) {
  Open();
  ASSERT_EQ(driver_->PutPair(1, 100), StatusCode::kOk);
  EXPECT_EQ(driver_->Delete(SegmentName(1)), StatusCode::kOk);
  EXPECT_EQ(driver_->Delete(SegmentName(1)), StatusCode::kOk);
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kNotFound);
  EXPECT_EQ(driver_->GetCode(MarkerName(1)), StatusCode::kOk);
  EXPECT_EQ(Listed().bytes, 64u);
}

TEST_P(StoreContract, SaysCorruptWhenTheObjectDoesNotFitTheBuffer) {
  Open();
  ASSERT_EQ(driver_->PutPair(1, 1001), StatusCode::kOk);
  Bytes buffer(1002, std::byte{0x55});
  const StoreCompletion done =
      driver_->Run(StoreOp::kGet, SegmentName(1), std::span(buffer).first(1000));
  EXPECT_EQ(done.code, StatusCode::kCorrupt);
  EXPECT_EQ(buffer[1000], std::byte{0x55});
  EXPECT_EQ(driver_->Run(StoreOp::kGet, SegmentName(1), std::span(buffer).first(1001)).bytes,
            1001u);
}

TEST_P(StoreContract, CompletesEveryAcceptedRequestOnceUnderAFullQueue) {
  Open();
  constexpr size_t kRequests = 500;
  std::vector<Bytes> buffers;
  for (size_t i = 0; i < kRequests; ++i) {
    buffers.push_back(MakeContents(SegmentName(i % 7), 5000));
  }
  bool refused = false;
  size_t accepted = 0;
  size_t completed = 0;
  std::set<uint64_t> seen;
  std::vector<StoreRequest> requests;
  for (size_t i = 0; i < kRequests; ++i) {
    const StoreOp op = std::array{StoreOp::kPut, StoreOp::kGet, StoreOp::kDelete}[i % 3];
    requests.push_back({op, SegmentName(i % 7),
                        op == StoreOp::kDelete ? std::span<std::byte>() : std::span(buffers[i]),
                        i});
  }
  while (completed < kRequests) {
    const size_t taken = store_->Submit(std::span(requests).subspan(accepted));
    refused = refused || taken < kRequests - accepted;
    accepted += taken;
    std::array<StoreCompletion, 3> done;
    const size_t count = store_->Poll(done);
    for (size_t i = 0; i < count; ++i) EXPECT_TRUE(seen.insert(done[i].user_data).second);
    completed += count;
    ASSERT_LE(completed, accepted);
  }
  EXPECT_TRUE(refused);
  EXPECT_EQ(seen.size(), kRequests);
  std::array<StoreCompletion, 3> none;
  EXPECT_EQ(store_->Poll(none), 0u);
}

TEST_P(IndexedStoreContract, EvictsTheLeastRecentlyUsedFirst) {
  Open("10KiB");
  for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(driver_->PutPair(i, 2000), StatusCode::kOk);
  ASSERT_EQ(driver_->GetCode(SegmentName(0)), StatusCode::kOk);
  ASSERT_EQ(driver_->PutPair(4, 4000), StatusCode::kOk);
  EXPECT_TRUE(store_->MayContain(SegmentName(0)));
  EXPECT_FALSE(store_->MayContain(SegmentName(1)));
  EXPECT_TRUE(store_->MayContain(SegmentName(3)));
  EXPECT_TRUE(driver_->Holds(SegmentName(4), MakeContents(SegmentName(4), 4000)));
  EXPECT_EQ(driver_->GetCode(SegmentName(1)), StatusCode::kNotFound);
  EXPECT_GT(store_->Stats().evicted_objects, 0u);
}

TEST_P(IndexedStoreContract, EvictsAMarkerWithItsSegment) {
  Open("10KiB");
  for (uint64_t i = 0; i < 20; ++i) {
    ASSERT_EQ(driver_->PutPair(i, 2000), StatusCode::kOk);
    // The segment only: its marker must not outlive it nor leave before it is useless.
    ASSERT_EQ(driver_->GetCode(SegmentName(i)), StatusCode::kOk);
    for (uint64_t j = 0; j <= i; ++j) {
      EXPECT_TRUE(store_->MayContain(SegmentName(j)) || !store_->MayContain(MarkerName(j))) << j;
    }
  }
  EXPECT_LT(store_->Stats().objects, 12u);
}

TEST_P(IndexedStoreContract, NeverHoldsMoreThanItsCapacity) {
  Open("10KiB");
  Bytes contents(3000);
  for (uint64_t i = 0; i < 200; ++i) {
    (void)driver_->Start(StoreOp::kPut, SegmentName(i), contents);
    ASSERT_LE(store_->Stats().bytes, 10u * 1024);
  }
  driver_->Drain();
  EXPECT_LE(store_->Stats().bytes, 10u * 1024);
  EXPECT_GE(store_->Stats().objects, 1u);
  EXPECT_EQ(store_->Stats().capacity_bytes, 10u * 1024);
}

TEST_P(IndexedStoreContract, RefusesAnObjectLargerThanItsCapacity) {
  Open("10KiB");
  ASSERT_EQ(driver_->PutPair(1, 1000), StatusCode::kOk);
  EXPECT_EQ(driver_->Put(SegmentName(2), Bytes(10 * 1024 + 1)), StatusCode::kExhausted);
  EXPECT_TRUE(store_->MayContain(SegmentName(1)));
  EXPECT_EQ(driver_->Put(SegmentName(2), Bytes(10 * 1024)), StatusCode::kOk);
}

TEST_P(IndexedStoreContract, KnowsWhatItMayContain) {
  Open();
  EXPECT_FALSE(store_->MayContain(SegmentName(1)));
  ASSERT_EQ(driver_->PutPair(1, 100), StatusCode::kOk);
  EXPECT_TRUE(store_->MayContain(SegmentName(1)));
  ASSERT_EQ(driver_->Delete(SegmentName(1)), StatusCode::kOk);
  EXPECT_FALSE(store_->MayContain(SegmentName(1)));
}

TEST_P(StoreContract, ListsItsObjectsUntilToldToStop) {
  Open();
  std::map<std::string, uint64_t> expected;
  for (uint64_t i = 0; i < 10; ++i) {
    ASSERT_EQ(driver_->PutPair(i, 100 + i), StatusCode::kOk);
    expected[ToString(SegmentName(i))] = 100 + i;
    expected[ToString(MarkerName(i))] = 64;
  }
  std::map<std::string, uint64_t> listed;
  ASSERT_TRUE(store_
                  ->List([&](const ObjectName& name, uint64_t bytes) {
                    return listed.emplace(ToString(name), bytes).second;
                  })
                  .ok());
  EXPECT_EQ(listed, expected);
  int visits = 0;
  ASSERT_TRUE(store_->List([&](const ObjectName&, uint64_t) { return ++visits < 3; }).ok());
  EXPECT_EQ(visits, 3);
}

TEST_P(StoreContract, HoldsManyObjects) {
  Open();
  constexpr uint64_t kObjects = 2000;
  std::vector<Bytes> contents;
  for (uint64_t i = 0; i < kObjects; ++i) {
    contents.push_back(MakeContents(SegmentName(i), 100 + i % 50));
    (void)driver_->Start(StoreOp::kPut, SegmentName(i), contents[i]);
  }
  driver_->Drain();
  EXPECT_EQ(Listed().objects, kObjects);
  std::vector<Bytes> buffers(kObjects, Bytes(150));
  const uint64_t first = driver_->Start(StoreOp::kGet, SegmentName(0), buffers[0]);
  for (uint64_t i = 1; i < kObjects; ++i) {
    (void)driver_->Start(StoreOp::kGet, SegmentName(i), buffers[i]);
  }
  driver_->Drain();
  for (uint64_t i = 0; i < kObjects; ++i) {
    buffers[i].resize(driver_->completions().at(first + i).bytes);
    ASSERT_EQ(buffers[i], contents[i]) << i;
  }
  EXPECT_EQ(driver_->twice(), 0u);
}

const auto kIndexed = testing::Values(
    BackEnd{"memory", "memory://"}, BackEnd{"disk_uring", "disk://DIR?io=uring"},
    BackEnd{"disk_sync", "disk://DIR?io=sync"}, BackEnd{"disk_fsync", "disk://DIR?fsync=1"},
    BackEnd{"faulty_memory", "faulty+memory://?fault.seed=7"},
    BackEnd{"faulty_disk", "faulty+disk://DIR?fault.delay_ms=1"});
const auto kName = [](const auto& test) { return std::string(test.param.name); };

INSTANTIATE_TEST_SUITE_P(BackEnds, StoreContract, kIndexed, kName);
INSTANTIATE_TEST_SUITE_P(BackEnds, IndexedStoreContract, kIndexed, kName);
INSTANTIATE_TEST_SUITE_P(
    Redis, StoreContract,
    testing::Values(
        BackEnd{"redis", "redis://HOST", Server::kRedis},
        BackEnd{"redis_one_connection", "redis://HOST/3?connections=1&ttl_s=600", Server::kRedis},
        BackEnd{"redis_password",
                "redis://shadow:p%20w%25@HOST?key_prefix=p:", Server::kRedisWithPassword},
        BackEnd{"redis_tls",
                "rediss://HOST?ca_file=DIR/ca.crt&cert_file=DIR/client.crt"
                "&key_file=DIR/client.key",
                Server::kRedisWithTls},
        BackEnd{"redis_cluster", "redis+cluster://HOST", Server::kRedisCluster},
        BackEnd{"redis_cluster_replicas", "redis+cluster://HOST?read_replicas=1",
                Server::kRedisCluster},
        BackEnd{"redis_cluster_tls",
                "rediss+cluster://shadow:p%20w%25@HOST?key_prefix=p:&ca_file=DIR/ca.crt"
                "&cert_file=DIR/client.crt&key_file=DIR/client.key",
                Server::kRedisClusterWithTls},
        BackEnd{"faulty_redis", "faulty+redis://HOST?fault.delay_ms=1", Server::kRedis}),
    kName);

}  // namespace
}  // namespace shadowserve
