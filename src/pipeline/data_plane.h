// The data plane's thread: owns the store, the slabs, the devices and both pipelines. With several
// cores it has the first to itself, and each other one has a thread that decodes (DecodeCrew). A
// codec engine serves them all, each by a queue of its own; with fewer queues than threads, those
// of further cores come first, and who has none decodes in software.
//
//   mailbox -> lookups -> store -> transfers -> fetch (admit, compute step) -> save (one step, if
//   nothing of that moved)
//
// Every turn does a little of each, then the thread sleeps on file descriptors until the next
// message, store completion or deadline. Everything that other threads want is posted into the
// mailbox and runs here; answers come as PipelineEvents.
#ifndef SHADOWSERVE_PIPELINE_DATA_PLANE_H_
#define SHADOWSERVE_PIPELINE_DATA_PLANE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <unordered_map>
#include <vector>

#include "flow/mailbox.h"
#include "pipeline/fetch_pipeline.h"
#include "pipeline/lookup_pipeline.h"
#include "pipeline/save_pipeline.h"
#include "store/store.h"

namespace shadowserve {

class DataPlane {
 public:
  static constexpr size_t kMailboxMax = 16384;
  // How long Stop lets loads and store requests come home before it gives up on the store.
  static constexpr int64_t kStopWaitNs = 10 * kNsPerSecond;

  struct Options {
    // Sum of the slab budget: fetch_slabs + save_slabs, each slab_bytes.
    //  fetch: one wire slab per segment in flight, one staging slab per join (transfer devices);
    //  save: two per unit in work (canonical values, wire).
    uint64_t slab_bytes = 0;
    uint32_t fetch_slabs = 0;
    uint32_t save_slabs = 0;
    FetchPipeline::Options fetch;
    // Not empty: all objects are sealed by the first, and read only when sealed by one of them.
    std::vector<AuthKey> keys;
    SealAlgorithm cipher = SealAlgorithm::kGmac;
    TenantQuota::Options quota;
    // A thread for each, pinned to it. Empty: one thread, not pinned.
    std::vector<int> cpus;
  };

  // That decode, on these CPUs (Options::cpus): a codec engine needs a queue for each.
  static uint32_t Threads(const std::vector<int>& cpus) {
    return std::max(1U, static_cast<uint32_t>(cpus.size()));
  }

  // Pointers outlive the data plane. Events are called on its thread.
  static Result<std::unique_ptr<DataPlane>> Create(const Options& options,
                                                   std::unique_ptr<Store> store, Metrics* metrics,
                                                   const Clock* clock, PipelineEvents* events);
  ~DataPlane();  // stops

  void Start();
  // Ends loads and saves, joins the thread. Idempotent.
  void Stop();

  // Thread-safe; false when the mailbox is full.
  [[nodiscard]] bool Post(std::function<void()> work) { return mailbox_.Post(std::move(work)); }

  // The rest runs on the data plane's thread only (inside Post, or before Start).
  FetchPipeline& fetch() { return *fetch_; }
  SavePipeline& save() { return *save_; }
  LookupPipeline& lookup() { return lookup_; }
  StorePort& store_port() { return store_port_; }
  Store& store() { return *store_; }
  Seal* seal() { return seal_.get(); }  // null without keys
  // Owns the memory from now on. REQUIRES: a rank id never used before.
  void AddRank(uint64_t rank_id, std::unique_ptr<RankMemory> rank);
  RankMemory* FindRank(uint64_t rank_id);
  // Cancels what uses the rank, and destroys it once nothing does; then calls `gone`.
  void RemoveRank(uint64_t rank_id, std::function<void()> gone);

  // Any thread.
  const SlabPool& fetch_slabs() const { return *fetch_slabs_; }
  const SlabPool& save_slabs() const { return *save_slabs_; }

 private:
  struct Leaving {
    std::unique_ptr<RankMemory> rank;
    std::function<void()> gone;
  };
  DataPlane(const TenantQuota::Options& quota, std::unique_ptr<Store> store, Metrics* metrics,
            const Clock* clock)
      : store_(std::move(store)),
        clock_(clock),
        mailbox_(kMailboxMax),
        store_port_(store_.get(), metrics, clock),
        transfers_(metrics, clock),
        lookup_(&store_port_),
        quota_(quota, clock) {}

  Status MakeFetch(const Options& options, Metrics* metrics, PipelineEvents* events);
  void Run();
  bool Turn();
  bool FinishLeaving();
  void Wait();
  bool Idle() const;

  std::unique_ptr<Store> store_;
  const Clock* clock_;
  Mailbox mailbox_;
  StorePort store_port_;
  TransferPort transfers_;
  LookupPipeline lookup_;
  std::unique_ptr<Seal> seal_;
  TenantQuota quota_;
  std::unique_ptr<SlabPool> fetch_slabs_;
  std::unique_ptr<SlabPool> save_slabs_;
  std::unordered_map<uint64_t, std::unique_ptr<RankMemory>> ranks_;
  std::vector<Leaving> leaving_;
  LentMemory wire_;                   // fetch_slabs_', to the codec engine
  std::unique_ptr<DecodeCrew> crew_;  // null with one core
  std::unique_ptr<FetchPipeline> fetch_;
  std::unique_ptr<SavePipeline> save_;
  std::vector<int> cpus_;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_DATA_PLANE_H_
