#include "client/kv_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <numeric>

#include "client/fake_plane_test.h"
#include "client/step_metadata.h"

namespace shadowserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr int64_t kLongWaitUs = 30'000'000;  // as long as it takes

std::vector<uint32_t> Numbers(size_t count, uint32_t first = 0) {
  std::vector<uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

class Manager : public testing::Test {
 protected:
  KvManagerOptions Options() {
    KvManagerOptions options;
    options.data_plane = dir_.address();
    options.engine_id = "engine";
    options.shape = {.layers = 2, .kv_heads = 2, .head_dim = 8, .dtype = KvDtype::kBf16};
    options.page_tokens = 128;
    options.lookup_timeout_s = 1;
    options.fetch_deadline_s = 5;
    options.save_deadline_s = 5;
    options.clock = &clock_;
    options.answer_wait_us = kLongWaitUs;
    options.session.backoff_first_ms = 5;
    options.session.backoff_last_ms = 50;
    // Far away: what a test needs to see broken, it breaks.
    options.session.silent_ms = 60'000;
    options.session.dead_ms = 120'000;
    return options;
  }
  void StartPlane(FakePlane::Script script = {}) {
    plane_.reset();
    plane_ = std::make_unique<FakePlane>(dir_.path(), std::move(script));
  }
  void StartManager(KvManagerOptions options) {
    Result<std::unique_ptr<KvManager>> made = KvManager::Create(std::move(options));
    ASSERT_TRUE(made.ok()) << made.status().ToString();
    manager_ = std::move(*made);
  }
  void StartBoth() {
    StartPlane();
    StartManager(Options());
    AwaitReady();
  }
  void AwaitReady() {
    ASSERT_TRUE(Eventually([&] { return manager_->healthy(); }));
  }
  void AwaitBreak() {
    ASSERT_TRUE(Eventually([&] { return manager_->TakeStats().reconnects > 0; }));
  }

  void Add(const std::string& id, size_t tokens) {
    manager_->AddRequest(id, Numbers(tokens), {}, {});
  }
  v1::Lookup AwaitLookup() {
    const auto message = plane_->Await([](const auto& m) { return m.has_lookup(); });
    EXPECT_TRUE(message.has_value());
    return message ? message->lookup() : v1::Lookup();
  }
  v1::Load AwaitLoad() {
    const auto message = plane_->Await([](const auto& m) { return m.has_load(); });
    EXPECT_TRUE(message.has_value());
    return message ? message->load() : v1::Load();
  }
  void Answer(const v1::Lookup& lookup, uint32_t chunks) {
    v1::ServerMessage message;
    message.mutable_lookup_reply()->set_lookup_id(lookup.lookup_id());
    message.mutable_lookup_reply()->set_chunks(chunks);
    plane_->Send(message);
  }
  void SendDrained(uint64_t attempt) {
    v1::ServerMessage message;
    message.mutable_drained()->add_attempts(attempt);
    plane_->Send(message);
  }
  // A request whose two chunks are found and loading into pages 100..103.
  v1::Load StartLoad(const std::string& id) {
    Add(id, 600);
    Answer(AwaitLookup(), 2);
    EXPECT_EQ(manager_->MatchedTokens(id, 0), 512);
    manager_->BeginLoad(id, Numbers(5, 100), 0, 512);
    return AwaitLoad();
  }
  StepMetadata Step() {
    Result<StepMetadata> step = DecodeStep(manager_->Metadata());
    EXPECT_TRUE(step.ok());
    return step.ok() ? *step : StepMetadata{};
  }
  std::vector<uint32_t> AwaitReleases() {
    std::vector<uint32_t> pages;
    EXPECT_TRUE(Eventually([&] {
      pages = manager_->TakeReleases();
      return !pages.empty();
    }));
    return pages;
  }
  // Two chunks of "s" on their way, pages 0..3; returns their ids.
  std::vector<uint64_t> StartSaves() {
    Add("s", 600);
    Answer(AwaitLookup(), 0);
    EXPECT_EQ(manager_->MatchedTokens("s", 0), 0);
    EXPECT_THAT(manager_->BeginSaves("s", 600, Numbers(5)), ElementsAre(0, 1, 2, 3));
    manager_->Flush();
    const auto message = plane_->Await([](const auto& m) { return m.has_save(); });
    std::vector<uint64_t> ids;
    if (message) {
      for (const auto& item : message->save().items()) ids.push_back(item.save_id());
    }
    EXPECT_EQ(ids.size(), 2U);
    ids.resize(2);
    return ids;
  }
  v1::SaveConfirm Read(std::vector<uint64_t> all, std::vector<uint64_t> partial = {}) {
    v1::ServerMessage message;
    message.mutable_save_read()->mutable_save_ids()->Assign(all.begin(), all.end());
    message.mutable_save_read()->mutable_partial()->Assign(partial.begin(), partial.end());
    plane_->Send(message);
    const auto confirm = plane_->Await([](const auto& m) { return m.has_save_confirm(); });
    EXPECT_TRUE(confirm.has_value());
    return confirm ? confirm->save_confirm() : v1::SaveConfirm();
  }

  FakePlane::SocketDir dir_;
  ManualClock clock_;
  std::unique_ptr<FakePlane> plane_;
  std::unique_ptr<KvManager> manager_;
};

TEST_F(Manager, IntroducesItself) {
  StartBoth();
  const auto hello = plane_->Await([](const auto& m) { return m.has_scheduler_hello(); });
  ASSERT_TRUE(hello.has_value());
  EXPECT_EQ(hello->scheduler_hello().engine_id(), "engine");
  EXPECT_EQ(hello->scheduler_hello().epoch(), manager_->epoch());
  EXPECT_EQ(hello->scheduler_hello().page_tokens(), 128U);
  EXPECT_EQ(hello->scheduler_hello().shape().kv_heads(), 2U);
}

TEST_F(Manager, TellsWhyItWasRefused) {
  FakePlane::Script script;
  script.refuse_status = static_cast<uint32_t>(StatusCode::kUnsupported);
  script.refuse_message = "profile 'q8' takes bf16 or fp16: choose lossless";
  StartPlane(script);
  StartManager(Options());
  const Result<bool> ready = manager_->WaitReady(30);
  ASSERT_FALSE(ready.ok());
  EXPECT_EQ(ready.status().message(), "profile 'q8' takes bf16 or fp16: choose lossless");
}

TEST_F(Manager, TellsThatItsUserMayNotConnect) {
  FakePlane::Script script;
  script.deny = "this user may not";
  StartPlane(script);
  StartManager(Options());
  const Result<bool> ready = manager_->WaitReady(30);
  ASSERT_FALSE(ready.ok());
  EXPECT_EQ(ready.status().message(), "this user may not");
}

TEST_F(Manager, RefusesOptionsThatCanNeverWorkNamingThem) {
  KvManagerOptions options = Options();
  options.page_tokens = 100;
  const Result<std::unique_ptr<KvManager>> made = KvManager::Create(options);
  ASSERT_FALSE(made.ok());
  EXPECT_NE(made.status().message().find("page_tokens"), std::string_view::npos);
  options = Options();
  options.save_deadline_s = 0;
  EXPECT_FALSE(KvManager::Create(options).ok());
}

TEST_F(Manager, FindsNothingAndWaitsForNothingWithoutADataPlane) {
  StartManager(Options());
  Add("r", 600);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 0);
  EXPECT_THAT(manager_->BeginSaves("r", 600, Numbers(5)), IsEmpty());
  EXPECT_FALSE(manager_->Unsaved("r"));
  EXPECT_EQ(manager_->Metadata(), "");
  const KvManagerStats stats = manager_->TakeStats();
  EXPECT_EQ(stats.lookups_timeout, 1U);
  EXPECT_EQ(stats.saves_dropped, 2U);
}

