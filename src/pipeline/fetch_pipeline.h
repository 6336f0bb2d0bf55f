// The fetch pipeline: network -> decode -> dequantize -> write, overlapping segments of many
// requests.
//
// A load is cut into JOINS: the segments (one per head group) of one chunk and one layer range. A
// join is admitted when every slab that it will ever need is free (one wire slab per segment, and
// one staging slab where the device takes transfers), all or nothing: so joins cannot deadlock.
// Sessions (ranks) take turns, and the loads of each. Work that still waits for a grant ("pages may
// be written now") holds at most half of the slabs.
//
// How many joins are in flight follows the store: a WINDOW that doubles whenever the pipeline has
// nothing to do but wait, and shrinks slowly while it always has work. So a far store gets as many
// reads as it needs, and with a near one (page cache) the same few slabs are used again while they
// are still in the CPU's cache. With a DecodeCrew its floor is what keeps every thread busy.
//
// Per segment: its marker and its bytes are read together; both must be sound. Once the marker is
// there, blocks are decoded while the rest of the segment is on its way, where the store tells how
// far it is. With keys a block is verified right before it is decoded, under the head's tag, which
// was verified before the first. Any doubt (missing, damaged, wrong name) fails the whole load, and
// the object goes, so that the next save repairs it.
//
// With a DecodeCrew (several cores) steps of different segments are decoded side by side; this
// thread asks the store, hands out the steps, and decodes one itself only when the crew has its
// hands full. With a codec engine every thread has its own queue of it: a segment changes threads
// only while none of its blocks is with the engine.
//
// Fencing: after OnLoadDone nothing of a load touches a page. A cancelled load first lets reads of
// the store, steps of the crew and transfers in flight come home.
//
// Owner thread: the pipeline's.
#ifndef SHADOWSERVE_PIPELINE_FETCH_PIPELINE_H_
#define SHADOWSERVE_PIPELINE_FETCH_PIPELINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "format/marker.h"
#include "mem/slab_pool.h"
#include "pipeline/decode_crew.h"
#include "pipeline/events.h"
#include "pipeline/store_port.h"
#include "pipeline/transfer_port.h"

namespace shadowserve {

class FetchPipeline final : public StoreListener, public TransferListener {
 public:
  static constexpr size_t kLoadsMax = 4096;
  // The window loses one after this many times its size of joins without a wait.
  static constexpr uint32_t kJoinsPerShrink = 4;

  struct Options {
    uint32_t joins_inflight_max = 4;  // the window's bound
    // For measurements of the control path alone: a granted load ends well without a byte fetched.
    // Its pages hold anything, so no config key reaches this (app/run_daemon.h).
    bool control_path_only = false;
    // Decodes blocks where it can. Outlives the pipeline, and knows the memory of its slabs.
    BlockEngine* engine = nullptr;
    int64_t engine_answer_ns = EnginePort::Options{}.answer_ns;
    EnginePort::Options engine_port() const { return {engine, engine_answer_ns}; }
  };
  // All pointers outlive the pipeline. With a `seal` (keys) only what it vouches for is loaded; the
  // `crew`, if there is one, then has the same keys.
  static Result<std::unique_ptr<FetchPipeline>> Create(const Options& options, SlabPool* slabs,
                                                       StorePort* store, TransferPort* transfers,
                                                       Metrics* metrics, const Clock* clock,
                                                       PipelineEvents* events, Seal* seal = nullptr,
                                                       DecodeCrew* crew = nullptr);
  ~FetchPipeline() override;  // REQUIRES idle()

  // kInvalidArgument when the spec does not fit its rank, kExhausted past kLoadsMax: then there is
  // no OnLoadDone. Else leaves `spec` with what an earlier load had: memory to be used again.
  // REQUIRES: a load id never used before.
  Status Start(LoadSpec&& spec);
  void Grant(uint64_t load_id);
  // Ends a load as soon as nothing of it is in flight; unknown ids are ignored.
  void Cancel(uint64_t load_id, StatusCode code, std::string message);
  // The same for all loads into this rank.
  void CancelRank(const RankMemory* rank);
  bool UsesRank(const RankMemory* rank) const;

  // One turn: fails loads over their deadline, admits joins, asks the store, hands steps to the
  // crew and runs one here. True when anything moved.
  bool Turn();
  bool idle() const { return loads_.empty(); }
  // This thread has a queue of an engine that still answers.
  bool has_engine() const { return decoder_->has_engine(); }
  // Blocks of this thread are with the codec engine, which has nothing that could be waited on.
  bool engine_busy() const { return decoder_->engine_busy(); }
  // The next deadline, or INT64_MAX.
  int64_t next_deadline_ns() const;
  // A slab for work beside the fetches (tools); may be invalid.
  SlabLease TakeSlab() { return slabs_->TryTake(); }
  // Why a join of this rank could never be admitted; OK when it fits. Any thread.
  Status CheckFits(const RankMemory& rank) const;

