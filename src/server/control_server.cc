#include "server/control_server.h"

#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/version.h"
#include "rpc/channel.h"
#include "rpc/control.grpc.pb.h"
#include "rpc/limits.h"
#include "server/connection_gate.h"
#include "server/object_check.h"
#include "server/session.h"

namespace shadowserve {
namespace {

constexpr std::chrono::seconds kPipelineWait(30);
constexpr uint32_t kTraceMsMax = 60'000;
constexpr std::chrono::milliseconds kTraceNap(20);  // between looks whether the caller is gone
constexpr size_t kSpansPerReply = 1000;

struct Named {
  ObjectName name;
  uint64_t bytes = 0;
};

uint64_t ResidentBytes() {
  uint64_t pages = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "re"); file != nullptr) {
    unsigned long long size = 0;
    unsigned long long resident = 0;
    if (std::fscanf(file, "%llu %llu", &size, &resident) == 2) pages = resident;
    std::fclose(file);
  }
  return pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

using SessionService = v1::Control::WithCallbackMethod_Session<v1::Control::Service>;

class Service final : public SessionService {
 public:
  Service(ServerFacts facts, Engines* engines, DataPlane* plane, Metrics* metrics,
          const Clock* clock)
      : facts_(std::move(facts)),
        engines_(engines),
        plane_(plane),
        metrics_(metrics),
        clock_(clock) {}

  grpc::ServerBidiReactor<v1::ClientMessage, v1::ServerMessage>* Session(
      grpc::CallbackServerContext* /*context*/) override {
    return NewSession(engines_);
  }

  grpc::Status GetStatus(grpc::ServerContext* /*context*/, const v1::StatusRequest* /*request*/,
                         v1::StatusReply* reply) override {
    const Result<StoreStats> stats =
        OnPipeline<StoreStats>([this] { return plane_->store().Stats(); });
    if (!stats.ok()) return Failed(stats.status());
    reply->set_version(std::string(Version()));
    reply->set_uptime_s(static_cast<double>(clock_->NowNs() - facts_.start_ns) * 1e-9);
    reply->set_store(facts_.store);
    reply->set_store_objects(stats->objects);
    reply->set_store_bytes(stats->bytes);
    reply->set_store_capacity_bytes(stats->capacity_bytes);
    reply->set_profile(std::string(ProfileName(facts_.form.profile)));
    reply->set_codec(std::string(CodecName(facts_.form.codec)));
    reply->set_resident_bytes(ResidentBytes());
    for (v1::SessionStatus& session : engines_->SessionStatuses()) {
      *reply->add_sessions() = std::move(session);
    }
    for (const SlabPool* pool : {&plane_->fetch_slabs(), &plane_->save_slabs()}) {
      v1::SlabStatus* slabs = reply->add_slabs();
      slabs->set_pool(pool->name());
      slabs->set_slab_bytes(pool->slab_bytes());
      slabs->set_total(pool->slab_count());
      slabs->set_free(pool->free_count());
    }
    AddMetrics(reply);
    AddServers(reply);
    return grpc::Status::OK;
  }

