#include "client/kv_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "client/fake_plane_test.h"
#include "client/step_metadata.h"
#include "rpc/side_socket.h"

namespace shadowserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kPollUs = 1000;

// The data plane's end of the side socket, answering on a thread of its own.
class SideThread {
 public:
  explicit SideThread(const std::string& path) {
    Result<std::unique_ptr<SideServer>> server =
        SideServer::Listen({.path = path, .incarnation = 1, .mode = 0600, .clock = &clock_});
    if (!server.ok()) {
      ADD_FAILURE() << server.status().ToString();
      return;
    }
    server_ = std::move(*server);
    thread_ = std::thread([this] { Run(); });
  }
  ~SideThread() {
    stopping_ = true;
    if (thread_.joinable()) thread_.join();
  }
  std::vector<std::string> tokens() {
    const std::lock_guard lock(mu_);
    return tokens_;
  }
  size_t descriptors() {
    const std::lock_guard lock(mu_);
    return descriptors_;
  }

 private:
  void Run() {
    while (!stopping_) {
      pollfd event = {.fd = server_->fd(), .events = POLLIN, .revents = 0};
      if (::poll(&event, 1, 10) <= 0) continue;
      server_->HandleEvents([this](SidePeer peer) {
        const std::lock_guard lock(mu_);
        tokens_.emplace_back(reinterpret_cast<const char*>(peer.token.data()), peer.token.size());
        descriptors_ += peer.memory_fd.valid() ? 1 : 0;
        return OkStatus();
      });
    }
  }

  SteadyClock clock_;
  std::unique_ptr<SideServer> server_;
  std::atomic<bool> stopping_ = false;
  std::mutex mu_;
  std::vector<std::string> tokens_;
  size_t descriptors_ = 0;
  std::thread thread_;
};

class Worker : public testing::Test {
 protected:
  static constexpr size_t kRegionBytes = 64 << 10;