TEST_F(Manager, OffersTheWholeChunksThatAreStored) {
  StartBoth();
  Add("r", 800);
  const v1::Lookup lookup = AwaitLookup();
  EXPECT_EQ(lookup.keys().size(), 3 * sizeof(ChunkKey));
  Answer(lookup, 2);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 512);
  EXPECT_EQ(manager_->MatchedTokens("r", 128), 384);
  EXPECT_EQ(manager_->MatchedTokens("r", 512), 0);
  EXPECT_EQ(manager_->MatchedTokens("unknown", 0), 0);
  EXPECT_EQ(manager_->TakeStats().lookups_hit, 1U);
}

TEST_F(Manager, LeavesATokenToCompute) {
  StartBoth();
  Add("r", 512);
  const v1::Lookup lookup = AwaitLookup();
  EXPECT_EQ(lookup.keys().size(), sizeof(ChunkKey));
  Answer(lookup, 1);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 256);
}

TEST_F(Manager, AsksAgainLaterWhileTheAnswerIsOut) {
  StartPlane();
  KvManagerOptions options = Options();
  options.answer_wait_us = 0;
  StartManager(options);
  AwaitReady();
  Add("r", 600);
  const v1::Lookup lookup = AwaitLookup();
  EXPECT_EQ(manager_->MatchedTokens("r", 0), std::nullopt);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), std::nullopt);
  Answer(lookup, 1);
  EXPECT_TRUE(Eventually([&] { return manager_->MatchedTokens("r", 0) == 256; }));
}

