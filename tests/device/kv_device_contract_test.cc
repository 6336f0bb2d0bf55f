// What every KvDevice does, against a real second process that owns the memory; then what each kind
// of access refuses, between users and pid namespaces.
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <vector>

#include "device/kv_device.h"
#include "test_engine.h"

namespace shadowserve {
namespace {

constexpr uint64_t kRegionBytes = (uint64_t{20} << 20) + 777;
constexpr uid_t kEngineUser = 65534;
constexpr uid_t kDataPlaneUser = 65533;

// Polls until `count` transfers came back.
std::vector<TransferCompletion> Drain(KvDevice& device, size_t count) {
  std::vector<TransferCompletion> all;
  std::vector<TransferCompletion> some(7);
  while (all.size() < count) {
    const size_t got = device.Poll(some);
    all.insert(all.end(), some.begin(), some.begin() + static_cast<ptrdiff_t>(got));
  }
  return all;
}

StatusCode Move(KvDevice& device, bool write, std::span<const TransferRun> runs) {
  const Transfer transfer{write, runs, 5};
  if (device.Submit({&transfer, 1}) != 1) return StatusCode::kExhausted;
  const TransferCompletion completion = Drain(device, 1)[0];
  return completion.user_data == 5 ? completion.code : StatusCode::kInternal;
}

StatusCode MoveOne(KvDevice& device, bool write, uint64_t offset, std::span<std::byte> local) {
  const TransferRun run{offset, local};
  return Move(device, write, {&run, 1});
}

class KvDeviceContract : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    Result<std::unique_ptr<TestEngine>> engine = TestEngine::Spawn({GetParam(), kRegionBytes});
    ASSERT_TRUE(engine.ok()) << engine.status().ToString();
    engine_ = std::move(*engine);
    Result<KvExport> exported = engine_->AwaitExport();
    ASSERT_TRUE(exported.ok()) << exported.status().ToString();
    Result<std::unique_ptr<KvDevice>> device = OpenKvDevice(std::move(*exported));
    ASSERT_TRUE(device.ok()) << device.status().ToString();
    device_ = std::move(*device);
    ASSERT_EQ(device_->kind(), GetParam());
    ASSERT_EQ(device_->region_bytes(), kRegionBytes);
  }

  std::unique_ptr<TestEngine> engine_;
  std::unique_ptr<KvDevice> device_;
};

TEST_P(KvDeviceContract, WritesRunsAtOddOffsetsAndSizes) {
  const struct {
    uint64_t offset, bytes;
  } places[] = {{0, 1},        {4031, 2},   {4032 + 4096, 4096}, {13001, 65537},       {100003, 63},
                {200000, 128}, {300001, 0}, {1 << 20, 5 << 20},  {kRegionBytes - 3, 3}};
  std::vector<std::vector<std::byte>> buffers;
  std::vector<TransferRun> runs;
  for (const auto& place : places) {
    buffers.emplace_back(place.bytes);
    FillPattern(buffers.back(), 1, place.offset);
    runs.push_back({place.offset, buffers.back()});
  }
  ASSERT_EQ(Move(*device_, true, runs), StatusCode::kOk);
  uint64_t untouched_from = 0;
  std::ranges::sort(runs, {}, &TransferRun::offset);
  for (const TransferRun& run : runs) {
    EXPECT_TRUE(engine_->Check(run.offset, run.local.size(), 1)) << run.offset;
    EXPECT_TRUE(engine_->Check(untouched_from, run.offset - untouched_from, kInitialSeed));
    untouched_from = run.offset + run.local.size();
  }
}

TEST_P(KvDeviceContract, ReadsWhatTheEngineWrote) {
  ASSERT_TRUE(engine_->Fill(0, kRegionBytes, 3));
  for (const uint64_t offset : {uint64_t{0}, uint64_t{4033}, uint64_t{123457}}) {
    std::vector<std::byte> got((3 << 20) + 5);
    std::vector<std::byte> expected(got.size());
    FillPattern(expected, 3, offset);
    ASSERT_EQ(MoveOne(*device_, false, offset, got), StatusCode::kOk);
    EXPECT_EQ(got, expected) << offset;
  }
}

TEST_P(KvDeviceContract, MovesTheWholeRegionInOneTransfer) {
  std::vector<std::byte> bytes(kRegionBytes);
  FillPattern(bytes, 11, 0);
  ASSERT_EQ(MoveOne(*device_, true, 0, bytes), StatusCode::kOk);
  EXPECT_TRUE(engine_->Check(0, kRegionBytes, 11));
}

