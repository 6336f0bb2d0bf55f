// The save pipeline: read pages -> quantize -> encode -> store, at lower priority than any fetch.
//
// A save is one chunk of one rank. A store without an index is asked first which of its markers are
// there. Its UNITS (layer range x head group) that are not stored yet are
// worked on one after another: gather the pages into a canonical slab, ask whether the pages were
// held all the while, encode meanwhile, and only when the answer is yes publish the segment and
// then its marker. So a read of pages that were reused never reaches the store.
//
// Bounded: kSavesMax queued (more are dropped and counted), slabs of the save pool only (two per
// unit); steady state allocates nothing. A tenant whose quota is used up (tenant_quota.h; null:
// none has one) is dropped before its pages are read. Owner thread: the pipeline's.
#ifndef SHADOWSERVE_PIPELINE_SAVE_PIPELINE_H_
#define SHADOWSERVE_PIPELINE_SAVE_PIPELINE_H_

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <vector>

#include "format/marker.h"
#include "mem/slab_pool.h"
#include "pipeline/events.h"
#include "pipeline/segment_encoder.h"
#include "pipeline/store_port.h"
#include "pipeline/tenant_quota.h"
#include "pipeline/transfer_port.h"

namespace shadowserve {

class SavePipeline final : public StoreListener, public TransferListener {
 public:
  static constexpr size_t kSavesMax = 4096;
  static constexpr int64_t kConfirmWaitNs = 10 * kNsPerSecond;
  static constexpr uint32_t kSlabsPerUnit = 2;  // canonical values; wire (staging while reading)

  static Result<std::unique_ptr<SavePipeline>> Create(SlabPool* slabs, StorePort* store,
                                                      TransferPort* transfers, Metrics* metrics,
                                                      const Clock* clock, PipelineEvents* events,
                                                      Seal* seal = nullptr,
                                                      TenantQuota* quota = nullptr);
  ~SavePipeline() override;  // REQUIRES idle()

  // kInvalidArgument / kExhausted: not accepted, no OnSaveDone (kExhausted is counted as dropped).
  // Else leaves `spec` with what an earlier save had: memory to be used again.
  Status Start(SaveSpec&& spec);
  // The answer to one OnSaveRead.
  void Confirm(uint64_t save_id, bool held);
  // Ends a save as soon as nothing of it is in flight; unknown ids are ignored.
  void Cancel(uint64_t save_id, DropLabel reason);
  void CancelRank(const RankMemory* rank);
  void CancelAll(DropLabel reason);
  bool UsesRank(const RankMemory* rank) const;

  // One small step; true when anything moved. Call only when no fetch has compute work ready.
  bool Turn();
  bool idle() const { return queue_.empty() && used_slots_ == 0; }
  int64_t next_deadline_ns() const;

  void OnStore(uint64_t tag, StatusCode code, uint64_t bytes) override;
  void OnTransfer(uint64_t tag, StatusCode code) override;

 private:
  enum class Step : uint8_t {
    kAsking,      // which units the store lacks, where no index says so
    kNextUnit,    // look for a unit that is missing, take its slabs
    kReading,     // transfer in flight (devices without direct access)
    kGathering,   // pages (or staging) -> canonical slab, a few blocks a turn
    kEncoding,    // one block a turn
    kConfirming,  // encoded, waiting for the answer
    kPutSegment,  // to be submitted
    kPutMarker,
    kStoring,  // its request is in flight
  };
  struct Save {
    bool used = false;
    SaveSpec spec;
    uint32_t unit = 0;  // counted over range x group
    Step step = Step::kNextUnit;
    Step after_store = Step::kNextUnit;
    SlabLease values;
    SlabLease wire;
    SegmentShape shape;
    ObjectName name;
    uint32_t next_block = 0;
    std::vector<TransferRun> runs;
    std::vector<uint8_t> present;  // by unit, as the store answered
    uint32_t next_ask = 0;
    uint32_t asks_in_flight = 0;
    std::span<const std::byte> object;
    std::array<std::byte, kMarkerBytes> marker;
    int64_t confirm_deadline_ns = 0;
    int64_t asked_ns = 0;         // when the request or transfer in flight was submitted
    uint32_t answers_wanted = 0;  // to OnSaveRead
    uint64_t charged = 0;         // bytes of this unit, taken from the tenant's quota
    bool in_flight = false;       // a store request or transfer
    bool stored_any = false;      // at least one unit
    bool reads_over = false;      // OnSaveRead(last) was sent: the pages are not ours any more
    bool stopping = false;
    DropLabel reason = DropLabel::kCount;
  };

  SavePipeline(SlabPool* slabs, StorePort* store, TransferPort* transfers, Metrics* metrics,
               const Clock* clock, PipelineEvents* events, Seal* seal, TenantQuota* quota)
      : slabs_(slabs),
        store_(store),
        transfers_(transfers),
        metrics_(metrics),
        clock_(clock),
        events_(events),
        seal_(seal),
        quota_(quota) {}

  static uint32_t Units(const SaveSpec& spec);
  static ObjectName UnitName(const SaveSpec& spec, uint32_t unit, SegmentShape* shape);
  // The first unit at or after `unit` that the store lacks, or Units().
  uint32_t NextMissing(const Save& save, uint32_t unit) const;
  bool Ask(Save* save);
  bool FillSlots();
  bool Advance(Save* save);
  bool OpenUnit(Save* save);
  void StartRead(Save* save);
  void Gather(Save* save);
  bool Encode(Save* save);
  bool Charge(Save* save);
  bool Put(Save* save, ObjectKind kind);
  void Stop(Save* save, DropLabel reason);
  void Finish(Save* save, SaveOutcome outcome);

  SlabPool* slabs_;
  StorePort* store_;
  TransferPort* transfers_;
  Metrics* metrics_;
  const Clock* clock_;
  PipelineEvents* events_;
  Seal* seal_;
  TenantQuota* quota_;
  std::unique_ptr<SegmentEncoder> encoder_;
  Save* encoding_ = nullptr;  // the encoder holds one segment at a time
  std::vector<PlanePiece> pieces_;
  std::list<SaveSpec> queue_;
  std::list<SaveSpec> spare_specs_;
  std::vector<Save> slots_;  // as many as the save pool feeds
  uint32_t used_slots_ = 0;
  size_t turn_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_SAVE_PIPELINE_H_