TEST_F(Manager, GivesALookupUpAfterItsTimeout) {
  StartPlane();
  KvManagerOptions options = Options();
  options.answer_wait_us = 0;
  StartManager(options);
  AwaitReady();
  Add("r", 600);
  clock_.AdvanceNs(kNsPerSecond - 1);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), std::nullopt);
  clock_.AdvanceNs(1);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 0);
  EXPECT_EQ(manager_->TakeStats().lookups_timeout, 1U);
}

TEST_F(Manager, AsksForNoShortPrompt) {
  StartPlane();
  KvManagerOptions options = Options();
  options.min_hit_tokens = 500;
  StartManager(options);
  AwaitReady();
  Add("short", 499);
  EXPECT_EQ(manager_->MatchedTokens("short", 0), 0);
  EXPECT_TRUE(manager_->Unsaved("short"));
  Add("long", 500);
  EXPECT_EQ(AwaitLookup().keys().size(), sizeof(ChunkKey));
}

TEST_F(Manager, SharesNothingAcrossNamespaces) {
  StartBoth();
  Add("a", 300);
  manager_->NewNamespace();
  Add("b", 300);
  Add("a", 300);  // known: not asked again
  Add("c", 300);
  const std::string before = AwaitLookup().keys();
  const std::string after = AwaitLookup().keys();
  EXPECT_NE(before, after);
  EXPECT_EQ(AwaitLookup().keys(), after);
}

TEST_F(Manager, AsksTheDataPlaneForExactlyWhatTheEngineLacks) {
  StartBoth();
  Add("r", 800);
  const v1::Lookup lookup = AwaitLookup();
  Answer(lookup, 3);
  EXPECT_EQ(manager_->MatchedTokens("r", 384), 384);
  manager_->BeginLoad("r", Numbers(7, 50), 384, 384);
  const v1::Load load = AwaitLoad();
  EXPECT_EQ(load.request_id(), "r");
  EXPECT_EQ(load.keys(), lookup.keys().substr(32));
  EXPECT_THAT(load.pages(), ElementsAre(52, 53, 54, 55));
  EXPECT_EQ(load.first_token(), 128U);
  EXPECT_TRUE(load.granted());
  EXPECT_EQ(load.deadline_ms(), 5000U);
  EXPECT_TRUE(manager_->Loading("r"));
  const StepMetadata step = Step();
  EXPECT_EQ(step.epoch, manager_->epoch());
  EXPECT_THAT(step.loads, ElementsAre(StepMetadata::NewLoad{load.attempt(), "r"}));
  EXPECT_THAT(step.failed, IsEmpty());
  // Only pages that the load may write are held.
  EXPECT_THAT(manager_->LoadFinished("r", true), ElementsAre(53, 54, 55));
}