TEST_P(KvDeviceContract, KeepsWhatTheMemoryHeldBeforeTheExport) {
  EXPECT_TRUE(engine_->Check(0, kRegionBytes, kInitialSeed));
  std::vector<std::byte> got(kRegionBytes);
  std::vector<std::byte> expected(kRegionBytes);
  FillPattern(expected, kInitialSeed, 0);
  ASSERT_EQ(MoveOne(*device_, false, 0, got), StatusCode::kOk);
  EXPECT_TRUE(got == expected);
}

TEST_P(KvDeviceContract, LeavesTheRestOfTheEdgePagesIntact) {
  std::vector<std::byte> bytes(kRegionBytes);
  ASSERT_EQ(MoveOne(*device_, true, 0, bytes), StatusCode::kOk);
  EXPECT_TRUE(engine_->CheckEdges());
}

TEST_P(KvDeviceContract, RefusesATransferThatLeavesTheRegionAndMovesNothingOfIt) {
  std::vector<std::byte> bytes(64);
  FillPattern(bytes, 9, 0);
  std::vector<std::byte> more_than_all(kRegionBytes + 1);
  const TransferRun bad[] = {{kRegionBytes, bytes},
                             {kRegionBytes - 63, bytes},
                             {UINT64_MAX, bytes},
                             {UINT64_MAX - 63, bytes},
                             {0, more_than_all}};
  for (const TransferRun& run : bad) {
    const TransferRun runs[] = {{128, bytes}, run};
    EXPECT_EQ(Move(*device_, true, runs), StatusCode::kInvalidArgument) << run.offset;
    EXPECT_EQ(Move(*device_, false, runs), StatusCode::kInvalidArgument) << run.offset;
  }
  EXPECT_TRUE(engine_->Check(0, kRegionBytes, kInitialSeed));
  EXPECT_TRUE(engine_->CheckEdges());
}

TEST_P(KvDeviceContract, CompletesEveryAcceptedTransferOnceAndInOrder) {
  constexpr size_t kCount = 1000;
  std::vector<std::byte> bytes(kCount * 512);
  FillPattern(bytes, 6, 0);
  std::vector<TransferRun> runs;
  std::vector<Transfer> transfers;
  for (size_t i = 0; i < kCount; ++i) {
    runs.push_back({i * 512, std::span(bytes).subspan(i * 512, 512)});
  }
  for (size_t i = 0; i < kCount; ++i) transfers.push_back({true, {&runs[i], 1}, i});
  size_t submitted = 0;
  size_t completed = 0;
  bool pushed_back = false;
  while (completed < kCount) {
    const size_t accepted = device_->Submit(std::span(transfers).subspan(submitted));
    pushed_back = pushed_back || submitted + accepted < kCount;
    submitted += accepted;
    TransferCompletion completions[64];
    const size_t got = device_->Poll(completions);
    for (size_t i = 0; i < got; ++i) {
      EXPECT_EQ(completions[i].user_data, completed++);
      EXPECT_EQ(completions[i].code, StatusCode::kOk);
    }
  }
  EXPECT_TRUE(pushed_back);  // bounded
  TransferCompletion none[1];
  EXPECT_EQ(device_->Poll(none), 0u);
  EXPECT_TRUE(engine_->Check(0, kCount * 512, 6));
}

TEST_P(KvDeviceContract, CompletesATransferOfNoBytes) {
  EXPECT_EQ(Move(*device_, true, {}), StatusCode::kOk);
  EXPECT_EQ(Move(*device_, false, {}), StatusCode::kOk);
}

TEST_P(KvDeviceContract, NeedsNoHelpOfAStoppedEngine) {
  const Result<UniqueFd> pidfd = OpenPidfd(engine_->pid());
  ASSERT_TRUE(pidfd.ok());
  ASSERT_EQ(::kill(engine_->pid(), SIGSTOP), 0);
  int state = 0;
  ASSERT_EQ(::waitpid(engine_->pid(), &state, WUNTRACED), engine_->pid());
  ASSERT_TRUE(WIFSTOPPED(state));
  std::vector<std::byte> bytes(1 << 20);
  FillPattern(bytes, 8, 0);
  EXPECT_EQ(MoveOne(*device_, true, 0, bytes), StatusCode::kOk);
  EXPECT_EQ(MoveOne(*device_, false, 0, bytes), StatusCode::kOk);
  EXPECT_FALSE(ProcessHasExited(pidfd->get()));
  ASSERT_EQ(::kill(engine_->pid(), SIGCONT), 0);
  EXPECT_TRUE(engine_->Check(0, bytes.size(), 8));
}

