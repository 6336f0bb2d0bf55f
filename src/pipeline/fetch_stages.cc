// What happens to an admitted join: store, decode + dequantize, transfer, close.
#include <algorithm>
#include <string>
#include <utility>

#include "pipeline/fetch_pipeline.h"
#include "pipeline/stage_work.h"

namespace shadowserve {
namespace {

// Tag of a store request: join index, part index, marker or segment.
uint64_t MakeTag(size_t join, size_t part, bool marker) {
  return uint64_t{join} << 24 | uint64_t{part} << 1 | (marker ? 1 : 0);
}

}  // namespace

std::span<const uint32_t> FetchPipeline::PagesOf(const Join& join) const {
  const uint32_t per_chunk = join.load->spec.rank->pages_per_chunk();
  return std::span(join.load->spec.pages).subspan(size_t{join.chunk} * per_chunk, per_chunk);
}

uint32_t FetchPipeline::FirstTokenOf(const Join& join) const {
  return join.chunk == 0 ? join.load->spec.first_token : 0;
}

void FetchPipeline::AskStore(Join* join) {
  const auto join_index = static_cast<size_t>(join - joins_.data());
  for (uint32_t i = 0; i < join->part_count && join->asks_left > 0; ++i) {
    Part& part = join->parts[i];
    if (!part.marker_asked) {
      if (!store_->Submit(this, StoreOp::kGet, part.name.AsKind(ObjectKind::kMarker), part.marker,
                          MakeTag(join_index, i, true))) {
        return;
      }
      part.marker_asked = true;
      --join->asks_left;
    }
    if (!part.segment_asked) {
      part.asked_ns = clock_->NowNs();
      if (!store_->Submit(this, StoreOp::kGet, part.name, part.wire.bytes(),
                          MakeTag(join_index, i, false), &part.arrived)) {
        return;
      }
      part.segment_asked = true;
      --join->asks_left;
      metrics_->stage_inflight[StageLabel::kNetwork].Add(1);
    }
  }
}

void FetchPipeline::OnStore(uint64_t tag, StatusCode code, uint64_t bytes) {
  Join& join = joins_[tag >> 24];
  Part* part = &join.parts[(tag >> 1) & 0x7fffff];
  --part->reads_left;
  (tag & 1) != 0 ? OnMarker(part, code, bytes) : OnSegment(part, code, bytes);
}

void FetchPipeline::OnMarker(Part* part, StatusCode code, uint64_t bytes) {
  const Load* load = part->join->load;
  if (load->stopping) {
    if (!part->in_flight()) FinishPart(part);
    return;
  }
  if (code != StatusCode::kOk) {
    if (code == StatusCode::kCorrupt) metrics_->corrupt[CorruptLabel::kMarker].Add();
    return FailPart(part, Status(code, "store: marker of " + ToString(part->name)));
  }
  const uint64_t refused_before = decoder_->refused();
  if (Status marker = ReadPartMarker(part, bytes); !marker.ok()) {
    CountCorrupt(CorruptLabel::kMarker, decoder_->refused() > refused_before);
    return FailPart(part, std::move(marker));
  }
  part->marker_sound = true;
  if (load->spec.granted) Enqueue(part);  // else Grant comes back to it
}

void FetchPipeline::OnSegment(Part* part, StatusCode code, uint64_t bytes) {
  Load* load = part->join->load;
  metrics_->stage_inflight[StageLabel::kNetwork].Add(-1);
  TraceStage(metrics_, StageLabel::kNetwork, part->asked_ns, clock_->NowNs(), part->name, false);
  if (code == StatusCode::kOk) {
    metrics_->wire_bytes[DirectionLabel::kIn].Add(bytes);
    // Written into the slab once; what the kernel or a card read to do so is not ours to know.
    metrics_->stage_bytes[StageLabel::kNetwork].Add(bytes);
    load->wire_bytes += bytes;
  }
  if (load->stopping) {
    if (!part->in_flight()) FinishPart(part);
    return;
  }
  if (code != StatusCode::kOk) {
    if (code == StatusCode::kCorrupt) metrics_->corrupt[CorruptLabel::kSegment].Add();
    return FailPart(part, Status(code, "store: " + ToString(part->name)));
  }
  part->arrived = bytes;
  if (part->marker_sound && bytes != part->segment_bytes) {
    metrics_->corrupt[CorruptLabel::kMarker].Add();
    FailPart(part, Status(StatusCode::kCorrupt, "marker and segment differ in size"));
  }
}

Status FetchPipeline::ReadPartMarker(Part* part, uint64_t bytes) const {
  const ObjectName name = part->name.AsKind(ObjectKind::kMarker);
  SS_TRY_ASSIGN(
      const Marker marker,
      ReadMarker(std::span(part->marker).first(std::min(bytes, kMarkerBytes)), name, seal_));
  const bool complete = part->reads_left == 0;
  if (marker.segment_bytes > part->wire.bytes().size() ||
      (complete && marker.segment_bytes != part->arrived)) {
    return Status(StatusCode::kCorrupt, "marker and segment differ in size");
  }
  part->segment_bytes = marker.segment_bytes;
  return OkStatus();
}

// What only its tag was wrong with is no accident.
void FetchPipeline::CountCorrupt(CorruptLabel damage, bool refused) {
  metrics_->corrupt[refused ? CorruptLabel::kAuth : damage].Add();
}

void FetchPipeline::Enqueue(Part* part) {
  if (part->queued) return;
  part->queued = true;
  ready_.push_back(part);
  metrics_->stage_inflight[StageLabel::kDecode].Add(1);
}

void FetchPipeline::Dequeue(Part* part) {
  if (!part->queued) return;
  part->queued = false;
  ready_.erase(std::find(ready_.begin(), ready_.end(), part));
  metrics_->stage_inflight[StageLabel::kDecode].Add(-1);
}

// Whether a step of this thread finds something to do.
bool FetchPipeline::CanDecode(const Part& part) const {
  if (part.lent) return false;
  // When all blocks are written, still only the read's completion says that nothing follows them.
  const DecodeCursor& cursor = part.job.cursor;
  if (cursor.done()) return part.reads_left == 0;
  if (cursor.begun()) return decoder_->CanStep(cursor, part.arrived);
  if (part.reads_left == 0) return true;
  return part.arrived >= SegmentSideEnd(part.name.form(), part.shape, seal_ != nullptr);
}

// Whether one of another thread does: what this one has with the engine stays here.
bool FetchPipeline::CanHandOut(const Part& part) const {
  const DecodeCursor& cursor = part.job.cursor;
  if (part.lent || cursor.engine.out > 0) return false;
  if (cursor.begun() && !cursor.done()) return cursor.next_arrived(part.arrived);
  return CanDecode(part);
}

FetchPipeline::Part* FetchPipeline::NextToDecode(bool (FetchPipeline::*can)(const Part&) const) {
  const auto found = std::find_if(ready_.begin(), ready_.end(),
                                  [this, can](const Part* part) { return (this->*can)(*part); });
  return found == ready_.end() ? nullptr : *found;
}

// One step of the part, as far as its bytes are there now.
void FetchPipeline::AimJob(Part* part) {
  DecodeJob& job = part->job;
  job.arrived = part->arrived;
  if (job.cursor.begun()) return;
  const Join& join = *part->join;
  const RankMemory* rank = join.load->spec.rank;
  job.cursor.task = {part->wire.bytes().first(part->segment_bytes),
                     part->name,
                     part->shape,
                     rank,
                     PagesOf(join),
                     FirstTokenOf(join),
                     rank->direct() ? rank->device().direct() : join.staging.bytes()};
}

bool FetchPipeline::HandOut() {
  if (crew_ == nullptr) return false;
  bool moved = false;
  while (crew_->has_room()) {
    Part* const part = NextToDecode(&FetchPipeline::CanHandOut);
    if (part == nullptr) break;
    AimJob(part);
    part->job.owner = part;
    part->lent = true;
    crew_->Hand(&part->job);
    moved = true;
  }
  return moved;
}

bool FetchPipeline::TakeBack() {
  if (crew_ == nullptr) return false;
  bool moved = false;
  while (DecodeJob* const job = crew_->TakeBack()) {
    Part* const part = static_cast<Part*>(job->owner);
    part->lent = false;
    OnStep(part);
    moved = true;
  }
  return moved;
}

bool FetchPipeline::ComputeStep() {
  Part* const part = NextToDecode(&FetchPipeline::CanDecode);
  if (part == nullptr) return false;
  AimJob(part);
  RunDecodeJob(decoder_.get(), &part->job, part->job.arrived, kBlocksPerStep);
  OnStep(part);
  return true;
}

void FetchPipeline::OnStep(Part* part) {
  const DecodeJob& job = part->job;
  if (part->join->load->stopping) {
    if (!part->in_flight()) FinishPart(part);
  } else if (!job.status.ok()) {
    CountCorrupt(job.cursor.begun() ? CorruptLabel::kBlock : CorruptLabel::kSegment, job.refused);
    FailPart(part, job.status);
  } else if (job.complete && part->reads_left == 0) {
    part->join->load->kv_bytes += job.cursor.kv_bytes;
    metrics_->kv_bytes[DirectionLabel::kIn].Add(job.cursor.kv_bytes);
    events_->OnSegmentLoaded(part->asked_ns);
    FinishPart(part);
  }
}

// Ends the load. The part itself ends here, or with what of it is in flight.
void FetchPipeline::FailPart(Part* part, Status status) {
  Load* load = part->join->load;
  if (status.code() == StatusCode::kCorrupt || status.code() == StatusCode::kNotFound) {
    store_->Discard(part->name);
  }
  Fail(load, std::move(status).WithContext("chunk " + std::to_string(part->join->chunk)));
}

void FetchPipeline::FinishPart(Part* part) {
  Join* join = part->join;
  Load* load = join->load;
  Dequeue(part);
  part->done = true;
  part->wire.Reset();
  --join->parts_left;
  CloseJoinIfDone(join);
  if (join->load == nullptr) CompleteIfDone(load);
}

void FetchPipeline::CloseJoinIfDone(Join* join) {
  if (join->parts_left > 0 || join->transferring) return;
  const Load& load = *join->load;
  if (load.spec.rank->direct() || load.stopping || !SubmitTransfer(join)) CloseJoin(join);
}

bool FetchPipeline::SubmitTransfer(Join* join) {
  Load* load = join->load;
  const RankMemory& rank = *load->spec.rank;
  join->runs.clear();
  rank.AppendRuns(join->layers, PagesOf(*join), FirstTokenOf(*join), join->staging.bytes(),
                  &join->runs);
  join->transfer_ns = clock_->NowNs();
  join->transferring = transfers_->Submit(this, &rank.device(), true, join->runs,
                                          static_cast<uint64_t>(join - joins_.data()));
  if (!join->transferring) {
    // The pipeline never has more transfers in flight than joins: a device that refuses is broken.
    load->status = Status(StatusCode::kUnavailable, "the device takes no transfer");
    load->stopping = true;
  }
  return join->transferring;
}

void FetchPipeline::OnTransfer(uint64_t tag, StatusCode code) {
  Join* join = &joins_[tag];
  Load* load = join->load;
  join->transferring = false;
  TraceStage(metrics_, StageLabel::kWrite, join->transfer_ns, clock_->NowNs(), join->parts[0].name,
             false);
  CloseJoin(join);
  if (code != StatusCode::kOk && !load->stopping) {
    Fail(load, Status(code, "writing pages of the engine failed"));
  } else {
    CompleteIfDone(load);
  }
}

void FetchPipeline::CloseJoin(Join* join) {
  Load* load = std::exchange(join->load, nullptr);
  const uint32_t slabs = SlabsPerJoin(*load->spec.rank);
  join->staging.Reset();
  load->joins -= 1;
  load->slabs -= slabs;
  if (load->spec.granted) {
    --active_joins_;
    // Long enough without waiting: fewer may do.
    if (++closed_joins_ >= window_ * kJoinsPerShrink) {
      window_ = std::max(window_min_, window_ - 1);
      closed_joins_ = 0;
    }
  } else {
    waiting_slabs_ -= slabs;
  }
  free_joins_.push_back(join);
}

}  // namespace shadowserve
