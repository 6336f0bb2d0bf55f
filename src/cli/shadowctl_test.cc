#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "rpc/channel.h"
#include "rpc/control.grpc.pb.h"

namespace shadowserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

const std::string kKey(64, 'a');
const std::string kName = "ss1:{" + kKey + "}:lossless.zstd:l0+4:h0of1:seg";

// A data plane that answers what the test put into it.
class FakeDataPlane final : public v1::Control::Service {
 public:
  grpc::Status GetStatus(grpc::ServerContext*, const v1::StatusRequest*,
                         v1::StatusReply* reply) override {
    *reply = status_reply;
    return grpc::Status::OK;
  }
  grpc::Status FindObjects(grpc::ServerContext*, const v1::ObjectsRequest* request,
                           grpc::ServerWriter<v1::ObjectReply>* writer) override {
    return SendObjects(*request, writer);
  }
  grpc::Status VerifyObjects(grpc::ServerContext*, const v1::ObjectsRequest* request,
                             grpc::ServerWriter<v1::ObjectReply>* writer) override {
    return SendObjects(*request, writer);
  }
  grpc::Status EvictObjects(grpc::ServerContext*, const v1::ObjectsRequest* request,
                            v1::EvictReply* reply) override {
    last_request = *request;
    *reply = evict_reply;
    return grpc::Status::OK;
  }

  grpc::Status TakeTrace(grpc::ServerContext*, const v1::TraceRequest* request,
                         grpc::ServerWriter<v1::TraceReply>* writer) override {
    trace_ms = request->duration_ms();
    for (const v1::TraceReply& reply : trace) writer->Write(reply);
    return stream_end;
  }

  void AddObject(const std::string& name, uint64_t bytes, const std::string& problem) {
    v1::ObjectReply& object = objects.emplace_back();
    object.set_name(name);
    object.set_bytes(bytes);
    object.set_problem(problem);
    object.set_checked(objects.size());
    for (v1::ObjectReply& each : objects) each.set_total(objects.size());
  }

  v1::StatusReply status_reply;
  v1::EvictReply evict_reply;
  std::vector<v1::ObjectReply> objects;
  std::vector<v1::TraceReply> trace;
  uint32_t trace_ms = 0;
  grpc::Status stream_end;
  v1::ObjectsRequest last_request;  // read after the call has returned

 private:
  grpc::Status SendObjects(const v1::ObjectsRequest& request,
                           grpc::ServerWriter<v1::ObjectReply>* writer) {
    last_request = request;
    for (const v1::ObjectReply& object : objects) writer->Write(object);
    return stream_end;
  }
};

class ShadowctlTest : public ::testing::Test {
 protected:
  ShadowctlTest() {
    address_ = "unix://" + ::testing::TempDir() + "shadowctl_test." + std::to_string(::getpid());
    grpc::ServerBuilder builder;
    AddListener(*ParseAddress(address_), {}, &builder, nullptr);
    builder.RegisterService(&plane_);
    server_ = builder.BuildAndStart();
  }

  int Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"--connect", address_});
    out_.str("");
    err_.str("");
    return RunShadowctl(
        arguments, out_, err_,
        [](std::span<const std::string> bench, bool json, std::ostream& out, std::ostream&) {
          out << (json ? "json" : "text");
          for (const std::string& argument : bench) out << " " << argument;
          return kExitDone;
        });
  }
  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }
  Json json() const { return Json::parse(out()); }

  FakeDataPlane plane_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
  std::ostringstream out_;
  std::ostringstream err_;
};

TEST_F(ShadowctlTest, BenchGetsItsArgumentsUntouched) {
  ASSERT_EQ(Run({"--format", "json", "bench", "pipeline", "--profile", "q8", "--help"}), kExitDone);
  EXPECT_EQ(out(), "json pipeline --profile q8 --help");
  ASSERT_EQ(Run({"bench", "--format", "json"}), kExitDone);
  EXPECT_EQ(out(), "text --format json");
}

TEST_F(ShadowctlTest, StatusAsTextHasStoreSlabsAndSessions) {
  auto& reply = plane_.status_reply;
  reply.set_version("0.1.0");
  reply.set_store("memory://");
  reply.set_store_objects(1);
  reply.set_store_bytes(3 << 20);
  reply.set_store_capacity_bytes(uint64_t{1} << 30);
  auto* slab = reply.add_slabs();
  slab->set_pool("fetch");
  slab->set_total(45);
  slab->set_free(44);
  slab->set_slab_bytes(4352 << 10);
  auto* server = reply.add_store_servers();
  server->set_address("cache:6379");
  server->set_breaker("open");
  (*server->mutable_events())["timeout"] = 2;
  (*server->mutable_events())["opened"] = 1;
  auto* session = reply.add_sessions();
  session->set_engine_id("engine\x1b[2J");
  session->set_role("worker 0");
  ASSERT_EQ(Run({"status"}), kExitDone) << err();
  EXPECT_THAT(out(), HasSubstr("store      memory://: 1 object, 3.0 MiB (of 1.0 GiB)\n"));
  EXPECT_THAT(out(), HasSubstr("server     cache:6379: breaker open, opened 1, timeout 2\n"));
  EXPECT_THAT(out(), HasSubstr("slabs      fetch: 44 of 45 free, 4.2 MiB each\n"));
  EXPECT_THAT(out(), HasSubstr("  engine [2J worker 0: device -"));
}