  grpc::Status FindObjects(grpc::ServerContext* context, const v1::ObjectsRequest* request,
                           grpc::ServerWriter<v1::ObjectReply>* writer) override {
    const Result<std::vector<Named>> objects = Select(*request);
    if (!objects.ok()) return Failed(objects.status());
    for (const Named& object : *objects) {
      v1::ObjectReply reply;
      reply.set_name(ToString(object.name));
      reply.set_bytes(object.bytes);
      if (context->IsCancelled() || !writer->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  grpc::Status VerifyObjects(grpc::ServerContext* context, const v1::ObjectsRequest* request,
                             grpc::ServerWriter<v1::ObjectReply>* writer) override {
    const Result<std::vector<Named>> objects = Select(*request);
    if (!objects.ok()) return Failed(objects.status());
    uint64_t checked = 0;
    for (const Named& object : *objects) {
      const Status status = CheckObject(plane_, object.name);
      ++checked;
      if (status.code() == StatusCode::kNotFound) continue;  // evicted meanwhile
      if (!status.ok() && status.code() != StatusCode::kCorrupt) return Failed(status);
      v1::ObjectReply reply;
      reply.set_name(ToString(object.name));
      reply.set_bytes(object.bytes);
      reply.set_problem(std::string(status.message()));
      reply.set_checked(checked);
      reply.set_total(objects->size());
      if (context->IsCancelled() || !writer->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  grpc::Status TakeTrace(grpc::ServerContext* context, const v1::TraceRequest* request,
                         grpc::ServerWriter<v1::TraceReply>* writer) override {
    if (request->duration_ms() == 0 || request->duration_ms() > kTraceMsMax) {
      return Failed(Status(StatusCode::kInvalidArgument, "a trace takes 1 ms to 1 minute"));
    }
    const std::unique_lock one_at_a_time(trace_mutex_, std::try_to_lock);
    if (!one_at_a_time.owns_lock()) {
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "another trace is being taken");
    }
    const Result<int64_t> begin = OnPipeline<int64_t>([this] {
      metrics_->trace.Begin();
      return clock_->NowNs();
    });
    if (!begin.ok()) return Failed(begin.status());
    const int64_t end_ns = *begin + int64_t{request->duration_ms()} * kNsPerMs;
    while (clock_->NowNs() < end_ns && !context->IsCancelled()) {
      std::this_thread::sleep_for(kTraceNap);
    }
    const Result<StageTrace::Taken> taken =
        OnPipeline<StageTrace::Taken>([this] { return metrics_->trace.End(); });
    if (!taken.ok()) return Failed(taken.status());
    SendTrace(*taken, *begin, writer);
    return grpc::Status::OK;
  }

  grpc::Status EvictObjects(grpc::ServerContext* context, const v1::ObjectsRequest* request,
                            v1::EvictReply* reply) override {
    const Result<std::vector<Named>> objects = Select(*request);
    if (!objects.ok()) return Failed(objects.status());
    // In portions that the discard queue takes (each name removes a segment and its marker).
    constexpr size_t kPortion = StorePort::kDiscardsMax / 4;
    for (size_t begin = 0; begin < objects->size() && !context->IsCancelled(); begin += kPortion) {
      const auto portion =
          std::span(*objects).subspan(begin, std::min(kPortion, objects->size() - begin));
      const Result<bool> done = OnPipeline<bool>([this, portion] {
        for (const Named& object : portion) plane_->store_port().Discard(object.name);
        return true;
      });
      if (!done.ok()) return Failed(done.status());
      for (const Named& object : portion) {
        reply->set_objects(reply->objects() + 1);
        reply->set_bytes(reply->bytes() + object.bytes);
      }
    }
    return grpc::Status::OK;
  }

 private:
  // Runs `work` on the pipeline's thread and waits for it.
  template <typename T>
  Result<T> OnPipeline(std::function<T()> work) {
    const auto promise = std::make_shared<std::promise<T>>();
    std::future<T> future = promise->get_future();
    if (!plane_->Post([promise, work = std::move(work)] { promise->set_value(work()); })) {
      return Status(StatusCode::kExhausted, "the data plane is overloaded");
    }
    if (future.wait_for(kPipelineWait) != std::future_status::ready) {
      return Status(StatusCode::kDeadline, "the data plane does not answer");
    }
    return future.get();
  }

  static void SendTrace(const StageTrace::Taken& taken, int64_t begin_ns,
                        grpc::ServerWriter<v1::TraceReply>* writer) {
    size_t sent = 0;
    do {
      v1::TraceReply reply;
      const size_t end = std::min(taken.spans.size(), sent + kSpansPerReply);
      for (; sent < end; ++sent) {
        const StageSpan& span = taken.spans[sent];
        v1::TraceSpan* proto = reply.add_spans();
        proto->set_stage(std::string(LabelName(span.stage)));
        proto->set_start_ns(span.start_ns - begin_ns);
        proto->set_end_ns(span.end_ns - begin_ns);
        proto->set_chunk(span.chunk);
        proto->set_first_layer(span.first_layer);
        proto->set_head_group(span.head_group);
        proto->set_saving(span.saving);
        proto->set_thread(span.thread);
      }
      if (sent == taken.spans.size()) reply.set_dropped(taken.dropped);
      if (!writer->Write(reply)) return;
    } while (sent < taken.spans.size());
  }

  static grpc::Status Failed(const Status& status) {
    return grpc::Status(status.code() == StatusCode::kInvalidArgument
                            ? grpc::StatusCode::INVALID_ARGUMENT
                            : grpc::StatusCode::UNAVAILABLE,
                        std::string(status.message()));
  }

  Result<std::vector<Named>> Select(const v1::ObjectsRequest& request) {
    std::vector<Digest> keys;
    std::vector<ObjectName> names;
    for (const std::string& hex : request.keys()) {
      SS_TRY_ASSIGN(keys.emplace_back(), DigestFromHex(hex));
    }
    for (const std::string& text : request.names()) {
      SS_TRY_ASSIGN(names.emplace_back(), ParseObjectName(text));
    }
    const bool all = request.all();
    if (!all && keys.empty() && names.empty()) {
      return Status(StatusCode::kInvalidArgument, "name chunk keys or objects, or ask for all");
    }
    using Listed = Result<std::vector<Named>>;
    SS_TRY_ASSIGN(Listed listed, OnPipeline<Listed>([this, all, keys, names]() -> Listed {
                    std::vector<Named> found;
                    const Status status =
                        plane_->store().List([&](const ObjectName& name, uint64_t bytes) {
                          if (all || std::count(keys.begin(), keys.end(), name.key) > 0 ||
                              std::count(names.begin(), names.end(), name) > 0) {
                            found.push_back(Named{name, bytes});
                          }
                          return true;
                        });
                    if (!status.ok()) return status;
                    return found;
                  }));
    return listed;
  }

  void AddMetrics(v1::StatusReply* reply) const {
    for (size_t i = 0; i < static_cast<size_t>(StageLabel::kCount); ++i) {
      const auto stage = static_cast<StageLabel>(i);
      v1::StageStatus* status = reply->add_stages();
      status->set_name(std::string(LabelName(stage)));
      status->set_busy_seconds(metrics_->stage_busy[stage].seconds());
      const int64_t inflight = metrics_->stage_inflight[stage].value();
      status->set_inflight(static_cast<uint64_t>(std::max<int64_t>(inflight, 0)));
    }
    for (const MetricRow& row : Rows(*metrics_)) {
      if (row.type != MetricType::kCounter || std::holds_alternative<const BusyTime*>(row.source)) {
        continue;
      }
      if (row.labels[0].key == "server") continue;  // in AddServers
      std::string name(row.name);
      for (const MetricLabel& label : row.labels) {
        if (!label.key.empty()) {
          name += "{" + std::string(label.key) + "=\"" + std::string(label.value) + "\"}";
        }
      }
      (*reply->mutable_counters())[name] = static_cast<uint64_t>(row.Value());
    }
  }

  void AddServers(v1::StatusReply* reply) const {
    for (const ServerMetrics& server : metrics_->store_servers.rows()) {
      v1::StoreServerStatus* status = reply->add_store_servers();
      status->set_address(server.name);
      const auto state = static_cast<BreakerState>(server.breaker.value());
      if (!ServerTable::IsShared(server)) status->set_breaker(std::string(BreakerStateName(state)));
      for (size_t i = 0; i < static_cast<size_t>(ServerEventLabel::kCount); ++i) {
        const auto event = static_cast<ServerEventLabel>(i);
        (*status->mutable_events())[std::string(LabelName(event))] = server.events[event].value();
      }
    }
  }

  const ServerFacts facts_;
  Engines* engines_;
  DataPlane* plane_;
  Metrics* metrics_;
  std::mutex trace_mutex_;  // held while a trace is taken
  const Clock* clock_;
};

class GrpcControlServer final : public ControlServer {
 public:
  GrpcControlServer(const Address& listen, std::unique_ptr<Service> service)
      : listen_(listen), service_(std::move(service)) {}
  ~GrpcControlServer() override { Stop(0); }

  Status Start(Options options, const Clock* clock) {
    std::unique_ptr<UnixListener> listener = std::move(options.listener);
    grpc::ServerBuilder builder;
    // shadowctl's calls are rare: one thread serves them.
    builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
    builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 1);
    builder.RegisterService(service_.get());
    int port = 0;
    std::unique_ptr<ConnectionGate::Acceptor> acceptor;
    if (listener == nullptr) {
      AddListener(listen_, options.tls, &builder, &port);
    } else {
      builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
      acceptor = ConnectionGate::AddTo(&builder);
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || (listener == nullptr && port == 0)) {
      return Status(StatusCode::kUnavailable, "listen: cannot listen on " + GrpcTarget(listen_));
    }
    if (listener == nullptr) {
      address_ = "tcp://" + listen_.tcp.host + ":" + std::to_string(port);
      return OkStatus();
    }
    address_ = "unix://" + listen_.path;
    SS_TRY_ASSIGN(gate_, ConnectionGate::Start(std::move(listener), std::move(options.uids),
                                               std::move(acceptor), clock));
    return OkStatus();
  }

  std::string address() const override { return address_; }

  void Stop(int64_t grace_ns) override {
    gate_.reset();
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + std::chrono::nanoseconds(grace_ns));
    server_->Wait();
    server_.reset();
  }

 private:
  const Address listen_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ConnectionGate> gate_;  // of a Unix socket
  std::string address_;
};

}  // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::Start(Options options, ServerFacts facts,
                                                            Engines* engines, DataPlane* plane,
                                                            Metrics* metrics, const Clock* clock) {
  auto server = std::make_unique<GrpcControlServer>(
      options.listen, std::make_unique<Service>(std::move(facts), engines, plane, metrics, clock));
  SS_TRY(server->Start(std::move(options), clock));
  return std::unique_ptr<ControlServer>(std::move(server));
}

}  // namespace shadowserve