TEST_P(KvDeviceContract, SurvivesAnEngineThatIsKilledInTheMiddle) {
  const Result<UniqueFd> pidfd = OpenPidfd(engine_->pid());
  ASSERT_TRUE(pidfd.ok());
  std::vector<std::byte> bytes(kRegionBytes);
  const TransferRun run{0, bytes};
  const Transfer transfers[] = {{true, {&run, 1}, 1}, {true, {&run, 1}, 2}, {false, {&run, 1}, 3}};
  ASSERT_EQ(device_->Submit(transfers), 3u);
  TransferCompletion completion[1];
  ASSERT_EQ(device_->Poll(completion), 0u);  // 20 MiB take several polls
  EXPECT_FALSE(ProcessHasExited(pidfd->get()));
  ASSERT_EQ(::kill(engine_->pid(), SIGKILL), 0);
  pollfd entry{pidfd->get(), POLLIN, 0};
  ASSERT_EQ(::poll(&entry, 1, 10000), 1);
  // Mapped memory outlives its engine; the others must say that it is gone.
  const StatusCode expected =
      std::string_view(GetParam()) == "mapped" ? StatusCode::kOk : StatusCode::kUnavailable;
  for (const TransferCompletion& done : Drain(*device_, 3)) EXPECT_EQ(done.code, expected);
  engine_->KillAndWait();
  EXPECT_EQ(MoveOne(*device_, true, 0, bytes), expected);
}

TEST_P(KvDeviceContract, LeavesTheEngineItsMemoryWhenTheExporterGoes) {
  if (std::string_view(GetParam()) == "ucx") device_.reset();  // its keys end with the exporter
  ASSERT_TRUE(engine_->DropExporter());
  EXPECT_TRUE(engine_->Check(0, kRegionBytes, kInitialSeed));
  EXPECT_TRUE(engine_->Fill(0, kRegionBytes, 4));
  EXPECT_TRUE(engine_->Check(0, kRegionBytes, 4));
  EXPECT_TRUE(engine_->CheckEdges());
}

TEST_P(KvDeviceContract, StopsTransfersInFlightWhenDestroyed) {
  std::vector<std::byte> bytes(kRegionBytes);
  const TransferRun run{0, bytes};
  const Transfer transfer{true, {&run, 1}, 1};
  ASSERT_EQ(device_->Submit({&transfer, 1}), 1u);
  TransferCompletion completion[1];
  ASSERT_EQ(device_->Poll(completion), 0u);
  device_.reset();
  ASSERT_TRUE(engine_->Fill(0, kRegionBytes, 5));
  EXPECT_TRUE(engine_->Check(0, kRegionBytes, 5));
}

INSTANTIATE_TEST_SUITE_P(Kinds, KvDeviceContract,
                         ::testing::Values("mapped", "process_vm"
#ifdef SS_HAVE_UCX
                                           ,
                                           "ucx"
#endif
                                           ),
                         [](const auto& kind) { return std::string(kind.param); });

// --- Between users and pid namespaces
// -----------------------------------------------------------------

// One round trip; "" when it works, else the error.
std::string RoundTrip(TestEngine& engine) {
  Result<KvExport> exported = engine.AwaitExport();
  if (!exported.ok()) return exported.status().ToString();
  Result<std::unique_ptr<KvDevice>> device = OpenKvDevice(std::move(*exported));
  if (!device.ok()) return device.status().ToString();
  std::vector<std::byte> bytes(100001);
  FillPattern(bytes, 2, 17);
  if (MoveOne(**device, true, 17, bytes) != StatusCode::kOk) return "write failed";
  return engine.Check(17, bytes.size(), 2) && engine.CheckEdges() ? "" : "other bytes";
}

class KvDeviceRights : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::getuid() != 0) GTEST_SKIP() << "needs root: changes users and pid namespaces";
  }
  void Spawn(const TestEngineOptions& options) {
    Result<std::unique_ptr<TestEngine>> engine = TestEngine::Spawn(options);
    ASSERT_TRUE(engine.ok()) << engine.status().ToString();
    engine_ = std::move(*engine);
  }
  std::string RoundTripAs(const ChildOptions& options) {
    return RunInChild(options, [this] { return RoundTrip(*engine_); });
  }
  static void ExpectNamesTheRemedy(const std::string& error) {
    EXPECT_TRUE(error.starts_with("unavailable: ")) << error;
    for (const char* word :
         {"ptrace_scope", "PR_SET_PTRACER", "CAP_SYS_PTRACE", "pid namespace", "`mapped`"}) {
      EXPECT_NE(error.find(word), std::string::npos) << word << " is not in: " << error;
    }
  }
  std::unique_ptr<TestEngine> engine_;
};