TEST_F(Manager, HoldsNothingWhenTheLoadIsDrained) {
  StartBoth();
  const v1::Load load = StartLoad("r");
  SendDrained(load.attempt());
  // The answer to a later lookup tells that the report was taken.
  Add("next", 300);
  Answer(AwaitLookup(), 1);
  EXPECT_EQ(manager_->MatchedTokens("next", 0), 256);
  EXPECT_THAT(manager_->LoadFinished("r", false), IsEmpty());
  const KvManagerStats stats = manager_->TakeStats();
  EXPECT_EQ(stats.loads_ok, 1U);
  EXPECT_EQ(stats.load_tokens, 512U);
}

TEST_F(Manager, HoldsThePagesOfAFailedLoadUntilItIsDrained) {
  StartBoth();
  const v1::Load load = StartLoad("r");
  EXPECT_THAT(manager_->LoadFinished("r", true), ElementsAre(100, 101, 102, 103));
  EXPECT_FALSE(manager_->Loading("r"));
  EXPECT_THAT(manager_->TakeReleases(), IsEmpty());
  EXPECT_EQ(manager_->HeldPages(), 4U);
  const auto cancel = plane_->Await([](const auto& m) { return m.has_cancel(); });
  ASSERT_TRUE(cancel.has_value());
  EXPECT_THAT(cancel->cancel().attempts(), ElementsAre(load.attempt()));
  SendDrained(load.attempt());
  EXPECT_THAT(AwaitReleases(), ElementsAre(100, 101, 102, 103));
  EXPECT_EQ(manager_->HeldPages(), 0U);
}

TEST_F(Manager, NeverOffersARequestAgainThatFailedToLoad) {
  StartBoth();
  StartLoad("r");
  manager_->LoadFinished("r", true);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 0);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 0);
  EXPECT_EQ(manager_->TakeStats().loads_failed, 1U);
}

TEST_F(Manager, SavesAgainWhatFailedToLoad) {
  StartBoth();
  StartLoad("r");
  EXPECT_FALSE(manager_->Unsaved("r"));
  manager_->LoadFinished("r", true);
  EXPECT_TRUE(manager_->Unsaved("r"));
  EXPECT_THAT(manager_->BeginSaves("r", 300, Numbers(5)), ElementsAre(0, 1));
}

TEST_F(Manager, CancelsALoadThatIsInFlight) {
  StartBoth();
  const v1::Load load = StartLoad("r");
  EXPECT_TRUE(manager_->CancelLoad("r"));
  const auto cancel = plane_->Await([](const auto& m) { return m.has_cancel(); });
  ASSERT_TRUE(cancel.has_value());
  EXPECT_EQ(cancel->cancel().epoch(), manager_->epoch());
  EXPECT_THAT(cancel->cancel().attempts(), ElementsAre(load.attempt()));
  manager_->FinishRequest("r");
  EXPECT_TRUE(manager_->Loading("r"));
  EXPECT_THAT(manager_->LoadFinished("r", true), ElementsAre(100, 101, 102, 103));
  EXPECT_FALSE(manager_->CancelLoad("r"));
}

TEST_F(Manager, TellsTheWorkersOfALoadThatIsOverItsDeadline) {
  StartBoth();
  const v1::Load load = StartLoad("r");
  Step();
  clock_.AdvanceNs(10 * kNsPerSecond);
  EXPECT_THAT(Step().failed, ElementsAre(load.attempt()));
  EXPECT_EQ(manager_->Metadata(), "");
}