  void OnStore(uint64_t tag, StatusCode code, uint64_t bytes) override;
  void OnTransfer(uint64_t tag, StatusCode code) override;

 private:
  struct Load {
    LoadSpec spec;
    uint32_t next_chunk = 0;
    uint32_t next_range = 0;  // counted from the rank's first
    uint32_t joins = 0;       // in flight
    uint32_t slabs = 0;       // held
    bool stopping = false;
    Status status;
    uint64_t kv_bytes = 0;
    uint64_t wire_bytes = 0;
    int64_t start_ns = 0;
    bool exhausted() const;  // no further join to admit
  };
  struct Join;
  struct Part {
    Join* join = nullptr;
    SlabLease wire;
    ObjectName name;
    SegmentShape shape;
    std::array<std::byte, kMarkerBytes> marker;
    uint64_t segment_bytes = 0;  // as the marker says
    uint64_t arrived = 0;        // leading bytes of the segment in the slab
    int64_t asked_ns = 0;        // when its segment was asked for
    DecodeJob job;
    bool marker_asked = false;
    bool segment_asked = false;
    uint8_t reads_left = 2;
    bool marker_sound = false;
    bool queued = false;  // in ready_
    bool lent = false;    // `job` is the crew's
    bool done = false;

    bool in_flight() const { return reads_left > 0 || lent; }
  };
  struct Join {
    Load* load = nullptr;
    uint32_t chunk = 0;
    LayerRange layers;
    SlabLease staging;
    std::vector<Part> parts;
    uint32_t part_count = 0;
    uint32_t parts_left = 0;
    uint32_t asks_left = 0;  // reads that the store has not accepted yet
    std::vector<TransferRun> runs;
    bool transferring = false;
    int64_t transfer_ns = 0;  // when it was submitted
  };

  FetchPipeline(const Options& options, SlabPool* slabs, StorePort* store, TransferPort* transfers,
                Metrics* metrics, const Clock* clock, PipelineEvents* events, Seal* seal,
                DecodeCrew* crew)
      : options_(options),
        slabs_(slabs),
        store_(store),
        transfers_(transfers),
        metrics_(metrics),
        clock_(clock),
        events_(events),
        seal_(seal),
        crew_(crew) {}

  static Status CheckSpec(const LoadSpec& spec);
  static uint32_t SlabsPerJoin(const RankMemory& rank);
  Load* Find(uint64_t load_id);
  bool FailOverdue();
  bool CompleteGranted();
  bool Admit();
  bool WidenWindow();
  bool AdmitOne(Load* load);
  void EndTurn(std::list<Load>::iterator load);
  void OpenJoin(Join* join, Load* load, std::span<SlabLease> leases);
  void AskStore(Join* join);
  void OnMarker(Part* part, StatusCode code, uint64_t bytes);
  void OnSegment(Part* part, StatusCode code, uint64_t bytes);
  void CountCorrupt(CorruptLabel damage, bool refused);
  Status ReadPartMarker(Part* part, uint64_t bytes) const;
  void Enqueue(Part* part);
  void Dequeue(Part* part);
  bool CanDecode(const Part& part) const;
  bool CanHandOut(const Part& part) const;
  Part* NextToDecode(bool (FetchPipeline::*can)(const Part&) const);
  void AimJob(Part* part);
  bool HandOut();
  bool TakeBack();
  bool ComputeStep();
  void OnStep(Part* part);
  void FailPart(Part* part, Status status);
  void FinishPart(Part* part);
  void CloseJoinIfDone(Join* join);
  bool SubmitTransfer(Join* join);
  void CloseJoin(Join* join);
  void Fail(Load* load, Status status);
  void CompleteIfDone(Load* load);
  std::span<const uint32_t> PagesOf(const Join& join) const;
  uint32_t FirstTokenOf(const Join& join) const;

  Options options_;
  SlabPool* slabs_;
  StorePort* store_;
  TransferPort* transfers_;
  Metrics* metrics_;
  const Clock* clock_;
  PipelineEvents* events_;
  Seal* seal_;
  DecodeCrew* crew_;  // null: one thread does everything
  std::unique_ptr<SegmentDecoder> decoder_;
  std::list<Load> loads_;  // in turn order
  std::list<Load> spare_loads_;
  std::vector<Join> joins_;
  std::vector<Join*> free_joins_;
  std::vector<SlabLease> leases_;  // scratch of AdmitOne
  std::vector<Part*> ready_;       // marker there, granted; the first that can is decoded
  uint32_t waiting_slabs_ = 0;     // held by loads without a grant
  uint32_t window_min_ = 1;
  uint32_t window_ = 1;        // most joins of granted loads
  uint32_t active_joins_ = 0;  // joins of granted loads
  uint32_t closed_joins_ = 0;  // since the window changed
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_FETCH_PIPELINE_H_
