#include "pipeline/save_pipeline.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "pipeline/stage_work.h"

namespace shadowserve {
namespace {

constexpr uint32_t kGatherBlocksPerTurn = 8;
// Tag of a store request: the slot, and above it 0 or, for a question, unit + 1.
constexpr uint32_t kSlotBits = 24;

}  // namespace

Result<std::unique_ptr<SavePipeline>> SavePipeline::Create(SlabPool* slabs, StorePort* store,
                                                           TransferPort* transfers,
                                                           Metrics* metrics, const Clock* clock,
                                                           PipelineEvents* events, Seal* seal,
                                                           TenantQuota* quota) {
  auto pipeline = std::unique_ptr<SavePipeline>(
      new SavePipeline(slabs, store, transfers, metrics, clock, events, seal, quota));
  SS_TRY_ASSIGN(pipeline->encoder_, SegmentEncoder::Create(metrics, clock, seal));
  pipeline->slots_.resize(slabs->slab_count() / kSlabsPerUnit);
  return pipeline;
}

SavePipeline::~SavePipeline() {
  SS_CHECK(idle(), "a save outlived its pipeline");
}

Status SavePipeline::Start(SaveSpec&& spec) {
  const PageLayout& layout = spec.rank->layout();
  if (spec.pages.size() != spec.rank->pages_per_chunk()) {
    return Status(StatusCode::kInvalidArgument,
                  std::to_string(spec.pages.size()) + " pages for one chunk");
  }
  for (const uint32_t page : spec.pages) {
    if (page >= layout.page_count) {
      return Status(StatusCode::kInvalidArgument,
                    "page " + std::to_string(page) + " is not registered");
    }
  }
  const SegmentShape segment =
      SegmentShapeOf(spec.rank->shape(), spec.rank->first_range(), spec.rank->first_group());
  SS_TRY(ProfileBytesOf(spec.form, segment).status());
  if (queue_.size() >= kSavesMax) {
    metrics_->saves_dropped[DropLabel::kQueueFull].Add();
    return Status(StatusCode::kExhausted, "too many saves in flight");
  }
  if (spare_specs_.empty()) spare_specs_.emplace_back();
  queue_.splice(queue_.end(), spare_specs_, spare_specs_.begin());
  std::swap(queue_.back(), spec);
  return OkStatus();
}

uint32_t SavePipeline::Units(const SaveSpec& spec) {
  return spec.rank->range_count() * spec.rank->group_count();
}

ObjectName SavePipeline::UnitName(const SaveSpec& spec, uint32_t unit, SegmentShape* shape) {
  const RankMemory& rank = *spec.rank;
  const uint32_t range = rank.first_range() + unit / rank.group_count();
  const uint32_t group = rank.first_group() + unit % rank.group_count();
  *shape = SegmentShapeOf(rank.shape(), range, group);
  ObjectName name;
  name.key = spec.key;
  name.profile = spec.form.profile;
  name.codec = spec.form.codec;
  name.first_layer = static_cast<uint16_t>(shape->layers.first);
  name.layer_count = static_cast<uint16_t>(shape->layers.count);
  name.head_group = static_cast<uint16_t>(group);
  name.head_groups = static_cast<uint16_t>(rank.shape().head_groups);
  return name;
}

uint32_t SavePipeline::NextMissing(const Save& save, uint32_t unit) const {
  SegmentShape shape;
  const bool indexed = store_->has_index();
  for (; unit < Units(save.spec); ++unit) {
    const bool present =
        indexed ? store_->MayContain(UnitName(save.spec, unit, &shape).AsKind(ObjectKind::kMarker))
                : save.present[unit] != 0;
    if (!present) break;
  }
  return unit;
}

// Asks for the units' markers; then, when all answers are there, the save goes on.
bool SavePipeline::Ask(Save* save) {
  const uint32_t first = save->next_ask;
  SegmentShape shape;
  while (save->next_ask < Units(save->spec)) {
    const ObjectName name = UnitName(save->spec, save->next_ask, &shape);
    const uint64_t tag =
        (uint64_t{save->next_ask} + 1) << kSlotBits | static_cast<uint64_t>(save - slots_.data());
    if (!store_->Submit(this, StoreOp::kExists, name.AsKind(ObjectKind::kMarker), {}, tag)) break;
    ++save->next_ask;
    ++save->asks_in_flight;
  }
  if (save->next_ask > first) return true;
  if (save->asks_in_flight > 0 || save->next_ask < Units(save->spec)) return false;
  save->step = Step::kNextUnit;
  return true;
}

bool SavePipeline::FillSlots() {
  if (queue_.empty() || used_slots_ == slots_.size()) return false;
  for (Save& save : slots_) {
    if (save.used || queue_.empty()) continue;
    Save fresh;
    std::swap(fresh.spec, queue_.front());
    // Their capacity is kept.
    std::swap(save.spec, queue_.front());
    std::swap(fresh.runs, save.runs);
    std::swap(fresh.present, save.present);
    save = std::move(fresh);
    save.used = true;
    save.present.assign(Units(save.spec), 0);
    save.step = store_->has_index() ? Step::kNextUnit : Step::kAsking;
    spare_specs_.splice(spare_specs_.end(), queue_, queue_.begin());
    ++used_slots_;
  }
  return true;
}

bool SavePipeline::Turn() {
  bool moved = FillSlots();
  for (size_t i = 0; i < slots_.size() && used_slots_ > 0; ++i) {
    Save& save = slots_[turn_];
    turn_ = (turn_ + 1) % slots_.size();
    if (save.used && Advance(&save)) return true;
  }
  return moved;
}

bool SavePipeline::Advance(Save* save) {
  if (save->in_flight) return false;
  if (save->stopping) {
    if (save->asks_in_flight > 0) return false;
    return Finish(save, SaveOutcome::kDropped), true;
  }
  switch (save->step) {
    case Step::kAsking:
      return Ask(save);
    case Step::kNextUnit:
      return OpenUnit(save);
    case Step::kReading:
      return StartRead(save), true;
    case Step::kGathering:
      return Gather(save), true;
    case Step::kEncoding:
      return Encode(save);
    case Step::kConfirming:
      if (save->answers_wanted == 0) return Charge(save);
      if (clock_->NowNs() < save->confirm_deadline_ns) return false;
      return Stop(save, DropLabel::kNotHeld), true;
    case Step::kPutSegment:
      return Put(save, ObjectKind::kSegment);
    case Step::kPutMarker:
      return Put(save, ObjectKind::kMarker);
    case Step::kStoring:
      return false;
  }
  return false;
}

bool SavePipeline::OpenUnit(Save* save) {
  save->unit = NextMissing(*save, save->unit);
  // A later unit that vanished from the store meanwhile is left to the next save.
  if (save->reads_over || save->unit == Units(save->spec)) {
    Finish(save, save->stored_any ? SaveOutcome::kStored : SaveOutcome::kPresent);
    return true;
  }
  if (quota_ != nullptr && quota_->Full(save->spec.tenant)) {
    return Stop(save, DropLabel::kQuota), true;
  }
  std::array<SlabLease, kSlabsPerUnit> slabs;
  if (!slabs_->TryTakeAll(slabs)) return false;
  save->values = std::move(slabs[0]);
  save->wire = std::move(slabs[1]);
  save->name = UnitName(save->spec, save->unit, &save->shape);
  save->next_block = 0;
  save->step = save->spec.rank->direct() ? Step::kGathering : Step::kReading;
  return true;
}

void SavePipeline::StartRead(Save* save) {
  const RankMemory& rank = *save->spec.rank;
  save->runs.clear();
  save->runs.reserve(rank.runs_max());
  // The runs cover all heads of this rank. With several head groups each unit reads them again:
  // only devices without direct access do, and only on the save path.
  rank.AppendRuns(save->shape.layers, save->spec.pages, 0, save->wire.bytes(), &save->runs);
  save->step = Step::kGathering;
  save->asked_ns = clock_->NowNs();
  save->in_flight = transfers_->Submit(this, &rank.device(), false, save->runs,
                                       static_cast<uint64_t>(save - slots_.data()));
  if (!save->in_flight) Stop(save, DropLabel::kReadError);
}

void SavePipeline::OnTransfer(uint64_t tag, StatusCode code) {
  Save* save = &slots_[tag];
  save->in_flight = false;
  TraceStage(metrics_, StageLabel::kRead, save->asked_ns, clock_->NowNs(), save->name, true);
  if (code != StatusCode::kOk) Stop(save, DropLabel::kReadError);
}

void SavePipeline::Gather(Save* save) {
  const RankMemory& rank = *save->spec.rank;
  const int64_t start_ns = clock_->NowNs();
  const std::span<std::byte> source = rank.direct() ? rank.device().direct() : save->wire.bytes();
  pieces_.clear();
  const uint32_t blocks = BlockCount(save->shape);
  const uint32_t end = std::min(blocks, save->next_block + kGatherBlocksPerTurn);
  for (; save->next_block < end; ++save->next_block) {
    rank.AppendPieces(save->shape, BlockAt(save->shape, save->next_block), save->spec.pages, 0,
                      source, &pieces_);
  }
  GatherPieces(save->shape, pieces_, save->values.bytes().first(save->shape.raw_bytes()));
  metrics_->stage_bytes[StageLabel::kRead].Add(2 * PieceBytes(pieces_, save->shape));
  CountStage(metrics_, StageLabel::kRead, start_ns, clock_->NowNs(), save->name, true);
  if (save->next_block < blocks) return;
  save->step = Step::kEncoding;
  save->answers_wanted += 1;
  save->confirm_deadline_ns = clock_->NowNs() + kConfirmWaitNs;
  metrics_->kv_bytes[DirectionLabel::kOut].Add(save->shape.raw_bytes());
  save->reads_over = NextMissing(*save, save->unit + 1) == Units(save->spec);
  events_->OnSaveRead(save->spec.save_id, save->reads_over);
}

void SavePipeline::Confirm(uint64_t save_id, bool held) {
  for (Save& save : slots_) {
    if (!save.used || save.spec.save_id != save_id || save.answers_wanted == 0) continue;
    save.answers_wanted -= 1;
    if (!held) Stop(&save, DropLabel::kNotHeld);
  }
}

bool SavePipeline::Encode(Save* save) {
  if (encoding_ == nullptr) {
    encoder_->Begin(save->name, save->shape, save->values.bytes().first(save->shape.raw_bytes()),
                    save->wire.bytes());
    encoding_ = save;
  }
  if (encoding_ != save) return false;
  save->object = encoder_->Step();
  if (save->object.empty()) return true;
  encoding_ = nullptr;
  save->step = Step::kConfirming;
  return true;
}

// Segment and marker, before either is stored.
bool SavePipeline::Charge(Save* save) {
  const uint64_t bytes = save->object.size() + kMarkerBytes;
  if (quota_ != nullptr && !quota_->Take(save->spec.tenant, bytes)) {
    return Stop(save, DropLabel::kQuota), true;
  }
  save->charged = bytes;
  save->step = Step::kPutSegment;
  return true;
}

bool SavePipeline::Put(Save* save, ObjectKind kind) {
  std::span<const std::byte> object = save->object;
  const ObjectName name = save->name.AsKind(kind);
  if (kind == ObjectKind::kMarker) {
    const Result<Marker> marker = MarkerOf(save->object);
    SS_CHECK(marker.ok(), marker.status().ToString());
    object = WriteMarker(*marker, name, save->marker, seal_);
  }
  // The store only reads the buffer of a put; its one request type has a mutable span.
  const std::span<std::byte> buffer(const_cast<std::byte*>(object.data()), object.size());
  save->asked_ns = clock_->NowNs();
  save->in_flight = store_->Submit(this, StoreOp::kPut, name, buffer,
                                   static_cast<uint64_t>(save - slots_.data()));
  if (!save->in_flight) return false;
  save->after_store = kind == ObjectKind::kSegment ? Step::kPutMarker : Step::kNextUnit;
  save->step = Step::kStoring;
  return true;
}

void SavePipeline::OnStore(uint64_t tag, StatusCode code, uint64_t /*bytes*/) {
  Save* save = &slots_[tag & ((uint64_t{1} << kSlotBits) - 1)];
  const uint64_t question = tag >> kSlotBits;
  if (question > 0) {
    --save->asks_in_flight;
    save->present[question - 1] = code == StatusCode::kOk ? 1 : 0;
    if (code != StatusCode::kOk && code != StatusCode::kNotFound) {
      Stop(save, DropLabel::kStoreError);
    }
    return;
  }
  save->in_flight = false;
  TraceStage(metrics_, StageLabel::kNetwork, save->asked_ns, clock_->NowNs(), save->name, true);
  if (code != StatusCode::kOk) {
    return Stop(save,
                code == StatusCode::kExhausted ? DropLabel::kStoreFull : DropLabel::kStoreError);
  }
  save->step = save->after_store;
  if (save->step == Step::kPutMarker) {
    save->charged = 0;  // spent: the segment is there, whatever becomes of its marker
    metrics_->wire_bytes[DirectionLabel::kOut].Add(save->object.size());
    return;
  }
  save->stored_any = true;
  save->unit += 1;
  save->values.Reset();
  save->wire.Reset();
}

void SavePipeline::Stop(Save* save, DropLabel reason) {
  if (save->stopping) return;
  save->stopping = true;
  save->reason = reason;
}

void SavePipeline::Cancel(uint64_t save_id, DropLabel reason) {
  for (Save& save : slots_) {
    if (save.used && save.spec.save_id == save_id) Stop(&save, reason);
  }
  for (auto spec = queue_.begin(); spec != queue_.end(); ++spec) {
    if (spec->save_id != save_id) continue;
    spare_specs_.splice(spare_specs_.end(), queue_, spec);
    metrics_->saves_dropped[reason].Add();
    events_->OnSaveDone(SaveResult{save_id, SaveOutcome::kDropped, reason});
    return;
  }
}

void SavePipeline::CancelRank(const RankMemory* rank) {
  for (Save& save : slots_) {
    if (save.used && save.spec.rank == rank) Stop(&save, DropLabel::kEngineGone);
  }
  std::vector<uint64_t> queued;
  for (const SaveSpec& spec : queue_) {
    if (spec.rank == rank) queued.push_back(spec.save_id);
  }
  for (const uint64_t save_id : queued) Cancel(save_id, DropLabel::kEngineGone);
}

void SavePipeline::CancelAll(DropLabel reason) {
  for (Save& save : slots_) {
    if (save.used) Stop(&save, reason);
  }
  while (!queue_.empty()) Cancel(queue_.front().save_id, reason);
}

bool SavePipeline::UsesRank(const RankMemory* rank) const {
  return std::any_of(slots_.begin(), slots_.end(),
                     [rank](const Save& save) { return save.used && save.spec.rank == rank; }) ||
         std::any_of(queue_.begin(), queue_.end(),
                     [rank](const SaveSpec& spec) { return spec.rank == rank; });
}

int64_t SavePipeline::next_deadline_ns() const {
  int64_t next = std::numeric_limits<int64_t>::max();
  for (const Save& save : slots_) {
    if (save.used && save.step == Step::kConfirming)
      next = std::min(next, save.confirm_deadline_ns);
  }
  return next;
}

void SavePipeline::Finish(Save* save, SaveOutcome outcome) {
  if (encoding_ == save) encoding_ = nullptr;
  if (quota_ != nullptr) quota_->GiveBack(save->spec.tenant, save->charged);
  const SaveResult result{save->spec.save_id, outcome, save->reason};
  save->values.Reset();
  save->wire.Reset();
  save->used = false;
  --used_slots_;
  switch (outcome) {
    case SaveOutcome::kStored:
      metrics_->saves[SaveLabel::kStored].Add();
      break;
    case SaveOutcome::kPresent:
      metrics_->saves[SaveLabel::kPresent].Add();
      break;
    case SaveOutcome::kDropped:
      metrics_->saves_dropped[save->reason].Add();
      break;
  }
  events_->OnSaveDone(result);
}

}  // namespace shadowserve