TEST_F(Manager, TellsTheWorkersOfLoadsThatABreakTookAway) {
  StartBoth();
  const v1::Load load = StartLoad("r");
  Step();
  plane_->Break();
  AwaitBreak();
  EXPECT_THAT(Step().failed, ElementsAre(load.attempt()));
}

TEST_F(Manager, FailsALoadThatCannotBeSent) {
  StartBoth();
  Add("r", 600);
  Answer(AwaitLookup(), 2);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 512);
  plane_.reset();
  ASSERT_TRUE(Eventually([&] { return !manager_->healthy(); }));
  manager_->BeginLoad("r", Numbers(5, 100), 0, 512);
  const StepMetadata step = Step();
  ASSERT_EQ(step.loads.size(), 1U);
  EXPECT_THAT(step.failed, ElementsAre(step.loads[0].attempt));
  EXPECT_THAT(manager_->LoadFinished("r", true), IsEmpty());
}

TEST_F(Manager, AsksTheSameProcessWhatIsDrainedAfterABreak) {
  StartBoth();
  const v1::Load held = StartLoad("held");
  manager_->LoadFinished("held", true);
  const v1::Load loading = StartLoad("loading");
  plane_->Break();
  const auto query = plane_->Await([](const auto& m) { return m.has_drain_query(); });
  ASSERT_TRUE(query.has_value());
  EXPECT_THAT(query->drain_query().attempts(),
              testing::UnorderedElementsAre(held.attempt(), loading.attempt()));
  EXPECT_THAT(manager_->TakeReleases(), IsEmpty());
  SendDrained(held.attempt());
  EXPECT_THAT(AwaitReleases(), ElementsAre(100, 101, 102, 103));
}

TEST_F(Manager, KeepsHoldingWhenANewProcessCannotProveTheEndOfTheOld) {
  StartBoth();
  const v1::Load load = StartLoad("r");
  manager_->LoadFinished("r", true);
  FakePlane::Script script;
  script.incarnation = 2;
  StartPlane(script);
  ASSERT_TRUE(plane_->AwaitConnections(1));
  AwaitReady();
  SendDrained(load.attempt());
  Add("next", 300);
  Answer(AwaitLookup(), 1);
  EXPECT_EQ(manager_->MatchedTokens("next", 0), 256);
  EXPECT_THAT(manager_->TakeReleases(), IsEmpty());
  EXPECT_EQ(manager_->TakeStats().quarantined_pages, 4U);
}

// Stands for the data plane's process.
class Child {
 public:
  Child() {
    char name[] = "sleep";
    char argument[] = "1000";
    char* arguments[] = {name, argument, nullptr};
    EXPECT_EQ(::posix_spawnp(&pid_, name, nullptr, nullptr, arguments, environ), 0);
  }
  ~Child() {
    Kill();
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  void Stop() const { ::kill(pid_, SIGSTOP); }
  void Kill() const { ::kill(pid_, SIGKILL); }

 private:
  pid_t pid_ = -1;
};

TEST_F(Manager, FreesPagesWhenTheProcessEndsAndNotWhenItStopsOrIsReplaced) {
  const Child old_process;
  const Child new_process;
  FakePlane::Script script;
  script.side_socket = "/side";
  StartPlane(script);
  KvManagerOptions options = Options();
  std::atomic<int> asked = 0;
  options.ask_process = [&](const std::string& path) -> Result<SideAnswer> {
    EXPECT_EQ(path, "/side");
    const bool first = asked++ == 0;
    Result<UniqueFd> pidfd = OpenPidfd(first ? old_process.pid() : new_process.pid());
    if (!pidfd.ok()) return pidfd.status();
    SideAnswer answer;
    answer.incarnation = first ? 1 : 2;
    answer.data_plane_pidfd = std::move(*pidfd);
    return answer;
  };
  StartManager(options);
  AwaitReady();
  StartLoad("r");
  manager_->LoadFinished("r", true);

  old_process.Stop();
  script.incarnation = 2;
  StartPlane(script);
  ASSERT_TRUE(plane_->AwaitConnections(1));
  AwaitReady();
  EXPECT_EQ(asked, 2);
  EXPECT_THAT(manager_->TakeReleases(), IsEmpty());

  old_process.Kill();
  EXPECT_THAT(AwaitReleases(), ElementsAre(100, 101, 102, 103));
}

TEST_F(Manager, HitsAgainWhenTheDataPlaneIsBack) {
  StartBoth();
  plane_.reset();
  ASSERT_TRUE(Eventually([&] { return !manager_->healthy(); }));
  Add("while away", 600);
  EXPECT_EQ(manager_->MatchedTokens("while away", 0), 0);
  StartPlane();
  AwaitReady();
  Add("back", 600);
  Answer(AwaitLookup(), 2);
  EXPECT_EQ(manager_->MatchedTokens("back", 0), 512);
}

TEST_F(Manager, FindsNothingForALookupThatABreakTookAway) {
  StartBoth();
  Add("r", 600);
  AwaitLookup();
  plane_->Break();
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 0);
}

