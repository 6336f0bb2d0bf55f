// Sessions: attach, dispatch, detach. engine_work.cc has loads, saves and their answers.
#include "server/engines.h"

#include <algorithm>

#include "base/log.h"
#include "base/version.h"
#include "format/segment.h"
#include "rpc/convert.h"
#include "rpc/limits.h"

namespace shadowserve {

void Engines::Bind(DataPlane* plane, SideChannel* side) {
  plane_ = plane;
  side_ = side;
}

v1::HelloReply Engines::Attach(const std::shared_ptr<SessionSink>& session,
                               const v1::ClientMessage& hello) {
  v1::HelloReply reply;
  reply.set_incarnation(options_.incarnation);
  reply.set_side_socket(options_.side_socket);
  reply.set_head_groups(options_.head_groups);
  reply.set_version(std::string(Version()));
  reply.set_profile(std::string(ProfileName(options_.form.profile)));
  Status status(StatusCode::kInvalidArgument, "the first message of a session is no hello");
  if (hello.has_scheduler_hello()) {
    status = AttachScheduler(session, hello.scheduler_hello(), &reply);
  } else if (hello.has_worker_hello()) {
    status = AttachWorker(session, hello.worker_hello());
  }
  reply.set_status(static_cast<uint32_t>(status.code()));
  reply.set_message(std::string(status.message()));
  if (!status.ok()) Log(LogLevel::kWarn, "session refused: {}", status.ToString());
  return reply;
}

Result<StoredForm> Engines::FormFor(std::string_view profile, KvDtype dtype) const {
  StoredForm form = options_.form;
  if (!profile.empty()) {
    SS_TRY_ASSIGN(form.profile, ParseProfile(profile));
  }
  SegmentShape probe;
  probe.layers = {0, 1};
  probe.heads = 1;
  probe.head_dim = 16;
  probe.dtype = dtype;
  SS_TRY(ProfileBytesOf(form, probe).status());
  // Raw bytes are stored as they are: nothing stands between the store and the pages.
  if (form.profile == Profile::kRaw) form.codec = CodecId::kNone;
  return form;
}

Engines::Engine* Engines::EngineOf(const std::string& engine_id) {
  return &engines_.try_emplace(engine_id, &nodes_).first->second;
}

Status Engines::AttachScheduler(const std::shared_ptr<SessionSink>& session,
                                const v1::SchedulerHello& hello, v1::HelloReply* reply) {
  SS_TRY(CheckHello(hello));
  SS_TRY_ASSIGN(const ModelShape shape, FromProto(hello.shape(), options_.head_groups));
  SS_TRY_ASSIGN(const StoredForm form, FormFor(hello.profile(), shape.dtype));
  const std::lock_guard lock(mutex_);
  Engine& engine = *EngineOf(hello.engine_id());
  if (engine.scheduler != nullptr && engine.epoch != hello.epoch()) {
    return Status(StatusCode::kUnavailable,
                  "engine id '" + hello.engine_id() + "' is in use by a live engine");
  }
  if (engine.scheduler != nullptr) {  // a reconnect whose old stream is not over yet
    sessions_.erase(engine.scheduler.get());
    metrics_->sessions[RoleLabel::kScheduler].Add(-1);
  }
  if (engine.epoch != hello.epoch()) CancelEpoch(&engine, engine.epoch);
  engine.id = hello.engine_id();
  engine.scheduler = session;
  engine.epoch = hello.epoch();
  engine.world_size = hello.world_size();
  engine.page_tokens = hello.page_tokens();
  engine.shape = shape;
  engine.form = form;
  sessions_[session.get()] = Attached{engine.id, true, 0};
  metrics_->sessions[RoleLabel::kScheduler].Add(1);
  reply->set_profile(std::string(ProfileName(form.profile)));
  Log(LogLevel::kInfo, "scheduler attached: engine {} profile {} codec {}", engine.id,
      ProfileName(form.profile), CodecName(form.codec));
  return OkStatus();
}

Result<std::unique_ptr<RankMemory>> Engines::OpenRank(const v1::WorkerHello& hello) {
  SS_TRY_ASSIGN(const ModelShape shape, FromProto(hello.shape(), options_.head_groups));
  SS_TRY_ASSIGN(PageLayout layout, FromProto(hello.layout(), shape, hello.region_bytes()));
  KvExport exported;
  exported.kind = hello.device();
  exported.region_bytes = hello.region_bytes();
  exported.memory_offset = hello.memory_offset();
  exported.address = hello.address();
  exported.ucx_worker_address = hello.ucx_worker_address();
  exported.ucx_remote_key = hello.ucx_remote_key();
  exported.probe_value = hello.probe_value();
  exported.probe_address = hello.probe_address();
  if (!hello.side_token().empty()) {
    if (side_ == nullptr) {
      return Status(StatusCode::kUnsupported,
                    "device '" + hello.device() +
                        "' needs the data plane to listen on a unix:// address of this host");
    }
    SS_TRY_ASSIGN(SidePeer peer, side_->Take(hello.side_token()));
    exported.memory_fd = std::move(peer.memory_fd);
    exported.pid = peer.who.pid;
  }
  SS_TRY_ASSIGN(std::unique_ptr<KvDevice> device, OpenKvDevice(std::move(exported)));
  SS_TRY_ASSIGN(std::unique_ptr<RankMemory> rank,
                RankMemory::Create(shape, std::move(layout), std::move(device),
                                   plane_->fetch_slabs().slab_bytes()));
  SS_TRY(plane_->fetch().CheckFits(*rank));  // reads constants only: safe on any thread
  return rank;
}

Status Engines::AttachWorker(const std::shared_ptr<SessionSink>& session,
                             const v1::WorkerHello& hello) {
  SS_TRY(CheckHello(hello));
  SS_TRY_ASSIGN(std::unique_ptr<RankMemory> rank, OpenRank(hello));
  const std::lock_guard lock(mutex_);
  Engine& engine = *EngineOf(hello.engine_id());
  engine.id = hello.engine_id();
  if (const auto old = engine.workers.find(hello.rank()); old != engine.workers.end()) {
    sessions_.erase(old->second.session.get());  // a reconnect whose old stream is not over yet
    RemoveWorker(&engine, hello.rank());
  }
  Worker worker;
  worker.session = session;
  worker.rank_id = next_id_++;
  worker.page_count = rank->layout().page_count;
  worker.region_bytes = hello.region_bytes();
  worker.device = hello.device();
  auto shared = std::make_shared<std::unique_ptr<RankMemory>>(std::move(rank));
  const uint64_t rank_id = worker.rank_id;
  if (!plane_->Post([this, rank_id, shared] { plane_->AddRank(rank_id, std::move(*shared)); })) {
    return Status(StatusCode::kExhausted, "the data plane is overloaded");
  }
  engine.workers[hello.rank()] = worker;
  sessions_[session.get()] = Attached{engine.id, false, hello.rank()};
  metrics_->sessions[RoleLabel::kWorker].Add(1);
  Log(LogLevel::kInfo, "worker attached: engine {} rank {} device {} pages {}", engine.id,
      hello.rank(), worker.device, worker.page_count);
  return OkStatus();
}

Status Engines::Handle(SessionSink* session, const v1::ClientMessage& message) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return Status(StatusCode::kUnavailable, "session was replaced");
  const Attached& attached = found->second;
  Engine* engine = &engines_.at(attached.engine_id);
  switch (message.body_case()) {
    case v1::ClientMessage::kPing: {
      OutgoingQueue::Message pong = session->Take();
      pong->mutable_pong()->set_nonce(message.ping().nonce());
      session->Send(std::move(pong));
      return OkStatus();
    }
    case v1::ClientMessage::kCancel:
      SS_TRY(CheckIdCount(message.cancel().attempts_size()));
      HandleCancel(engine, message.cancel());
      return OkStatus();
    case v1::ClientMessage::kGrant:
      if (attached.scheduler) break;
      SS_TRY(CheckIdCount(message.grant().attempts_size()));
      HandleGrant(engine, attached.rank, message.grant());
      return OkStatus();
    case v1::ClientMessage::kLookup:
      if (!attached.scheduler) break;
      HandleLookup(engine, message.lookup());
      return OkStatus();
    case v1::ClientMessage::kLoad:
      if (!attached.scheduler) break;
      return HandleLoad(engine, message.load());
    case v1::ClientMessage::kSave:
      if (!attached.scheduler) break;
      return HandleSave(engine, message.save());
    case v1::ClientMessage::kSaveConfirm:
      if (!attached.scheduler) break;
      HandleConfirm(engine, message.save_confirm());
      return OkStatus();
    case v1::ClientMessage::kDrainQuery:
      if (!attached.scheduler) break;
      SS_TRY(CheckIdCount(message.drain_query().attempts_size()));
      SS_TRY(CheckIdCount(message.drain_query().saves_size()));
      HandleDrainQuery(engine, message.drain_query());
      return OkStatus();
    case v1::ClientMessage::kSchedulerHello:
    case v1::ClientMessage::kWorkerHello:
      return Status(StatusCode::kInvalidArgument, "a second hello");
    case v1::ClientMessage::BODY_NOT_SET:
      return OkStatus();  // from a newer client: ignored
  }
  return Status(StatusCode::kInvalidArgument, "message of the other half");
}

