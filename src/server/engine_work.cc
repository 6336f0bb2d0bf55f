// Loads and saves of attached engines, and the pipeline's answers to them.
#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/log.h"
#include "rpc/convert.h"
#include "rpc/limits.h"
#include "server/engines.h"

namespace shadowserve {

void Engines::PostOr(std::function<void()> work, std::function<void()> refused) {
  if (!plane_->Post(std::move(work))) refused();
}

void Engines::HandleLookup(Engine* engine, const v1::Lookup& lookup) {
  LookupTrip* const trip = lookup_trips_.Take();
  trip->session = engine->scheduler;
  trip->lookup_id = lookup.lookup_id();
  trip->spec.shape = engine->shape;
  trip->spec.form = engine->form;
  Status status = KeysFromBytes(lookup.keys(), kMaxKeysPerLookup, &trip->spec.keys);
  trip->wanted = trip->spec.keys.size();
  if (status.ok() && (engine->world_size == 0 || engine->workers.size() != engine->world_size)) {
    status = Status(StatusCode::kUnavailable, "not all of the engine's workers are attached");
  }
  const auto work = [this, trip] {
    plane_->lookup().Start(std::move(trip->spec), [this, trip](StatusCode code, uint32_t chunks) {
      const std::lock_guard lock(mutex_);
      EndLookup(trip, code, chunks);
    });
  };
  if (status.ok() && plane_->Post(work)) return;
  EndLookup(trip, status.ok() ? StatusCode::kExhausted : status.code(), 0);
}

void Engines::EndLookup(LookupTrip* trip, StatusCode code, uint32_t chunks) {
  const LookupLabel label = code != StatusCode::kOk  ? LookupLabel::kError
                            : chunks == trip->wanted ? LookupLabel::kHit
                            : chunks > 0             ? LookupLabel::kPartial
                                                     : LookupLabel::kMiss;
  metrics_->lookups[label].Add();
  OutgoingQueue::Message message = trip->session->Take();
  v1::LookupReply* const reply = message->mutable_lookup_reply();
  reply->set_lookup_id(trip->lookup_id);
  reply->set_status(static_cast<uint32_t>(code));
  reply->set_chunks(chunks);
  trip->session->Send(std::move(message));
  trip->session.reset();
  lookup_trips_.Give(trip);
}

Status Engines::HandleLoad(Engine* engine, const v1::Load& load) {
  uint64_t page_count = UINT64_MAX;
  for (const auto& [rank, worker] : engine->workers) {
    page_count = std::min(page_count, worker.page_count);
  }
  SS_TRY(CheckLoad(load, engine->page_tokens, page_count));
  const AttemptKey key{engine->epoch, load.attempt()};
  const auto [found, added] = engine->attempts.try_emplace(key);
  Attempt& attempt = found->second;
  if (!added) {
    return Status(StatusCode::kInvalidArgument,
                  "attempt " + std::to_string(load.attempt()) + " is in flight already");
  }
  if (engine->workers.size() != engine->world_size) {
    attempt.worst = StatusCode::kUnavailable;
    FinishAttempt(engine, key, attempt);
    engine->attempts.erase(found);
    return OkStatus();
  }
  attempt.first_load = next_id_;
  attempt.loads = attempt.loads_left = engine->world_size;
  for (const auto& [rank, worker] : engine->workers) {
    loads_[next_id_++] = Place{engine, rank, key};
  }
  uint64_t load_id = attempt.first_load;
  for (const auto& [rank, worker] : engine->workers) StartLoad(engine, load_id++, worker, load);
  if (attempt.loads_left == 0) {  // none was taken
    FinishAttempt(engine, key, attempt);
    engine->attempts.erase(found);
  }
  return OkStatus();
}

void Engines::StartLoad(Engine* engine, uint64_t load_id, const Worker& worker,
                        const v1::Load& load) {
  const Place& place = loads_.at(load_id);
  LoadTrip* const trip = load_trips_.Take();
  trip->rank_id = worker.rank_id;
  LoadSpec& spec = trip->spec;
  spec.load_id = load_id;
  spec.request_id = load.request_id();
  spec.form = engine->form;
  SS_CHECK(KeysFromBytes(load.keys(), kMaxKeysPerLoad, &spec.keys).ok(), "CheckLoad has seen them");
  spec.pages.assign(load.pages().begin(), load.pages().end());
  spec.first_token = load.first_token();
  const int64_t wanted_ns = int64_t{load.deadline_ms()} * kNsPerMs;
  spec.deadline_ns =
      clock_->NowNs() +
      (wanted_ns > 0 ? std::min(wanted_ns, options_.deadline_max_ns) : options_.deadline_max_ns);
  const auto early = std::find(engine->early_grants.begin(), engine->early_grants.end(),
                               std::pair(place.rank, place.key));
  spec.granted = load.granted() || early != engine->early_grants.end();
  if (early != engine->early_grants.end()) engine->early_grants.erase(early);
  if (plane_->Post([this, trip] { RunLoad(trip); })) return;
  load_trips_.Give(trip);
  Attempt& attempt = engine->attempts.at(place.key);
  attempt.worst = StatusCode::kExhausted;
  attempt.loads_left -= 1;
  loads_.erase(load_id);
}

// On the pipeline's thread.
void Engines::RunLoad(LoadTrip* trip) {
  const uint64_t load_id = trip->spec.load_id;
  trip->spec.rank = plane_->FindRank(trip->rank_id);
  const Status started = trip->spec.rank == nullptr
                             ? Status(StatusCode::kUnavailable, "the engine's memory is gone")
                             : plane_->fetch().Start(std::move(trip->spec));
  {
    const std::lock_guard lock(mutex_);
    load_trips_.Give(trip);
  }
  if (!started.ok()) OnLoadDone(LoadResult{load_id, started});
}

void Engines::FinishAttempt(Engine* engine, const AttemptKey& key, const Attempt& attempt) {
  if (engine->scheduler == nullptr || key.first != engine->epoch) return;
  OutgoingQueue::Message message = engine->scheduler->Take();
  message->mutable_drained()->add_attempts(key.second);
  message->mutable_drained()->set_status(static_cast<uint32_t>(attempt.worst));
  engine->scheduler->Send(std::move(message));
}

void Engines::OnLoadDone(const LoadResult& result) {
  const std::lock_guard lock(mutex_);
  const auto found = loads_.find(result.load_id);
  if (found == loads_.end()) return;
  const Place place = found->second;
  loads_.erase(found);
  Engine& engine = *place.engine;
  if (!result.status.ok() && result.status.code() != StatusCode::kCancelled) {
    Log(LogLevel::kWarn, "load failed: engine {} attempt {}: {}", engine.id, place.key.second,
        result.status.ToString());
  }
  if (const auto worker = engine.workers.find(place.rank); worker != engine.workers.end()) {
    OutgoingQueue::Message message = worker->second.session->Take();
    v1::LoadDone* done = message->mutable_load_done();
    done->set_epoch(place.key.first);
    done->set_attempt(place.key.second);
    done->set_status(static_cast<uint32_t>(result.status.code()));
    if (!result.status.ok()) done->set_message(std::string(result.status.message()));
    done->set_kv_bytes(result.kv_bytes);
    done->set_wire_bytes(result.wire_bytes);
    worker->second.session->Send(std::move(message));
  }
  Attempt& attempt = engine.attempts.at(place.key);
  attempt.loads_left -= 1;
  if (!result.status.ok()) attempt.worst = result.status.code();
  if (attempt.loads_left > 0) return;
  FinishAttempt(&engine, place.key, attempt);
  engine.attempts.erase(place.key);
  ForgetIfUnused(engine.id);
}

void Engines::HandleGrant(Engine* engine, uint32_t rank, const v1::Grant& grant) {
  for (const uint64_t id : grant.attempts()) {
    const AttemptKey key{grant.epoch(), id};
    const auto attempt = engine->attempts.find(key);
    if (attempt == engine->attempts.end()) {
      if (engine->early_grants.size() == kEarlyGrantsMax) {
        engine->early_grants.erase(engine->early_grants.begin());
      }
      engine->early_grants.emplace_back(rank, key);
      continue;
    }
    for (uint32_t i = 0; i < attempt->second.loads; ++i) {
      const auto load = loads_.find(attempt->second.first_load + i);
      if (load == loads_.end() || load->second.rank != rank) continue;
      // A grant that is lost costs the load its deadline, nothing else.
      PostOr([this, load_id = load->first] { plane_->fetch().Grant(load_id); }, [] {});
    }
  }
}

void Engines::HandleCancel(Engine* engine, const v1::Cancel& cancel) {
  for (const uint64_t id : cancel.attempts()) {
    const auto attempt = engine->attempts.find(AttemptKey{cancel.epoch(), id});
    if (attempt == engine->attempts.end()) continue;
    CancelLoads(attempt->second, "cancelled by the engine");
  }
}

void Engines::CancelLoads(const Attempt& attempt, const char* why) {
  for (uint32_t i = 0; i < attempt.loads; ++i) {
    const uint64_t load_id = attempt.first_load + i;
    if (!loads_.contains(load_id)) continue;
    PostOr([this, load_id, why] { plane_->fetch().Cancel(load_id, StatusCode::kCancelled, why); },
           [] {});
  }
}

Status Engines::HandleSave(Engine* engine, const v1::Save& save) {
  uint64_t page_count = UINT64_MAX;
  for (const auto& [rank, worker] : engine->workers) {
    page_count = std::min(page_count, worker.page_count);
  }
  SS_TRY(CheckSave(save, engine->page_tokens, page_count));
  for (const v1::SaveItem& item : save.items()) {
    const AttemptKey key{engine->epoch, item.save_id()};
    if (engine->saves.contains(key)) {
      return Status(StatusCode::kInvalidArgument,
                    "save " + std::to_string(item.save_id()) + " is in flight already");
    }
    Save& state = engine->saves[key];
    if (engine->workers.size() != engine->world_size) {
      state.dropped = 1;
      state.reason = DropLabel::kEngineGone;
      metrics_->saves_dropped[DropLabel::kEngineGone].Add();
      FinishSave(engine, key, state);
      engine->saves.erase(key);
      continue;
    }
    for (const auto& [rank, worker] : engine->workers) {
      const uint64_t job_id = next_id_++;
      if (!StartSave(engine, job_id, worker, item)) {
        state.dropped += 1;
        state.reason = DropLabel::kQueueFull;
        metrics_->saves_dropped[DropLabel::kQueueFull].Add();
        continue;
      }
      state.jobs.push_back(SaveJob{job_id, false});
      save_jobs_[job_id] = Place{engine, rank, key};
    }
    if (state.jobs.empty()) {
      FinishSave(engine, key, state);
      engine->saves.erase(key);
    }
  }
  return OkStatus();
}

// False: the pipeline's mailbox is full.
bool Engines::StartSave(Engine* engine, uint64_t job_id, const Worker& worker,
                        const v1::SaveItem& item) {
  SaveTrip* const trip = save_trips_.Take();
  trip->rank_id = worker.rank_id;
  SaveSpec& spec = trip->spec;
  spec.save_id = job_id;
  spec.form = engine->form;
  std::memcpy(spec.key.data(), item.key().data(), sizeof(spec.key));  // CheckSave has seen it
  spec.tenant = TenantFromProto(item);
  spec.pages.assign(item.pages().begin(), item.pages().end());
  const bool posted = plane_->Post([this, trip] { RunSave(trip); });
  if (!posted) save_trips_.Give(trip);
  return posted;
}

// On the pipeline's thread.
void Engines::RunSave(SaveTrip* trip) {
  const uint64_t job_id = trip->spec.save_id;
  trip->spec.rank = plane_->FindRank(trip->rank_id);
  DropLabel dropped = DropLabel::kCount;
  if (trip->spec.rank == nullptr) {
    dropped = DropLabel::kEngineGone;
    metrics_->saves_dropped[dropped].Add();
  } else if (!plane_->save().Start(std::move(trip->spec)).ok()) {
    dropped = DropLabel::kQueueFull;
  }
  {
    const std::lock_guard lock(mutex_);
    save_trips_.Give(trip);
  }
  if (dropped != DropLabel::kCount) {
    OnSaveDone(SaveResult{job_id, SaveOutcome::kDropped, dropped});
  }
}

void Engines::OnSaveRead(uint64_t job_id, bool last) {
  const std::lock_guard lock(mutex_);
  const auto found = save_jobs_.find(job_id);
  if (found == save_jobs_.end()) return;
  Engine& engine = *found->second.engine;
  Save& save = engine.saves.at(found->second.key);
  for (SaveJob& job : save.jobs) {
    if (job.job_id == job_id) job.read_over = last;
  }
  save.asks.push_back(job_id);
  if (save.asked == 0) AskNext(&engine, found->second.key, &save);
}

void Engines::AskNext(Engine* engine, const AttemptKey& key, Save* save) {
  save->asked = 0;
  if (save->asks.empty()) return;
  save->asked = save->asks.front();
  save->asks.erase(save->asks.begin());
  if (engine->scheduler == nullptr || key.first != engine->epoch)
    return;  // its saves are cancelled
  // The pages may go with this answer only if no other rank has still to read or to ask.
  const bool final_read = save->asks.empty() && save->dropped + save->stored == 0 &&
                          std::all_of(save->jobs.begin(), save->jobs.end(),
                                      [](const SaveJob& job) { return job.read_over; });
  OutgoingQueue::Message message = engine->scheduler->Take();
  if (final_read) {
    message->mutable_save_read()->add_save_ids(key.second);
  } else {
    message->mutable_save_read()->add_partial(key.second);
  }
  engine->scheduler->Send(std::move(message));
}

void Engines::HandleConfirm(Engine* engine, const v1::SaveConfirm& confirm) {
  const auto deliver = [this, engine](uint64_t save_id, bool held) {
    const AttemptKey key{engine->epoch, save_id};
    const auto found = engine->saves.find(key);
    if (found == engine->saves.end() || found->second.asked == 0) return;
    // An answer that is lost makes the pipeline drop the save after kConfirmWaitNs.
    // Two closures, each small enough for a std::function without memory of its own.
    const uint64_t job_id = found->second.asked;
    held ? PostOr([this, job_id] { plane_->save().Confirm(job_id, true); }, [] {})
         : PostOr([this, job_id] { plane_->save().Confirm(job_id, false); }, [] {});
    AskNext(engine, key, &found->second);
  };
  for (const uint64_t save_id : confirm.held()) deliver(save_id, true);
  for (const uint64_t save_id : confirm.revoked()) deliver(save_id, false);
}

void Engines::OnSaveDone(const SaveResult& result) {
  const std::lock_guard lock(mutex_);
  const auto found = save_jobs_.find(result.save_id);
  if (found == save_jobs_.end()) return;
  const Place place = found->second;
  save_jobs_.erase(found);
  Engine& engine = *place.engine;
  Save& save = engine.saves.at(place.key);
  std::erase_if(save.jobs, [&](const SaveJob& job) { return job.job_id == result.save_id; });
  if (result.outcome == SaveOutcome::kStored) save.stored += 1;
  if (result.outcome == SaveOutcome::kDropped) {
    save.dropped += 1;
    save.reason = result.reason;
  }
  if (!save.jobs.empty()) return;
  FinishSave(&engine, place.key, save);
  engine.saves.erase(place.key);
  ForgetIfUnused(engine.id);
}

void Engines::FinishSave(Engine* engine, const AttemptKey& key, const Save& save) {
  if (engine->scheduler == nullptr || key.first != engine->epoch) return;
  OutgoingQueue::Message message = engine->scheduler->Take();
  message->mutable_save_done()->add_save_ids(key.second);
  message->mutable_save_done()->set_result(save.dropped > 0
                                               ? "dropped:" + std::string(LabelName(save.reason))
                                           : save.stored > 0 ? "stored"
                                                             : "present");
  engine->scheduler->Send(std::move(message));
}

void Engines::HandleDrainQuery(Engine* engine, const v1::DrainQuery& query) {
  OutgoingQueue::Message drained = engine->scheduler->Take();
  for (const uint64_t attempt : query.attempts()) {
    if (!engine->attempts.contains(AttemptKey{engine->epoch, attempt})) {
      drained->mutable_drained()->add_attempts(attempt);
    }
  }
  if (drained->has_drained()) engine->scheduler->Send(std::move(drained));
  OutgoingQueue::Message done = engine->scheduler->Take();
  for (const uint64_t save : query.saves()) {
    if (!engine->saves.contains(AttemptKey{engine->epoch, save})) {
      done->mutable_save_done()->add_save_ids(save);
      done->mutable_save_done()->set_result("dropped:" +
                                            std::string(LabelName(DropLabel::kNotHeld)));
    }
  }
  if (done->has_save_done()) engine->scheduler->Send(std::move(done));
}

void Engines::CancelEpoch(Engine* engine, uint64_t epoch) {
  for (const auto& [key, attempt] : engine->attempts) {
    if (key.first != epoch) continue;
    CancelLoads(attempt, "the engine's scheduler is gone");
  }
  for (const auto& [key, save] : engine->saves) {
    if (key.first != epoch) continue;
    for (const SaveJob& job : save.jobs) {
      PostOr([this, job_id = job.job_id] { plane_->save().Cancel(job_id, DropLabel::kEngineGone); },
             [] {});
    }
  }
}

}  // namespace shadowserve