TEST_F(ShadowctlTest, StatusAsJsonHasEveryFieldOfTheReply) {
  auto& reply = plane_.status_reply;
  reply.set_uptime_s(1.5);
  reply.set_store_bytes(uint64_t{1} << 60);
  reply.add_stages()->set_name("decode");
  (*reply.mutable_counters())["lookups_hit"] = 7;
  auto* server = reply.add_store_servers();
  server->set_address("cache:6379");
  (*server->mutable_events())["moved"] = 3;
  ASSERT_EQ(Run({"status", "--format", "json"}), kExitDone) << err();
  EXPECT_EQ(json()["uptime_s"], 1.5);
  EXPECT_EQ(json()["store"]["bytes"], uint64_t{1} << 60);
  EXPECT_EQ(json()["stages"][0]["name"], "decode");
  EXPECT_EQ(json()["counters"]["lookups_hit"], 7);
  EXPECT_EQ(json()["store"]["servers"][0]["address"], "cache:6379");
  EXPECT_EQ(json()["store"]["servers"][0]["events"]["moved"], 3);
  EXPECT_TRUE(json()["sessions"].empty());
}

TEST_F(ShadowctlTest, LookupListsObjectsAndTheirSum) {
  plane_.AddObject("one", 10, "");
  plane_.AddObject("two", 20, "");
  ASSERT_EQ(Run({"lookup"}), kExitDone) << err();
  EXPECT_EQ(out(), "one 10\ntwo 20\n2 objects, 30 B\n");
  EXPECT_TRUE(plane_.last_request.all());
}

TEST_F(ShadowctlTest, LookupPassesKeysAndNamesOn) {
  plane_.AddObject(kName, 10, "");
  ASSERT_EQ(Run({"lookup", kKey, kName, "--format=json"}), kExitDone) << err();
  EXPECT_THAT(plane_.last_request.keys(), ElementsAre(kKey));
  EXPECT_THAT(plane_.last_request.names(), ElementsAre(kName));
  EXPECT_FALSE(plane_.last_request.all());
  EXPECT_EQ(json()["objects"][0]["name"], kName);
  EXPECT_EQ(json()["count"], 1);
}

TEST_F(ShadowctlTest, LookupOfWhatIsNotThereExitsWithOne) {
  EXPECT_EQ(Run({"lookup", kKey, "--format=json"}), kExitFound);
  EXPECT_TRUE(json()["objects"].empty());
  EXPECT_EQ(Run({"lookup"}), kExitDone) << "an empty store is no error";
}

TEST_F(ShadowctlTest, VerifyOfASoundStoreExitsWithZeroAndShowsProgress) {
  for (int i = 0; i < 40; ++i) plane_.AddObject("x" + std::to_string(i), 1, "");
  EXPECT_EQ(Run({"verify"}), kExitDone);
  EXPECT_EQ(out(), "40 objects checked, 40 B, 0 damaged\n");
  EXPECT_THAT(err(), HasSubstr("checked 5 of 40 objects\n"));
  EXPECT_THAT(err(), HasSubstr("checked 40 of 40 objects\n"));
  const std::string lines = err();
  EXPECT_LE(std::count(lines.begin(), lines.end(), '\n'), 11);
}

TEST_F(ShadowctlTest, VerifyNamesDamageAndExitsWithOne) {
  plane_.AddObject("good", 10, "");
  plane_.AddObject("bad", 20, "block 3: checksum");
  EXPECT_EQ(Run({"verify"}), kExitFound);
  EXPECT_THAT(out(), HasSubstr("damaged bad: block 3: checksum\n"));
  EXPECT_EQ(Run({"verify", "--format=json"}), kExitFound);
  EXPECT_EQ(json()["damaged"][0]["problem"], "block 3: checksum");
  EXPECT_EQ(json()["damaged"].size(), 1U);
  EXPECT_EQ(json()["sound"], false);
  EXPECT_EQ(json()["checked"], 2);
}