void Engines::Detach(SessionSink* session) {
  const std::lock_guard lock(mutex_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  const Attached attached = found->second;
  sessions_.erase(found);
  Engine* engine = &engines_.at(attached.engine_id);
  if (attached.scheduler) {
    metrics_->sessions[RoleLabel::kScheduler].Add(-1);
    engine->scheduler = nullptr;
    CancelEpoch(engine, engine->epoch);
    Log(LogLevel::kInfo, "scheduler left: engine {}", attached.engine_id);
  } else {
    RemoveWorker(engine, attached.rank);
    Log(LogLevel::kInfo, "worker left: engine {} rank {}", attached.engine_id, attached.rank);
  }
  ForgetIfUnused(attached.engine_id);
}

void Engines::RemoveWorker(Engine* engine, uint32_t rank) {
  const uint64_t rank_id = engine->workers.at(rank).rank_id;
  engine->workers.erase(rank);
  metrics_->sessions[RoleLabel::kWorker].Add(-1);
  // The mailbox is far larger than what sessions can have queued; a full one means that the
  // pipeline hangs, and then the memory stays mapped until the process ends.
  if (!plane_->Post([this, rank_id] { plane_->RemoveRank(rank_id, [] {}); })) {
    Log(LogLevel::kError, "mailbox full: memory of engine {} rank {} stays attached", engine->id,
        rank);
  }
}

void Engines::ForgetIfUnused(const std::string& engine_id) {
  const auto found = engines_.find(engine_id);
  if (found == engines_.end()) return;
  const Engine& engine = found->second;
  if (engine.scheduler == nullptr && engine.workers.empty() && engine.attempts.empty() &&
      engine.saves.empty()) {
    engines_.erase(found);
  }
}

std::vector<v1::SessionStatus> Engines::SessionStatuses() const {
  const std::lock_guard lock(mutex_);
  std::vector<v1::SessionStatus> statuses;
  for (const auto& [id, engine] : engines_) {
    if (engine.scheduler != nullptr) {
      v1::SessionStatus& status = statuses.emplace_back();
      status.set_engine_id(id);
      status.set_role("scheduler");
      status.set_profile(std::string(ProfileName(engine.form.profile)));
      status.set_loads_in_flight(engine.attempts.size());
      status.set_saves_in_flight(engine.saves.size());
    }
    for (const auto& [rank, worker] : engine.workers) {
      v1::SessionStatus& status = statuses.emplace_back();
      status.set_engine_id(id);
      status.set_role("worker " + std::to_string(rank));
      status.set_device(worker.device);
      status.set_region_bytes(worker.region_bytes);
    }
  }
  return statuses;
}

}  // namespace shadowserve