TEST_F(KvDeviceRights, MappedWorksBetweenTwoUnprivilegedUsers) {
  Spawn({"mapped", kRegionBytes, kEngineUser});
  EXPECT_EQ(RoundTripAs({kDataPlaneUser}), "");
}

TEST_F(KvDeviceRights, MappedWorksWithAnEngineInItsOwnPidNamespace) {
  Spawn({"mapped", kRegionBytes, kEngineUser, true});
  EXPECT_EQ(RoundTripAs({kDataPlaneUser}), "");
}

TEST_F(KvDeviceRights, MappedWorksWithADataPlaneInItsOwnPidNamespace) {
  Spawn({"mapped", kRegionBytes, kEngineUser});
  EXPECT_EQ(RoundTripAs({kDataPlaneUser, true}), "");
}

TEST_F(KvDeviceRights, ProcessVmWorksUnprivilegedForTheSameUser) {
  Spawn({"process_vm", kRegionBytes, kEngineUser});
  EXPECT_EQ(RoundTripAs({kEngineUser}), "");
}

TEST_F(KvDeviceRights, ProcessVmNamesTheRemedyWhenTheUsersDiffer) {
  Spawn({"process_vm", kRegionBytes, kEngineUser});
  ExpectNamesTheRemedy(RoundTripAs({kDataPlaneUser}));
}

TEST_F(KvDeviceRights, ProcessVmNamesTheRemedyAcrossPidNamespaces) {
  Spawn({"process_vm", kRegionBytes});
  ExpectNamesTheRemedy(RoundTripAs({0, true}));
}

TEST_F(KvDeviceRights, ProcessVmWorksWhereYamaRestrictsPtrace) {
  if (::access("/proc/sys/kernel/yama/ptrace_scope", F_OK) != 0) {
    GTEST_SKIP() << "this kernel has no Yama: PR_SET_PTRACER has nothing to permit";
  }
  Spawn({"process_vm", kRegionBytes, kEngineUser});
  EXPECT_EQ(RoundTripAs({kEngineUser}), "");
}

#ifdef SS_HAVE_UCX
TEST_F(KvDeviceRights, UcxIsRefusedInBoundedTimeWhenTheUsersDiffer) {
  Spawn({"ucx", kRegionBytes, kEngineUser});
  const std::string error = RoundTripAs({kDataPlaneUser});
  EXPECT_NE(error.find("KV device 'ucx'"), std::string::npos) << error;
}

TEST(UcxDevice, RefusesATransportThatOnlyEmulatesOneSidedAccess) {
  Result<std::unique_ptr<TestEngine>> engine = TestEngine::Spawn({"ucx:tcp,self", kRegionBytes});
  ASSERT_TRUE(engine.ok());
  Result<KvExport> exported = (*engine)->AwaitExport();
  ASSERT_TRUE(exported.ok()) << exported.status().ToString();
  KvDeviceOptions options;
  options.ucx_transports = "tcp,self";
  const Result<std::unique_ptr<KvDevice>> device = OpenKvDevice(std::move(*exported), options);
  EXPECT_EQ(device.status().code(), StatusCode::kUnsupported) << device.status().ToString();
  EXPECT_NE(device.status().message().find("only emulates"), std::string::npos);
}

// Whatever the library, the refusal comes before anything of the engine is looked at.
Status OpenWithLibrary(const char* path) {
  KvExport exported;
  exported.kind = "ucx";
  exported.region_bytes = 4096;
  exported.address = exported.probe_address = 4096;
  exported.pid = ::getpid();
  exported.ucx_worker_address = "x";
  KvDeviceOptions options;
  options.ucx_library = path;
  return OpenKvDevice(std::move(exported), options).status();
}

TEST(UcxDevice, RefusesAnOldLibraryByItsVersion) {
  const Status status = OpenWithLibrary(SS_OLD_UCX);
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("UCX 1.13.1"), std::string::npos) << status.ToString();
}

TEST(UcxDevice, NamesTheRemedyWhenThereIsNoLibrary) {
  const Status status = OpenWithLibrary("/nowhere/libucp.so.0");
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("install UCX"), std::string::npos) << status.ToString();
}
#endif

}  // namespace
}  // namespace shadowserve
