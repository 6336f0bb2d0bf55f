// Several models and tenants on one data plane: real sessions, real page memory of engines in this
// process, one store.
#include <gmock/gmock.h>

#include <numeric>
#include <set>
#include <thread>

#include "client/kv_manager.h"
#include "client/kv_worker.h"
#include "server/served_plane_testing.h"
#include "soak/kv_content.h"

namespace shadowserve::testing {
namespace {

using soak::ContentKey;
using soak::kGranuleTokens;

constexpr uint32_t kChunks = 3;
constexpr uint32_t kTokens = kChunks * kChunkTokens + 1;  // one is always computed
constexpr std::chrono::seconds kPatience(30);

struct Model {
  std::string name;
  uint64_t weights;
  ModelShape shape;
};
const Model kSmall = {"small", 1, {4, 4, 64, KvDtype::kBf16, 1}};
const Model kTuned = {"tuned", 2, {4, 4, 64, KvDtype::kBf16, 1}};  // the same shape, other weights
const Model kWide = {"wide", 3, {6, 2, 128, KvDtype::kBf16, 1}};

// The same prompt for everybody.
std::vector<uint32_t> Prompt(uint32_t first = 0) {
  std::vector<uint32_t> tokens(kTokens);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

// One vLLM engine of one rank: both halves of the client library, and pages.
class Engine {
 public:
  Engine(const ServedPlane& plane, const std::string& name, const Model& model,
         uint32_t page_tokens)
      : model_(model), page_tokens_(page_tokens) {
    const uint64_t pages = uint64_t{kPrompts} * PagesPerPrompt();
    memory_ = soak::KvMemory::Create(model.shape, page_tokens, pages, false).value();
    const std::string_view root = model.name;
    KvManagerOptions manager;
    manager.data_plane = "unix://" + plane.address.path;
    manager.engine_id = name;
    manager.root = RootKey(std::span(&root, 1));
    manager.shape = model.shape;
    manager.page_tokens = page_tokens;
    manager.lookup_timeout_s = 30;
    manager.fetch_deadline_s = 30;
    manager.save_deadline_s = 30;
    manager_ = KvManager::Create(std::move(manager)).value();
    KvWorkerOptions worker;
    worker.data_plane = "unix://" + plane.address.path;
    worker.engine_id = name;
    worker.shape = model.shape;
    worker.devices = {"mapped"};
    worker.fetch_deadline_s = 30;
    worker_ = KvWorker::Create(std::move(worker)).value();
    EXPECT_EQ(worker_->Register(memory_->region(), memory_->layout()).value(), "mapped");
    EXPECT_TRUE(manager_->WaitReady(30).value());
  }

  // A new request of a tenant; how many of its tokens the data plane has.
  uint64_t Ask(const std::string& id, const std::string& salt, uint32_t first_token = 0) {
    const std::vector<uint32_t> tokens = Prompt(first_token);
    const std::vector<std::string> parts = {salt};
    manager_->AddRequest(id, tokens, {}, parts, salt);
    content_[id] = soak::GranuleKeys(soak::RootOf(1, model_.weights, salt),
                                     std::span(tokens).first(kTokens - 1));
    pages_[id].resize(PagesPerPrompt());
    std::iota(pages_[id].begin(), pages_[id].end(), next_page_);
    next_page_ += PagesPerPrompt();
    std::optional<uint64_t> matched;
    EXPECT_TRUE(Eventually([&] { return (matched = manager_->MatchedTokens(id, 0)).has_value(); }));
    return matched.value_or(0);
  }
  void ComputeAndSave(const std::string& id) {
    ForGranules(id, [&](uint32_t page, uint32_t granule, ContentKey key) {
      memory_->Write(page, granule, key);
    });
    manager_->BeginSaves(id, kTokens - 1, pages_[id]);
    manager_->Flush();
  }
  // Since the last call, once so many saves have ended.
  KvManagerStats AwaitSaves(uint64_t count) {
    KvManagerStats sum;
    EXPECT_TRUE(Eventually([&] {
      const KvManagerStats stats = manager_->TakeStats();
      sum.saves_stored += stats.saves_stored;
      sum.saves_present += stats.saves_present;
      sum.saves_dropped += stats.saves_dropped;
      (void)manager_->TakeReleases();
      return sum.saves_stored + sum.saves_present + sum.saves_dropped >= count;
    }));
    return sum;
  }
  void BeginLoad(const std::string& id, uint64_t tokens) {
    manager_->BeginLoad(id, pages_[id], 0, tokens);
    worker_->BeginStep(manager_->Metadata());
  }
  // Whether all of these loads came, each with its own tenant's and model's bytes.
  bool HoldsAfterLoad(std::set<std::string> ids) {
    bool right = true;
    const bool all = Eventually([&] {
      const CompletionTable::Finished finished = worker_->Poll(1000);
      right &= finished.failed.empty();
      for (const std::string& id : finished.received) {
        ids.erase(id);
        ForGranules(id, [&](uint32_t page, uint32_t granule, ContentKey key) {
          right &= memory_->Holds(page, granule, key);
        });
      }
      return ids.empty();
    });
    return all && right;
  }

 private:
  static constexpr uint32_t kPrompts = 8;
  uint32_t PagesPerPrompt() const { return kChunks * kChunkTokens / page_tokens_; }
  template <typename Visit>
  void ForGranules(const std::string& id, const Visit& visit) {
    const uint32_t per_page = memory_->page_granules();
    const std::vector<ContentKey>& keys = content_.at(id);
    for (uint32_t i = 0; i < keys.size(); ++i) {
      visit(pages_.at(id)[i / per_page], i % per_page, keys[i]);
    }
  }

  const Model model_;
  const uint32_t page_tokens_;
  std::unique_ptr<soak::KvMemory> memory_;
  std::unique_ptr<KvManager> manager_;
  std::unique_ptr<KvWorker> worker_;
  std::map<std::string, std::vector<ContentKey>> content_;
  std::map<std::string, std::vector<uint32_t>> pages_;
  uint32_t next_page_ = 0;
};

const AllowedUids kThisUser = {false, {geteuid()}};

TEST(Tenants, ModelsAndSaltsOnOneDataPlaneNeverMeetAndEqualOnesDo) {
  const ServedPlane plane(kThisUser);
  const std::vector<std::string> salts = {"", "ada", "bob"};
  Engine small(plane, "small", kSmall, 64);
  Engine tuned(plane, "tuned", kTuned, 64);
  Engine wide(plane, "wide", kWide, 32);
  // Everybody has the same prompt, one after the other: nobody finds what the others saved.
  for (Engine* engine : {&small, &tuned, &wide}) {
    for (const std::string& salt : salts) {
      ASSERT_EQ(engine->Ask("save " + salt, salt), 0U);
      engine->ComputeAndSave("save " + salt);
      ASSERT_EQ(engine->AwaitSaves(kChunks).saves_stored, kChunks);
    }
  }
  // Engines that come later, with other pages, find their model's and tenant's own, all at once.
  Engine small_too(plane, "small too", kSmall, 32);
  Engine tuned_too(plane, "tuned too", kTuned, 128);
  Engine wide_too(plane, "wide too", kWide, 64);
  for (Engine* engine : {&small_too, &tuned_too, &wide_too}) {
    for (const std::string& salt : salts) {
      ASSERT_EQ(engine->Ask("load " + salt, salt), kTokens - 1);
      engine->BeginLoad("load " + salt, kTokens - 1);
    }
  }
  for (Engine* engine : {&small_too, &tuned_too, &wide_too}) {
    EXPECT_TRUE(engine->HoldsAfterLoad({"load ", "load ada", "load bob"}));
    EXPECT_EQ(engine->Ask("stranger", "eve"), 0U);
  }
}

TEST(Tenants, OneTenantsQuotaHoldsOverItsModelsAndLeavesTheOthersTheirs) {
  // Room for one prompt of either model and a part of a second one.
  const uint64_t prompt_bytes = uint64_t{kTokens} * 4 * 4 * 64 * 2 * 2;
  const ServedPlane plane(kThisUser, {prompt_bytes * 3 / 2, int64_t{3600} * kNsPerSecond});
  Engine small(plane, "small", kSmall, 64);
  Engine wide(plane, "wide", kWide, 64);
  uint64_t stored = 0;
  uint64_t dropped = 0;
  for (uint32_t prompt = 0; prompt < 3; ++prompt) {
    for (Engine* engine : {&small, &wide}) {
      const std::string id = "greedy " + std::to_string(prompt);
      engine->Ask(id, "greedy", 10'000 * prompt);
      engine->ComputeAndSave(id);
      const KvManagerStats stats = engine->AwaitSaves(kChunks);
      stored += stats.saves_stored;
      dropped += stats.saves_dropped;
    }
  }
  EXPECT_GE(stored, kChunks);
  EXPECT_GE(dropped, 6 * kChunks - 3 * kChunks);
  EXPECT_EQ(plane.metrics.saves_dropped[DropLabel::kQuota].value(), dropped);
  EXPECT_LE(plane.metrics.wire_bytes[DirectionLabel::kOut].value(), prompt_bytes * 3 / 2);

  // The other tenant's prompt is stored; and what the greedy one has is served to it as before.
  ASSERT_EQ(small.Ask("modest", "modest"), 0U);
  small.ComputeAndSave("modest");
  EXPECT_EQ(small.AwaitSaves(kChunks).saves_stored, kChunks);
  EXPECT_EQ(small.Ask("greedy again", "greedy"), kTokens - 1);
}

}  // namespace
}  // namespace shadowserve::testing
