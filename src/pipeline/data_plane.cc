#include "pipeline/data_plane.h"

#include <poll.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/log.h"
#include "flow/affinity.h"

namespace shadowserve {
namespace {

// Longest sleep: bounds how late a deadline without a descriptor is noticed after a clock jump.
constexpr int64_t kWaitMaxNs = kNsPerSecond;

}  // namespace

Result<std::unique_ptr<DataPlane>> DataPlane::Create(const Options& options,
                                                     std::unique_ptr<Store> store, Metrics* metrics,
                                                     const Clock* clock, PipelineEvents* events) {
  if (options.fetch_slabs < 2 || options.save_slabs < SavePipeline::kSlabsPerUnit) {
    return Status(StatusCode::kInvalidArgument,
                  "memory.slab_budget is too small: it must hold at least 4 slabs of "
                  "memory.slab_size (2 to fetch, 2 to save)");
  }
  auto plane =
      std::unique_ptr<DataPlane>(new DataPlane(options.quota, std::move(store), metrics, clock));
  if (!options.keys.empty()) {
    SS_TRY_ASSIGN(plane->seal_, Seal::Create(options.keys, options.cipher));
  }
  SS_TRY_ASSIGN(plane->fetch_slabs_,
                SlabPool::Create("fetch", options.slab_bytes, options.fetch_slabs));
  SS_TRY_ASSIGN(plane->save_slabs_,
                SlabPool::Create("save", options.slab_bytes, options.save_slabs));
  SS_TRY(plane->MakeFetch(options, metrics, events));
  SS_TRY_ASSIGN(plane->save_, SavePipeline::Create(plane->save_slabs_.get(), &plane->store_port_,
                                                   &plane->transfers_, metrics, clock, events,
                                                   plane->seal(), &plane->quota_));
  if (!options.cpus.empty()) plane->cpus_ = {options.cpus[0]};
  return plane;
}

Status DataPlane::MakeFetch(const Options& options, Metrics* metrics, PipelineEvents* events) {
  BlockEngine* const engine = options.fetch.engine;
  SS_TRY_ASSIGN(wire_, LentMemory::Lend(engine, fetch_slabs_->memory()));
  const uint32_t threads = Threads(options.cpus);
  uint32_t queues = 0;
  if (options.cpus.size() > 1) {
    SS_TRY_ASSIGN(
        crew_, DecodeCrew::Create(std::span(options.cpus).subspan(1), options.keys, options.cipher,
                                  metrics, clock_, options.fetch.engine_port()));
    queues += crew_->engine_threads();
  }
  SS_TRY_ASSIGN(fetch_,
                FetchPipeline::Create(options.fetch, fetch_slabs_.get(), &store_port_, &transfers_,
                                      metrics, clock_, events, seal(), crew_.get()));
  queues += fetch_->has_engine() ? 1 : 0;
  if (engine != nullptr && queues < threads) {
    Log(LogLevel::kWarn,
        "codec engine {} has queues for {} of {} threads; the others decode in software",
        engine->Describe(), queues, threads);
  }
  return OkStatus();
}

DataPlane::~DataPlane() {
  Stop();
}

void DataPlane::Start() {
  thread_ = std::thread([this] { Run(); });
}

void DataPlane::Stop() {
  if (!thread_.joinable()) return;
  stopping_ = true;
  (void)Post([] {});  // wakes the thread
  thread_.join();
}

void DataPlane::AddRank(uint64_t rank_id, std::unique_ptr<RankMemory> rank) {
  ranks_.emplace(rank_id, std::move(rank));
}

RankMemory* DataPlane::FindRank(uint64_t rank_id) {
  const auto found = ranks_.find(rank_id);
  return found == ranks_.end() ? nullptr : found->second.get();
}

void DataPlane::RemoveRank(uint64_t rank_id, std::function<void()> gone) {
  const auto found = ranks_.find(rank_id);
  if (found == ranks_.end()) return gone();
  leaving_.push_back(Leaving{std::move(found->second), std::move(gone)});
  ranks_.erase(found);
  fetch_->CancelRank(leaving_.back().rank.get());
  save_->CancelRank(leaving_.back().rank.get());
}

bool DataPlane::FinishLeaving() {
  bool moved = false;
  for (size_t i = 0; i < leaving_.size();) {
    const RankMemory* rank = leaving_[i].rank.get();
    if (fetch_->UsesRank(rank) || save_->UsesRank(rank)) {
      ++i;
      continue;
    }
    const Leaving left = std::exchange(leaving_[i], std::move(leaving_.back()));
    leaving_.pop_back();
    left.gone();
    moved = true;
  }
  return moved;
}

bool DataPlane::Idle() const {
  return fetch_->idle() && save_->idle() && lookup_.idle() && leaving_.empty() &&
         store_port_.inflight() == 0;
}

bool DataPlane::Turn() {
  bool moved = mailbox_.Run();
  moved |= lookup_.Turn();
  moved |= store_port_.Poll();
  moved |= transfers_.Poll();
  moved |= fetch_->Turn();
  // Only a turn with nothing else to do is a save's: what a fetch has just asked for may be there
  // in the next one.
  if (!moved) moved = save_->Turn();
  moved |= FinishLeaving();
  return moved;
}

void DataPlane::Wait() {
  // Transfers have no descriptor to wait on; they are short.
  if (!transfers_.idle()) return;
  const int64_t now_ns = clock_->NowNs();
  const int64_t deadline_ns = std::min(fetch_->next_deadline_ns(), save_->next_deadline_ns());
  const int64_t longest_ns = fetch_->engine_busy() ? EnginePort::kPollNs : kWaitMaxNs;
  const int64_t wait_ns = std::clamp(deadline_ns - now_ns, int64_t{0}, longest_ns);
  // A negative descriptor is skipped.
  pollfd entries[] = {{mailbox_.fd(), POLLIN, 0},
                      {store_->event_fd(), POLLIN, 0},
                      {crew_ == nullptr ? -1 : crew_->fd(), POLLIN, 0}};
  const timespec timeout{wait_ns / kNsPerSecond, wait_ns % kNsPerSecond};
  (void)ppoll(entries, std::size(entries), &timeout, nullptr);
}

void DataPlane::Run() {
  NameThisThread("ss-pipeline");
  if (const Status pinned = PinThisThread(cpus_); !pinned.ok()) {
    Log(LogLevel::kWarn, "{}", pinned.message());
  }
  while (!stopping_) {
    if (!Turn()) Wait();
  }
  save_->CancelAll(DropLabel::kShutdown);
  const int64_t give_up_ns = clock_->NowNs() + kStopWaitNs;
  while (!Idle() && clock_->NowNs() < give_up_ns) {
    if (!Turn()) Wait();
  }
  for (auto& [rank_id, rank] : ranks_) fetch_->CancelRank(rank.get());
  while (!Idle()) {
    if (!Turn()) Wait();
  }
}

}  // namespace shadowserve
