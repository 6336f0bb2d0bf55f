// pages_driver: fetches one prompt from a data plane that runs elsewhere and writes the bytes of
// its pages into a file, so that what two data planes put there can be compared. What the store
// does not have is saved first. Exit status: 0, 1 when it was not all fetched, 2 bad usage or no
// data plane.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <numeric>
#include <thread>

#include "base/log.h"
#include "client/kv_manager.h"
#include "client/kv_worker.h"
#include "kv_content.h"

namespace shadowserve::soak {
namespace {

constexpr ModelShape kShape = {8, 4, 128, KvDtype::kBf16, 1};
constexpr uint32_t kPageTokens = 64;
constexpr uint32_t kChunks = 6;
constexpr uint32_t kTokens = kChunks * kChunkTokens;
constexpr uint32_t kPages = kTokens / kPageTokens;
constexpr double kPatienceS = 30;
constexpr const char* kEngineId = "pages";

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(kPatienceS);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

class Pages {
 public:
  static Result<std::unique_ptr<Pages>> Create(const std::string& data_plane) {
    std::unique_ptr<Pages> pages(new Pages);
    SS_TRY_ASSIGN(pages->memory_, KvMemory::Create(kShape, kPageTokens, kPages, false));
    KvManagerOptions manager;
    manager.data_plane = data_plane;
    manager.engine_id = kEngineId;
    const std::string_view root = kEngineId;
    manager.root = RootKey(std::span(&root, 1));
    manager.shape = kShape;
    manager.page_tokens = kPageTokens;
    manager.lookup_timeout_s = kPatienceS;
    manager.fetch_deadline_s = kPatienceS;
    manager.save_deadline_s = kPatienceS;
    SS_TRY_ASSIGN(pages->manager_, KvManager::Create(std::move(manager)));
    KvWorkerOptions worker;
    worker.data_plane = data_plane;
    worker.engine_id = kEngineId;
    worker.shape = kShape;
    worker.devices = {"mapped"};
    worker.fetch_deadline_s = kPatienceS;
    SS_TRY_ASSIGN(pages->worker_, KvWorker::Create(std::move(worker)));
    SS_TRY(pages->worker_->Register(pages->memory_->region(), pages->memory_->layout()).status());
    SS_TRY_ASSIGN(const bool ready, pages->manager_->WaitReady(kPatienceS));
    if (!ready) return Status(StatusCode::kUnavailable, "no data plane");
    return pages;
  }

  // A new request; how many of its tokens the store has.
  uint64_t Ask(const std::string& id) {
    // One more than is fetched: an engine always computes one.
    std::vector<uint32_t> tokens(kTokens + 1);
    std::iota(tokens.begin(), tokens.end(), 0U);
    const std::vector<std::string> parts;
    manager_->AddRequest(id, tokens, {}, parts);
    std::optional<uint64_t> matched;
    (void)Eventually([&] { return (matched = manager_->MatchedTokens(id, 0)).has_value(); });
    return matched.value_or(0);
  }

  bool Save(const std::string& id) {
    ForGranules([this](uint32_t page, uint32_t granule, ContentKey key) {
      memory_->Write(page, granule, key);
    });
    manager_->BeginSaves(id, kTokens, page_ids_);
    manager_->Flush();
    uint64_t stored = 0;
    return Eventually([&] {
      stored += manager_->TakeStats().saves_stored;
      (void)manager_->TakeReleases();
      return stored == kChunks;
    });
  }

  bool Load(const std::string& id) {
    std::ranges::fill(memory_->region(), std::byte{0x55});
    manager_->BeginLoad(id, page_ids_, 0, kTokens);
    worker_->BeginStep(manager_->Metadata());
    bool received = false;
    bool failed = false;
    (void)Eventually([&] {
      const CompletionTable::Finished finished = worker_->Poll(1000);
      received = std::ranges::count(finished.received, id) > 0;
      failed = !finished.failed.empty();
      return received || failed;
    });
    return received && !failed;
  }

  // Whether the pages are exactly what was saved: only after an exact profile.
  bool Exact() const {
    bool exact = true;
    ForGranules([&](uint32_t page, uint32_t granule, ContentKey key) {
      exact &= memory_->Holds(page, granule, key);
    });
    return exact;
  }

  bool WriteTo(const std::string& path) const {
    std::ofstream file(path, std::ios::binary);
    const std::span<const std::byte> bytes = memory_->region();
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return file.flush().good();
  }

 private:
  Pages() : page_ids_(kPages) { std::iota(page_ids_.begin(), page_ids_.end(), 0U); }

  template <typename Visit>
  void ForGranules(Visit visit) const {
    for (uint32_t page = 0; page < kPages; ++page) {
      for (uint32_t granule = 0; granule < memory_->page_granules(); ++granule) {
        visit(page, granule, Mix(page * memory_->page_granules() + granule));
      }
    }
  }

  std::vector<uint32_t> page_ids_;
  std::unique_ptr<KvMemory> memory_;
  std::unique_ptr<KvManager> manager_;
  std::unique_ptr<KvWorker> worker_;  // goes before the memory
};

int Run(const std::string& data_plane, const std::string& path) {
  const Result<std::unique_ptr<Pages>> made = Pages::Create(data_plane);
  if (!made.ok()) {
    std::fprintf(stderr, "pages_driver: %s\n", made.status().ToString().c_str());
    return 2;
  }
  Pages& pages = **made;
  const bool there = pages.Ask("first") == kTokens;
  if (!there && !pages.Save("first")) {
    std::fputs("pages_driver: not all chunks were stored\n", stderr);
    return 1;
  }
  if (pages.Ask("second") != kTokens || !pages.Load("second")) {
    std::fputs("pages_driver: not all chunks were fetched\n", stderr);
    return 1;
  }
  std::printf("%s, %s\n", there ? "fetched" : "saved and fetched",
              pages.Exact() ? "exact" : "not exact");
  return pages.WriteTo(path) ? 0 : 1;
}

}  // namespace
}  // namespace shadowserve::soak

int main(int argc, char** argv) {
  std::string data_plane;
  std::string path;
  CLI::App app("Fetches one prompt and writes the bytes of its pages into a file");
  app.add_option("--data-plane", data_plane, "unix:///path of shadowserved")->required();
  app.add_option("--write", path, "the file")->required();
  CLI11_PARSE(app, argc, argv);
  shadowserve::SetLogLevel(shadowserve::LogLevel::kError);
  return shadowserve::soak::Run(data_plane, path);
}