TEST_F(Manager, OffersNoMoreTokensThanMayBeInFlight) {
  StartPlane();
  KvManagerOptions options = Options();
  options.max_load_tokens = 700;
  StartManager(options);
  AwaitReady();
  StartLoad("first");
  Add("second", 600);
  Answer(AwaitLookup(), 2);
  EXPECT_EQ(manager_->MatchedTokens("second", 0), 0);
  manager_->LoadFinished("first", false);
  EXPECT_EQ(manager_->MatchedTokens("second", 0), 512);
  Add("long", 2000);
  Answer(AwaitLookup(), 7);
  EXPECT_EQ(manager_->MatchedTokens("long", 0), 512);
}

TEST_F(Manager, FreesSavedPagesWhenTheyAreReadAndSaysThatTheyWereHeld) {
  StartBoth();
  const std::vector<uint64_t> ids = StartSaves();
  EXPECT_THAT(manager_->TakeReleases(), IsEmpty());
  const v1::SaveConfirm partial = Read({}, {ids[0]});
  EXPECT_THAT(partial.held(), ElementsAre(ids[0]));
  EXPECT_THAT(manager_->TakeReleases(), IsEmpty());
  const v1::SaveConfirm confirm = Read({ids[0]});
  EXPECT_THAT(confirm.held(), ElementsAre(ids[0]));
  EXPECT_THAT(confirm.revoked(), IsEmpty());
  EXPECT_THAT(manager_->TakeReleases(), ElementsAre(0, 1));
  v1::ServerMessage done;
  done.mutable_save_done()->add_save_ids(ids[0]);
  done.mutable_save_done()->add_save_ids(ids[1]);
  done.mutable_save_done()->set_result("stored");
  plane_->Send(done);
  EXPECT_THAT(AwaitReleases(), ElementsAre(2, 3));
  EXPECT_EQ(manager_->TakeStats().saves_stored, 2U);
}

TEST_F(Manager, SaysThatASaveOverItsDeadlineWasNotHeld) {
  StartBoth();
  const std::vector<uint64_t> ids = StartSaves();
  clock_.AdvanceNs(5 * kNsPerSecond);
  EXPECT_THAT(manager_->TakeReleases(), ElementsAre(0, 1, 2, 3));
  const v1::SaveConfirm confirm = Read({ids[0]}, {ids[1]});
  EXPECT_THAT(confirm.held(), IsEmpty());
  EXPECT_THAT(confirm.revoked(), testing::UnorderedElementsAre(ids[0], ids[1]));
  EXPECT_EQ(manager_->TakeStats().saves_dropped, 2U);
}