TEST_F(ShadowctlTest, AStreamThatBreaksOffIsNoSuccessAndLeavesWholeJson) {
  plane_.AddObject("good", 10, "");
  plane_.stream_end = grpc::Status(grpc::StatusCode::INTERNAL, "store: list failed");
  EXPECT_EQ(Run({"verify", "--format=json"}), kExitFound);
  EXPECT_EQ(json()["error"], "store: list failed");
  EXPECT_THAT(err(), HasSubstr("store: list failed"));
}

TEST_F(ShadowctlTest, EvictTellsWhatWentAndWhatFailed) {
  plane_.evict_reply.set_objects(2);
  plane_.evict_reply.set_bytes(2048);
  EXPECT_EQ(Run({"evict", "--all"}), kExitDone);
  EXPECT_EQ(out(), "evicted 2 objects, 2.0 KiB\n");
  EXPECT_TRUE(plane_.last_request.all());
  plane_.evict_reply.set_error("the store\nrefuses");
  EXPECT_EQ(Run({"evict", kKey, "--format=json"}), kExitFound);
  EXPECT_EQ(json()["objects"], 2);
  EXPECT_EQ(err(), "shadowctl: evict: the store refuses\n");
}

TEST_F(ShadowctlTest, EvictWithoutAChoiceAsksForOneAndDeletesNothing) {
  EXPECT_EQ(Run({"evict"}), kExitUsage);
  EXPECT_THAT(err(), HasSubstr("--all"));
  EXPECT_FALSE(plane_.last_request.all());
}

TEST_F(ShadowctlTest, TraceHasALaneForEachStageAndAsyncReads) {
  v1::TraceReply& reply = plane_.trace.emplace_back();
  const auto add = [&](const std::string& stage, int64_t start_ns, int64_t end_ns) {
    v1::TraceSpan* span = reply.add_spans();
    span->set_stage(stage);
    span->set_start_ns(start_ns);
    span->set_end_ns(end_ns);
    span->set_chunk(0xabcd);
  };
  add("decode", 1500, 2750);
  add("network", -500, 3000);
  add("of \"another\" version", 0, 1);
  EXPECT_EQ(Run({"trace", "--seconds", "0.25"}), kExitDone);
  EXPECT_EQ(plane_.trace_ms, 250U);
  const Json trace = json();
  std::vector<Json> events;
  for (const Json& event : trace["traceEvents"]) {
    if (event["ph"] != "M") events.push_back(event);
  }
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0]["name"], "decode");
  EXPECT_EQ(events[0]["ts"], 1.5);
  EXPECT_EQ(events[0]["dur"], 1.25);
  EXPECT_EQ(events[0]["args"]["chunk"], "000000000000abcd");
  EXPECT_EQ(events[1]["ph"], "b");
  EXPECT_EQ(events[2]["ph"], "e");
  EXPECT_EQ(events[1]["id"], events[2]["id"]);
  EXPECT_EQ(events[2]["ts"].get<double>() - events[1]["ts"].get<double>(), 3.5);
  EXPECT_NE(events[0]["tid"], events[1]["tid"]);
}

TEST_F(ShadowctlTest, TraceRefusesWhatItCannotDo) {
  EXPECT_EQ(Run({"trace", "--seconds", "61"}), kExitUsage);
  EXPECT_EQ(Run({"trace", "--output", "/nowhere/at/all.json"}), kExitUsage);
  EXPECT_EQ(err(), "shadowctl: --output: cannot write /nowhere/at/all.json\n");
  plane_.stream_end =
      grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "another trace is being taken");
  EXPECT_EQ(Run({"trace", "--seconds", "1"}), kExitFound);
  EXPECT_EQ(out(), "");
  EXPECT_THAT(err(), HasSubstr("another trace is being taken"));
}

TEST_F(ShadowctlTest, AGoneDataPlaneIsExitCodeThreeAndOneLine) {
  server_->Shutdown();
  server_.reset();
  for (const std::string verb : {"status", "lookup", "verify"}) {
    EXPECT_EQ(Run({verb}), kExitUnreachable);
    EXPECT_THAT(err(), HasSubstr(address_));
    EXPECT_EQ(err().find('\n'), err().size() - 1);
  }
}

TEST_F(ShadowctlTest, HelpNamesEveryVerbThatWorks) {
  ASSERT_EQ(Run({"--help"}), kExitDone);
  for (const std::string verb : {"status", "lookup", "verify", "evict", "trace"}) {
    EXPECT_THAT(out(), HasSubstr("\n  " + verb + " "));
  }
}

TEST(Text, SizesForPeopleHaveOneDecimal) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(uint64_t{5} << 40), "5.0 TiB");
}

}  // namespace
}  // namespace shadowserve