  Worker() {
    void* const memory =
        ::mmap(nullptr, kRegionBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    region_ = {static_cast<std::byte*>(memory), kRegionBytes};
  }
  ~Worker() override {
    worker_.reset();
    ::munmap(region_.data(), region_.size());
  }

  KvWorkerOptions Options() {
    KvWorkerOptions options;
    options.data_plane = dir_.address();
    options.engine_id = "engine";
    options.shape = {.layers = 2, .kv_heads = 2, .head_dim = 8, .dtype = KvDtype::kBf16};
    options.devices = {"mapped"};
    options.fetch_deadline_s = 5;
    options.clock = &clock_;
    options.session.backoff_first_ms = 5;
    options.session.backoff_last_ms = 50;
    options.session.silent_ms = 60'000;
    options.session.dead_ms = 120'000;
    options.register_wait_ms = 30'000;
    return options;
  }
  static PageLayout Layout() {
    PageLayout layout;
    layout.page_tokens = 128;
    layout.page_count = 4;
    layout.heads = 2;
    layout.head_dim = 8;
    layout.head_stride = 128 * 32;
    layout.page_stride = 2 * layout.head_stride;
    layout.layer_offset = {0, 4 * layout.page_stride};
    layout.k = {0, 32, 2};
    layout.v = {16, 32, 2};
    return layout;
  }
  void StartPlane(FakePlane::Script script = {}) {
    plane_.reset();
    side_.reset();
    side_ = std::make_unique<SideThread>(SideSocketPath(dir_.path()));
    plane_ = std::make_unique<FakePlane>(dir_.path(), std::move(script));
  }
  Result<std::string> Register(KvWorkerOptions options) {
    Result<std::unique_ptr<KvWorker>> made = KvWorker::Create(std::move(options));
    if (!made.ok()) return made.status();
    worker_ = std::move(*made);
    return worker_->Register(region_, Layout());
  }
  void StartBoth() {
    StartPlane();
    const Result<std::string> kind = Register(Options());
    ASSERT_TRUE(kind.ok()) << kind.status().ToString();
    ASSERT_EQ(*kind, "mapped");
  }
  void Begin(std::vector<StepMetadata::NewLoad> loads, std::vector<uint64_t> failed = {},
             bool grant = false) {
    worker_->BeginStep(EncodeStep(
        {.epoch = 9, .grant = grant, .loads = std::move(loads), .failed = std::move(failed)}));
  }
  void Done(uint64_t attempt, StatusCode code = StatusCode::kOk) {
    v1::ServerMessage message;
    message.mutable_load_done()->set_epoch(9);
    message.mutable_load_done()->set_attempt(attempt);
    message.mutable_load_done()->set_status(static_cast<uint32_t>(code));
    plane_->Send(message);
  }
  CompletionTable::Finished AwaitFinished() {
    CompletionTable::Finished finished;
    EXPECT_TRUE(Eventually([&] {
      finished = worker_->Poll(kPollUs);
      return !finished.empty();
    }));
    return finished;
  }
  v1::WorkerHello AwaitHello() {
    const auto message = plane_->Await([](const auto& m) { return m.has_worker_hello(); });
    EXPECT_TRUE(message.has_value());
    return message ? message->worker_hello() : v1::WorkerHello();
  }

  FakePlane::SocketDir dir_;
  ManualClock clock_;
  std::span<std::byte> region_;
  std::unique_ptr<SideThread> side_;
  std::unique_ptr<FakePlane> plane_;
  std::unique_ptr<KvWorker> worker_;
};

TEST_F(Worker, HandsItsMemoryOverAndTiesTheHelloToIt) {
  StartBoth();
  const v1::WorkerHello hello = AwaitHello();
  EXPECT_EQ(hello.engine_id(), "engine");
  EXPECT_EQ(hello.device(), "mapped");
  EXPECT_EQ(hello.region_bytes(), kRegionBytes);
  EXPECT_EQ(hello.layout().page_count(), 4U);
  EXPECT_THAT(side_->tokens(), ElementsAre(hello.side_token()));
  EXPECT_EQ(side_->descriptors(), 1U);
}

TEST_F(Worker, RegistersTheSameMemoryAgainAfterABreak) {
  StartBoth();
  AwaitHello();
  plane_->Break();
  const v1::WorkerHello again = AwaitHello();
  EXPECT_EQ(again.region_bytes(), kRegionBytes);
  EXPECT_EQ(side_->descriptors(), 2U);
  EXPECT_EQ(side_->tokens().back(), again.side_token());
}

TEST_F(Worker, RegistersInTheBackgroundWhenTheDataPlaneComesLater) {
  KvWorkerOptions options = Options();
  options.register_wait_ms = 0;
  const Result<std::string> kind = Register(options);
  ASSERT_TRUE(kind.ok());
  EXPECT_EQ(*kind, "");
  StartPlane();
  EXPECT_EQ(AwaitHello().device(), "mapped");
}

TEST_F(Worker, TellsWhyItWasRefused) {
  FakePlane::Script script;
  script.refuse_status = static_cast<uint32_t>(StatusCode::kInvalidArgument);
  script.refuse_message = "layers 2, the scheduler half said 3";
  StartPlane(script);
  const Result<std::string> kind = Register(Options());
  ASSERT_FALSE(kind.ok());
  EXPECT_EQ(kind.status().message(), "layers 2, the scheduler half said 3");
}

// How heads are grouped only the data plane knows: it refuses what it cannot cut.
TEST_F(Worker, RegistersTheHeadsOfOneTensorParallelRank) {
  StartPlane();
  KvWorkerOptions options = Options();
  options.rank = 1;
  options.world_size = 2;
  options.shape.kv_heads = 4;
  PageLayout layout = Layout();
  layout.first_head = 2;
  Result<std::unique_ptr<KvWorker>> made = KvWorker::Create(std::move(options));
  ASSERT_TRUE(made.ok());
  worker_ = std::move(*made);
  const Result<std::string> kind = worker_->Register(region_, layout);
  ASSERT_TRUE(kind.ok()) << kind.status().ToString();
  const v1::WorkerHello hello = AwaitHello();
  EXPECT_EQ(hello.rank(), 1U);
  EXPECT_EQ(hello.layout().first_head(), 2U);
  EXPECT_EQ(hello.layout().heads(), 2U);
}

TEST_F(Worker, RefusesALocalDeviceOverTcpNamingTheRemedy) {
  KvWorkerOptions options = Options();
  options.data_plane = "tcp://127.0.0.1:1";
  const Result<std::string> kind = Register(options);
  ASSERT_FALSE(kind.ok());
  EXPECT_NE(kind.status().message().find("unix:///path"), std::string_view::npos);
}

TEST_F(Worker, RefusesALayoutThatLeavesTheRegion) {
  Result<std::unique_ptr<KvWorker>> made = KvWorker::Create(Options());
  ASSERT_TRUE(made.ok());
  EXPECT_FALSE((*made)->Register(region_.first(kRegionBytes / 2), Layout()).ok());
}

TEST_F(Worker, ReportsALoadThatSucceeded) {
  StartBoth();
  Begin({{1, "a"}});
  EXPECT_EQ(worker_->Pending(), 1U);
  Done(1);
  const CompletionTable::Finished finished = AwaitFinished();
  EXPECT_THAT(finished.received, ElementsAre("a"));
  EXPECT_THAT(finished.failed, IsEmpty());
  EXPECT_EQ(worker_->Pending(), 0U);
  EXPECT_TRUE(worker_->Poll(0).empty());
}

TEST_F(Worker, ReportsALoadThatFailed) {
  StartBoth();
  Begin({{1, "a"}});
  Done(1, StatusCode::kCorrupt);
  const CompletionTable::Finished finished = AwaitFinished();
  EXPECT_THAT(finished.received, IsEmpty());
  EXPECT_THAT(finished.failed, ElementsAre("a"));
}

TEST_F(Worker, KeepsACompletionThatComesBeforeTheStep) {
  StartBoth();
  Done(2);
  Begin({{1, "a"}});
  Done(1);  // tells that the earlier one has been taken
  EXPECT_THAT(AwaitFinished().received, ElementsAre("a"));
  Begin({{2, "b"}});
  EXPECT_THAT(worker_->Poll(0).received, ElementsAre("b"));
}

TEST_F(Worker, ReportsNothingTwiceThoughTheDataPlaneDoes) {
  StartBoth();
  Begin({{1, "a"}, {2, "b"}});
  Done(1);
  Done(1);
  Done(1, StatusCode::kCorrupt);
  Done(2);
  std::vector<std::string> received;
  ASSERT_TRUE(Eventually([&] {
    const CompletionTable::Finished finished = worker_->Poll(kPollUs);
    EXPECT_THAT(finished.failed, IsEmpty());
    received.insert(received.end(), finished.received.begin(), finished.received.end());
    return received.size() >= 2;
  }));
  EXPECT_THAT(received, ElementsAre("a", "b"));
}

TEST_F(Worker, GrantsWhatTheStepNames) {
  StartBoth();
  Begin({{1, "a"}, {2, "b"}}, {}, true);
  const auto grant = plane_->Await([](const auto& m) { return m.has_grant(); });
  ASSERT_TRUE(grant.has_value());
  EXPECT_EQ(grant->grant().epoch(), 9U);
  EXPECT_THAT(grant->grant().attempts(), ElementsAre(1, 2));
}

TEST_F(Worker, FailsAndCancelsALoadOverItsDeadline) {
  StartBoth();
  Begin({{1, "a"}});
  EXPECT_TRUE(worker_->Poll(0).empty());
  clock_.AdvanceNs(5 * kNsPerSecond);
  EXPECT_THAT(worker_->Poll(0).failed, ElementsAre("a"));
  const auto cancel = plane_->Await([](const auto& m) { return m.has_cancel(); });
  ASSERT_TRUE(cancel.has_value());
  EXPECT_THAT(cancel->cancel().attempts(), ElementsAre(1));
  EXPECT_EQ(worker_->TakeStats().loads_over_deadline, 1U);
}

TEST_F(Worker, FailsLoadsWhenTheStreamBreaksAndLoadsAgainAfterwards) {
  StartBoth();
  AwaitHello();
  Begin({{1, "a"}});
  plane_->Break();
  EXPECT_THAT(AwaitFinished().failed, ElementsAre("a"));
  AwaitHello();
  // The worker hears of the new connection a moment after the data plane: until then loads fail.
  uint64_t attempt = 1;
  ASSERT_TRUE(Eventually([&] {
    ++attempt;
    Done(attempt);
    Begin({{attempt, "b"}});
    return AwaitFinished().received == std::vector<std::string>{"b"};
  }));
}

TEST_F(Worker, FailsWhatTheSchedulerHalfGaveUp) {
  StartBoth();
  Begin({{1, "a"}, {2, "b"}}, {2});
  EXPECT_THAT(worker_->Poll(0).failed, ElementsAre("b"));
  EXPECT_EQ(worker_->Pending(), 1U);
}

TEST_F(Worker, FailsALoadAtOnceWhenThereIsNoDataPlane) {
  KvWorkerOptions options = Options();
  options.register_wait_ms = 0;
  ASSERT_TRUE(Register(options).ok());
  Begin({{1, "a"}});
  EXPECT_THAT(worker_->Poll(0).failed, ElementsAre("a"));
}

TEST_F(Worker, IgnoresMetadataOfAnotherVersion) {
  StartBoth();
  worker_->BeginStep("something else");
  EXPECT_EQ(worker_->Pending(), 0U);
}

}  // namespace
}  // namespace shadowserve
