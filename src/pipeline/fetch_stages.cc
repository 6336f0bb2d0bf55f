// What happens to an admitted join: store, decode + dequantize, transfer, close.
#include <algorithm>
#include <string>
#include <utility>

#include "pipeline/fetch_pipeline.h"

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
      if (!store_->Submit(this, StoreOp::kGet, part.name, part.wire.bytes(),
                          MakeTag(join_index, i, false))) {
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
  Part& part = join.parts[(tag >> 1) & 0x7fffff];
  if ((tag & 1) != 0) {
    part.marker_bytes = bytes;
  } else {
    part.segment_bytes = bytes;
    metrics_->stage_inflight[StageLabel::kNetwork].Add(-1);
    if (code == StatusCode::kOk) {
      metrics_->wire_bytes[DirectionLabel::kIn].Add(bytes);
      // Written into the slab once; what the kernel or a card read to do so is not ours to know.
      metrics_->stage_bytes[StageLabel::kNetwork].Add(bytes);
      join.load->wire_bytes += bytes;
    }
  }
  if (part.code == StatusCode::kOk) part.code = code;
  if (--part.reads_left == 0) PartArrived(&part);
}

Status FetchPipeline::CheckMarker(const Part& part) const {
  const ObjectName name = part.name.AsKind(ObjectKind::kMarker);
  const Result<Marker> marker =
      ReadMarker(std::span(part.marker).first(std::min(part.marker_bytes, kMarkerBytes)), name);
  if (!marker.ok()) return marker.status();
  if (marker->segment_bytes != part.segment_bytes) {
    return Status(StatusCode::kCorrupt, "marker and segment differ in size");
  }
  return OkStatus();
}

void FetchPipeline::PartArrived(Part* part) {
  Load* load = part->join->load;
  if (load->stopping) return FinishPart(part, OkStatus());
  if (part->code != StatusCode::kOk) {
    if (part->code == StatusCode::kCorrupt) metrics_->corrupt[CorruptLabel::kSegment].Add();
    return FinishPart(part, Status(part->code, "store: " + ToString(part->name)));
  }
  if (Status marker = CheckMarker(*part); !marker.ok()) {
    metrics_->corrupt[CorruptLabel::kMarker].Add();
    return FinishPart(part, std::move(marker));
  }
  if (!load->spec.granted) return;  // Grant comes back to it
  part->queued = true;
  ready_.push_back(part);
  metrics_->stage_inflight[StageLabel::kDecode].Add(1);
}

bool FetchPipeline::ComputeStep() {
  if (current_ == nullptr) {
    if (ready_.empty()) return false;
    current_ = ready_.front();
    ready_.pop_front();
    current_->queued = false;
    metrics_->stage_inflight[StageLabel::kDecode].Add(-1);
    const Join& join = *current_->join;
    if (join.load->stopping) return FinishPart(std::exchange(current_, nullptr), OkStatus()), true;
    const RankMemory* rank = join.load->spec.rank;
    const Status begun = decoder_->Begin(
        DecodeTask{current_->wire.bytes().first(current_->segment_bytes), current_->name,
                   current_->shape, rank, PagesOf(join), FirstTokenOf(join),
                   rank->direct() ? rank->device().direct() : join.staging.bytes()});
    if (!begun.ok()) {
      metrics_->corrupt[CorruptLabel::kSegment].Add();
      FinishPart(std::exchange(current_, nullptr), begun);
      return true;
    }
  }
  Load* load = current_->join->load;
  if (load->stopping) return FinishPart(std::exchange(current_, nullptr), OkStatus()), true;
  const Result<bool> step = decoder_->Step(kBlocksPerStep);
  if (!step.ok()) {
    metrics_->corrupt[CorruptLabel::kBlock].Add();
    FinishPart(std::exchange(current_, nullptr), step.status());
  } else if (*step) {
    load->kv_bytes += decoder_->kv_bytes();
    metrics_->kv_bytes[DirectionLabel::kIn].Add(decoder_->kv_bytes());
    FinishPart(std::exchange(current_, nullptr), OkStatus());
  }
  return true;
}

void FetchPipeline::FinishPart(Part* part, Status status) {
  Join* join = part->join;
  Load* load = join->load;
  part->done = true;
  part->wire.Reset();
  --join->parts_left;
  if (!status.ok()) {
    if (status.code() == StatusCode::kCorrupt || status.code() == StatusCode::kNotFound) {
      store_->Discard(part->name);
    }
    // Fail closes this join too, if nothing of it is in flight, and may end the load.
    if (!load->stopping) {
      return Fail(load, std::move(status).WithContext("chunk " + std::to_string(join->chunk)));
    }
  }
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
  if (!load->spec.granted) waiting_slabs_ -= slabs;
  free_joins_.push_back(join);
}

}  // namespace shadowserve
