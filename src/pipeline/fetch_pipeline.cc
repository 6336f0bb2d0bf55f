// Loads and admission; fetch_stages.cc has what happens to an admitted join.
#include "pipeline/fetch_pipeline.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

namespace shadowserve {

bool FetchPipeline::Load::exhausted() const {
  return stopping || next_chunk == spec.keys.size();
}

Result<std::unique_ptr<FetchPipeline>> FetchPipeline::Create(
    const Options& options, SlabPool* slabs, StorePort* store, TransferPort* transfers,
    Metrics* metrics, const Clock* clock, PipelineEvents* events, Seal* seal, DecodeCrew* crew) {
  auto pipeline = std::unique_ptr<FetchPipeline>(
      new FetchPipeline(options, slabs, store, transfers, metrics, clock, events, seal, crew));
  SS_TRY_ASSIGN(pipeline->decoder_,
                SegmentDecoder::Create(metrics, clock, seal, options.engine_port()));
  // A join holds at least one slab, so there are never more joins than slabs.
  pipeline->joins_.resize(std::min(options.joins_inflight_max, slabs->slab_count()));
  for (Join& join : pipeline->joins_) pipeline->free_joins_.push_back(&join);
  if (crew != nullptr) {
    const uint32_t busy = crew->threads() * DecodeCrew::kJobsPerThread + 1;
    pipeline->window_min_ = std::min(busy, static_cast<uint32_t>(pipeline->joins_.size()));
    pipeline->window_ = pipeline->window_min_;
  }
  pipeline->leases_.resize(slabs->slab_count());
  return pipeline;
}

FetchPipeline::~FetchPipeline() {
  SS_CHECK(idle(), "a load outlived its pipeline");
}

uint32_t FetchPipeline::SlabsPerJoin(const RankMemory& rank) {
  return rank.group_count() + (rank.direct() ? 0 : 1);
}

Status FetchPipeline::CheckFits(const RankMemory& rank) const {
  if (SlabsPerJoin(rank) > std::max(1U, slabs_->slab_count() / 2)) {
    return Status(StatusCode::kUnsupported,
                  "a layer range of this engine needs " + std::to_string(SlabsPerJoin(rank)) +
                      " slabs at once, but half of the fetch pool is " +
                      std::to_string(slabs_->slab_count() / 2) + "; raise memory.slab_budget");
  }
  const SegmentShape segment = SegmentShapeOf(rank.shape(), rank.first_range(), rank.first_group());
  for (const Profile profile : kProfiles) {
    // With a codec: of a profile's forms the largest.
    const StoredForm form{profile, CodecId::kZstd};
    if (ProfileBytesOf(form, segment).ok() &&
        SegmentBytesMax(form, segment, seal_ != nullptr) > slabs_->slab_bytes()) {
      return Status(StatusCode::kUnsupported,
                    "a segment of this model takes up to " +
                        std::to_string(SegmentBytesMax(form, segment, seal_ != nullptr)) +
                        " bytes, more than memory.slab_size (" +
                        std::to_string(slabs_->slab_bytes()) + "); raise it");
    }
  }
  return OkStatus();
}

Status FetchPipeline::CheckSpec(const LoadSpec& spec) {
  const auto bad = [](std::string what) {
    return Status(StatusCode::kInvalidArgument, std::move(what));
  };
  const PageLayout& layout = spec.rank->layout();
  if (spec.keys.empty()) return bad("load without chunks");
  if (spec.pages.size() != spec.keys.size() * spec.rank->pages_per_chunk()) {
    return bad(std::to_string(spec.pages.size()) + " pages for " +
               std::to_string(spec.keys.size()) + " chunks");
  }
  if (spec.first_token >= kChunkTokens || spec.first_token % layout.page_tokens != 0) {
    return bad("first token " + std::to_string(spec.first_token) + " is no page boundary");
  }
  for (const uint32_t page : spec.pages) {
    if (page >= layout.page_count)
      return bad("page " + std::to_string(page) + " is not registered");
  }
  const SegmentShape segment =
      SegmentShapeOf(spec.rank->shape(), spec.rank->first_range(), spec.rank->first_group());
  return ProfileBytesOf(spec.form, segment).status();
}

Status FetchPipeline::Start(LoadSpec&& spec) {
  if (loads_.size() >= kLoadsMax) return Status(StatusCode::kExhausted, "too many loads in flight");
  SS_TRY(CheckSpec(spec));
  if (spare_loads_.empty()) spare_loads_.emplace_back();
  loads_.splice(loads_.end(), spare_loads_, spare_loads_.begin());
  Load& load = loads_.back();
  LoadSpec earlier = std::move(load.spec);
  load = Load{};
  load.spec = std::move(spec);
  spec = std::move(earlier);
  load.start_ns = clock_->NowNs();
  return OkStatus();
}

FetchPipeline::Load* FetchPipeline::Find(uint64_t load_id) {
  const auto found = std::find_if(loads_.begin(), loads_.end(), [load_id](const Load& load) {
    return load.spec.load_id == load_id;
  });
  return found == loads_.end() ? nullptr : &*found;
}

void FetchPipeline::Grant(uint64_t load_id) {
  Load* load = Find(load_id);
  if (load == nullptr || load->spec.granted) return;
  load->spec.granted = true;
  waiting_slabs_ -= load->slabs;
  active_joins_ += load->joins;
  for (Join& join : joins_) {
    if (join.load != load) continue;
    for (Part& part : std::span(join.parts).first(join.part_count)) {
      if (part.marker_sound && !part.done) Enqueue(&part);
    }
  }
}

void FetchPipeline::Cancel(uint64_t load_id, StatusCode code, std::string message) {
  if (Load* load = Find(load_id); load != nullptr) Fail(load, Status(code, std::move(message)));
}

void FetchPipeline::CancelRank(const RankMemory* rank) {
  for (auto next = loads_.begin(); next != loads_.end();) {
    Load* load = &*next++;  // Fail may erase it
    if (load->spec.rank == rank) {
      Fail(load, Status(StatusCode::kUnavailable, "the engine's memory was taken away"));
    }
  }
}

bool FetchPipeline::UsesRank(const RankMemory* rank) const {
  return std::any_of(loads_.begin(), loads_.end(),
                     [rank](const Load& load) { return load.spec.rank == rank; });
}

int64_t FetchPipeline::next_deadline_ns() const {
  int64_t next = std::numeric_limits<int64_t>::max();
  for (const Load& load : loads_) {
    if (!load.stopping) next = std::min(next, load.spec.deadline_ns);
  }
  return next;
}

bool FetchPipeline::FailOverdue() {
  if (loads_.empty()) return false;
  const int64_t now_ns = clock_->NowNs();
  bool moved = false;
  for (auto next = loads_.begin(); next != loads_.end();) {
    Load* load = &*next++;
    if (!load->stopping && load->spec.deadline_ns <= now_ns) {
      Fail(load, Status(StatusCode::kDeadline, "fetch took longer than its deadline"));
      moved = true;
    }
  }
  return moved;
}

bool FetchPipeline::CompleteGranted() {
  bool moved = false;
  for (auto next = loads_.begin(); next != loads_.end();) {
    Load* load = &*next++;
    if (!load->spec.granted || load->stopping) continue;
    load->next_chunk = static_cast<uint32_t>(load->spec.keys.size());
    CompleteIfDone(load);
    moved = true;
  }
  return moved;
}

bool FetchPipeline::Turn() {
  bool moved = FailOverdue();
  if (options_.control_path_only) return CompleteGranted() || moved;
  moved |= TakeBack();
  moved |= Admit();
  moved |= HandOut();
  moved |= decoder_->Poll();
  moved |= ComputeStep();
  if (!moved && WidenWindow()) moved = Admit();
  return moved;
}

bool FetchPipeline::WidenWindow() {
  if (crew_ != nullptr && !crew_->has_room()) return false;  // decoding is what takes the time
  if (active_joins_ < window_ || window_ >= joins_.size()) return false;
  window_ = std::min(window_ * 2, static_cast<uint32_t>(joins_.size()));
  closed_joins_ = 0;
  return true;
}

bool FetchPipeline::Admit() {
  for (Join& join : joins_) {
    if (join.load != nullptr && join.asks_left > 0) AskStore(&join);
  }
  bool moved = false;
  for (auto load = loads_.begin(); load != loads_.end() && !free_joins_.empty();) {
    if (slabs_->free_count() == 0) break;
    if (load->exhausted() || !AdmitOne(&*load)) {
      ++load;
      continue;
    }
    EndTurn(load);
    load = loads_.begin();
    moved = true;
  }
  return moved;
}

// The next free slabs go to another session, if one waits, and there to another load than this one.
void FetchPipeline::EndTurn(std::list<Load>::iterator load) {
  const auto last = std::prev(loads_.end());
  bool more = true;
  for (auto next = loads_.begin(); more;) {
    const auto each = next++;
    more = each != last;
    if (each != load && each->spec.rank == load->spec.rank) {
      loads_.splice(loads_.end(), loads_, each);
    }
  }
  loads_.splice(loads_.end(), loads_, load);
}

bool FetchPipeline::AdmitOne(Load* load) {
  const uint32_t needed = SlabsPerJoin(*load->spec.rank);
  if (load->spec.granted && active_joins_ >= window_) return false;
  if (!load->spec.granted && waiting_slabs_ + needed > std::max(1U, slabs_->slab_count() / 2)) {
    return false;
  }
  const std::span<SlabLease> leases = std::span(leases_).first(needed);
  if (!slabs_->TryTakeAll(leases)) return false;
  Join* join = free_joins_.back();
  free_joins_.pop_back();
  OpenJoin(join, load, leases);
  load->next_range += 1;
  if (load->next_range == load->spec.rank->range_count()) {
    load->next_range = 0;
    load->next_chunk += 1;
  }
  AskStore(join);
  return true;
}

void FetchPipeline::OpenJoin(Join* join, Load* load, std::span<SlabLease> leases) {
  const RankMemory& rank = *load->spec.rank;
  const uint32_t range_index = rank.first_range() + load->next_range;
  load->joins += 1;
  load->slabs += static_cast<uint32_t>(leases.size());
  if (load->spec.granted) {
    ++active_joins_;
  } else {
    waiting_slabs_ += static_cast<uint32_t>(leases.size());
  }
  join->load = load;
  join->chunk = load->next_chunk;
  join->layers = RangeAt(rank.shape(), range_index);
  join->part_count = rank.group_count();
  join->parts_left = join->part_count;
  join->asks_left = join->part_count * 2;
  join->transferring = false;
  if (join->parts.size() < join->part_count) join->parts.resize(join->part_count);
  ready_.reserve(joins_.size() * join->part_count);
  for (uint32_t i = 0; i < join->part_count; ++i) {
    Part& part = join->parts[i];
    part = Part{};
    part.join = join;
    part.wire = std::move(leases[i]);
    part.shape = SegmentShapeOf(rank.shape(), range_index, rank.first_group() + i);
    part.name.key = load->spec.keys[join->chunk];
    part.name.profile = load->spec.form.profile;
    part.name.codec = load->spec.form.codec;
    part.name.first_layer = static_cast<uint16_t>(join->layers.first);
    part.name.layer_count = static_cast<uint16_t>(join->layers.count);
    part.name.head_group = static_cast<uint16_t>(rank.first_group() + i);
    part.name.head_groups = static_cast<uint16_t>(rank.shape().head_groups);
  }
  if (!rank.direct()) {
    join->staging = std::move(leases[join->part_count]);
    join->runs.reserve(rank.runs_max());
  }
}

void FetchPipeline::Fail(Load* load, Status status) {
  if (load->status.ok()) load->status = std::move(status);
  if (load->stopping) return;
  load->stopping = true;
  for (Join& join : joins_) {
    if (join.load != load) continue;
    // What has arrived goes now; reads, steps and transfers in flight come home.
    for (Part& part : std::span(join.parts).first(join.part_count)) {
      Dequeue(&part);
      if (!part.lent) decoder_->Abandon(&part.job.cursor);
      if (!part.marker_asked) --part.reads_left, --join.asks_left, part.marker_asked = true;
      if (!part.segment_asked) --part.reads_left, --join.asks_left, part.segment_asked = true;
      if (!part.in_flight() && !part.done) {
        part.done = true;
        part.wire.Reset();
        --join.parts_left;
      }
    }
    CloseJoinIfDone(&join);
    if (load->joins == 0) break;
  }
  CompleteIfDone(load);
}

void FetchPipeline::CompleteIfDone(Load* load) {
  if (!load->exhausted() || load->joins > 0) return;
  LoadResult result;
  result.load_id = load->spec.load_id;
  result.status = load->status;
  result.kv_bytes = load->kv_bytes;
  result.wire_bytes = load->wire_bytes;
  if (load->status.ok()) {
    result.tokens = load->spec.keys.size() * kChunkTokens - load->spec.first_token;
    metrics_->fetch_tokens.Add(result.tokens);
    metrics_->fetch_seconds.Observe(static_cast<double>(clock_->NowNs() - load->start_ns) * 1e-9);
  }
  metrics_->fetch_requests[FetchLabelOf(load->status.code())].Add();
  const auto done = std::find_if(loads_.begin(), loads_.end(),
                                 [load](const Load& other) { return &other == load; });
  spare_loads_.splice(spare_loads_.begin(), loads_, done);
  events_->OnLoadDone(result);
}

}  // namespace shadowserve
