// BenchRig: a data plane as shadowserved makes it, with one engine rank attached, and what drives
// it: an engine's memory made `mapped` by the client's own exporter, a store, saves that fill it,
// and loads that never let the pipeline run dry.
//
// Owner thread: main's. The data plane has its own.
#ifndef SHADOWSERVE_BENCH_BENCH_RIG_H_
#define SHADOWSERVE_BENCH_BENCH_RIG_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "bench/bench_options.h"
#include "bench/emulated_engine.h"
#include "bench/emulated_memory.h"
#include "client/kv_export.h"
#include "codec/block_engine.h"
#include "mem/slab_pool.h"
#include "pipeline/data_plane.h"

namespace shadowserve {

class BenchRig final : public PipelineEvents {
 public:
  static constexpr uint64_t kRankId = 1;
  // Loads in flight: one is always ready when another ends.
  static constexpr uint32_t kLoads = 2;
  static constexpr size_t kLatenciesMax = 1 << 20;

  // `spare_cpus`: where an emulated engine may run.
  static Result<std::unique_ptr<BenchRig>> Create(const BenchOptions& options,
                                                  std::vector<int> spare_cpus);
  // Stops the data plane and removes what it stored.
  ~BenchRig() override;

  // Fills the engine's source pages with KV-like values and saves all chunks. KV bytes per second
  // of the saves.
  Result<double> FillStore();
  // From now on kLoads loads are in flight, until StopLoads, which waits for the last one and tells
  // how they went.
  void StartLoads();
  Status StopLoads();
  // From asking for a segment to its last value in the pages: of all that were loaded since the
  // last call, kLatenciesMax at most.
  std::vector<int64_t> TakeLatencies();
  // Whether every page of the last loads holds what was saved. REQUIRES: FillStore, StopLoads.
  bool LoadedPagesEqualSaved() const;

  // Runs on the data plane's thread, while nothing else does, and waits for it.
  void OnPlane(const std::function<void(DataPlane&)>& work);

  const BenchOptions& options() const { return options_; }
  const Metrics& metrics() const { return metrics_; }
  const Clock& clock() const { return clock_; }
  const RankMemory& rank() const { return *rank_; }
  const std::string& store_url() const { return store_url_; }
  StoredForm form() const { return {options_.profile, options_.lossless}; }
  const std::vector<ChunkKey>& keys() const { return keys_; }
  // Pages of one chunk: the source that was saved, or a target of loads.
  std::span<const uint32_t> SourcePages(uint32_t chunk) const;
  std::span<const uint32_t> TargetPages(uint32_t chunk) const;
  // Segments of all chunks, in the order of a load.
  std::vector<ObjectName> Segments() const;
  SegmentShape ShapeOf(const ObjectName& name) const;
  uint64_t kv_bytes() const;  // of all chunks
  // Of the emulated card; null without one.
  EmulatedEngine* emulated_engine() const { return emulated_engine_.get(); }
  const EmulatedMemory* emulated_memory() const { return emulated_memory_.get(); }

  void OnLoadDone(const LoadResult& result) override;
  void OnSegmentLoaded(int64_t asked_ns) override;
  void OnSaveRead(uint64_t save_id, bool last) override;
  void OnSaveDone(const SaveResult& result) override;

 private:
  BenchRig(const BenchOptions& options, std::vector<int> spare_cpus)
      : options_(options), spare_cpus_(std::move(spare_cpus)) {}
  Status OpenStoreDirectory();
  Status MakeEngine(std::unique_ptr<RankMemory>* rank);
  Status Start();
  void WriteSourcePages();
  LoadSpec NextLoad();
  void PostLoad();
  void RemoveObjects();

  const BenchOptions options_;
  const std::vector<int> spare_cpus_;
  SteadyClock clock_;
  Metrics metrics_;
  std::string directory_;  // ours, or empty
  std::string store_url_;
  Region memory_;  // the engine's
  std::unique_ptr<KvExporter> exporter_;
  std::vector<ChunkKey> keys_;
  std::vector<uint32_t> pages_;  // source pages of all chunks, then their target pages
  std::unique_ptr<BlockEngine> codec_engine_;  // of a plug-in; null: none
  std::unique_ptr<EmulatedEngine> emulated_engine_;
  std::unique_ptr<EmulatedMemory> emulated_memory_;
  std::unique_ptr<DataPlane> plane_;
  const RankMemory* rank_ = nullptr;  // the data plane's

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_load_id_ = 1;  // guarded by mutex_, as all below
  uint32_t loads_inflight_ = 0;
  bool loading_ = false;
  Status load_status_;
  std::vector<int64_t> latencies_ns_;
  uint32_t saves_left_ = 0;
  uint32_t saves_dropped_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_BENCH_RIG_H_