TEST_F(Manager, RevokesSavesWhenTheStreamBreaks) {
  StartBoth();
  const std::vector<uint64_t> ids = StartSaves();
  plane_->Break();
  EXPECT_THAT(AwaitReleases(), ElementsAre(0, 1, 2, 3));
  ASSERT_TRUE(plane_->AwaitConnections(2));
  AwaitReady();
  EXPECT_THAT(Read(ids).revoked(), ElementsAre(ids[0], ids[1]));
}

TEST_F(Manager, SavesEveryChunkOnceAndNoneThatTheStoreHas) {
  StartBoth();
  Add("r", 1100);
  Answer(AwaitLookup(), 1);
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 256);
  EXPECT_THAT(manager_->BeginSaves("r", 511, Numbers(9)), IsEmpty());
  EXPECT_THAT(manager_->BeginSaves("r", 512, Numbers(9)), ElementsAre(2, 3));
  EXPECT_THAT(manager_->BeginSaves("r", 512, Numbers(9)), IsEmpty());
  EXPECT_TRUE(manager_->Unsaved("r"));
  EXPECT_THAT(manager_->BeginSaves("r", 1100, Numbers(9)), ElementsAre(4, 5, 6, 7));
  EXPECT_FALSE(manager_->Unsaved("r"));
  manager_->ExtendRequest("r", Numbers(1300));
  EXPECT_TRUE(manager_->Unsaved("r"));
}

TEST_F(Manager, DropsSavesBeyondTheirBound) {
  StartPlane();
  KvManagerOptions options = Options();
  options.saves_max = 1;
  StartManager(options);
  AwaitReady();
  Add("r", 600);
  EXPECT_THAT(manager_->BeginSaves("r", 600, Numbers(5)), ElementsAre(0, 1));
  EXPECT_EQ(manager_->TakeStats().saves_dropped, 1U);
}

TEST_F(Manager, LetsLateLoadsAndSavesOfAFinishedRequestEnd) {
  StartBoth();
  const std::vector<uint64_t> ids = StartSaves();
  const v1::Load load = StartLoad("r");
  manager_->FinishRequest("s");
  manager_->FinishRequest("r");
  EXPECT_THAT(Read({ids[0]}).held(), ElementsAre(ids[0]));
  EXPECT_THAT(manager_->LoadFinished("r", true), ElementsAre(100, 101, 102, 103));
  SendDrained(load.attempt());
  EXPECT_TRUE(Eventually([&] { return manager_->TakeStats().quarantined_pages == 0; }));
}

TEST_F(Manager, NeverBlocksOnADataPlaneThatStopsReading) {
  FakePlane::Script script;
  script.read = false;
  StartPlane(script);
  KvManagerOptions options = Options();
  options.answer_wait_us = 0;
  options.session.queue_messages_max = 16;
  options.session.queue_bytes_max = 1 << 20;
  StartManager(options);
  AwaitReady();
  const std::vector<uint32_t> tokens = Numbers(256 * 512);
  uint64_t refused = 0;
  for (int i = 0; i < 20'000 && refused == 0; ++i) {
    const std::string id = "r" + std::to_string(i);
    manager_->AddRequest(id, tokens, {}, {});
    (void)manager_->MatchedTokens(id, 0);
    manager_->FinishRequest(id);
    refused += manager_->TakeStats().lookups_timeout;
  }
  EXPECT_GT(refused, 0U);
}

TEST_F(Manager, CallsASilentDataPlaneUnhealthy) {
  FakePlane::Script script;
  script.read = false;
  StartPlane(script);
  KvManagerOptions options = Options();
  options.session.silent_ms = 20;
  StartManager(options);
  AwaitReady();
  Add("r", 600);
  EXPECT_TRUE(Eventually([&] { return !manager_->healthy(); }));
  // Does not wait for an answer now.
  EXPECT_EQ(manager_->MatchedTokens("r", 0), 0);
}

}  // namespace
}  // namespace shadowserve
