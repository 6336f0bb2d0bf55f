#include "client/kv_worker.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/log.h"
#include "client/step_metadata.h"
#include "rpc/convert.h"
#include "rpc/limits.h"
#include "rpc/side_socket.h"

namespace shadowserve {
namespace {

constexpr int kHandOverMs = 2000;
constexpr double kDeadlineSecondsMax = 86'400;

v1::WorkerHello HelloOf(const KvWorkerOptions& options) {
  v1::WorkerHello hello;
  hello.set_protocol(kProtocolVersion);
  hello.set_engine_id(options.engine_id);
  hello.set_rank(options.rank);
  hello.set_world_size(options.world_size);
  *hello.mutable_shape() = ToProto(options.shape);
  return hello;
}

}  // namespace

Result<std::unique_ptr<KvWorker>> KvWorker::Create(KvWorkerOptions options) {
  Result<Address> address = ParseAddress(options.data_plane);
  if (!address.ok()) return std::move(address).status().WithContext("data_plane");
  SS_TRY(CheckTlsFiles(options.tls, *address));
  SS_TRY(ReadTlsFiles(options.tls).status());
  SS_TRY(CheckModelShape(options.shape));
  SS_TRY(CheckHello(HelloOf(options)));
  if (!std::isfinite(options.fetch_deadline_s) || options.fetch_deadline_s <= 0 ||
      options.fetch_deadline_s > kDeadlineSecondsMax) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("fetch_deadline_s {}: takes more than 0 and at most {} s",
                              options.fetch_deadline_s, kDeadlineSecondsMax));
  }
  if (options.devices.empty()) {
    return Status(StatusCode::kInvalidArgument, "devices is empty: name at least one export kind");
  }
  options.session.address = *address;
  options.session.tls = options.tls;
  options.session.name = fmt::format("ss-work{}", options.rank);
  return std::unique_ptr<KvWorker>(new KvWorker(std::move(options)));
}

KvWorker::KvWorker(KvWorkerOptions options)
    : options_(std::move(options)),
      clock_(options_.clock != nullptr ? options_.clock : &steady_clock_) {}

KvWorker::~KvWorker() {
  Close();
}

void KvWorker::Close() {
  if (session_ != nullptr) session_->Close();
}

Result<std::string> KvWorker::Register(std::span<std::byte> region, PageLayout layout) {
  if (session_ != nullptr) {
    return Status(StatusCode::kInvalidArgument, "the KV memory is registered already");
  }
  SS_TRY(CheckPageLayout(layout, options_.shape, region.size()));
  KvExportOptions export_options;
  export_options.kinds = options_.devices;
  Result<std::unique_ptr<KvExporter>> exporter = KvExporter::Create(region, export_options);
  if (!exporter.ok()) return std::move(exporter).status();
  exporter_ = std::move(*exporter);
  layout_ = std::move(layout);
  const std::string kind = exporter_->info().kind;
  if (!exporter_->passed_over().empty()) {
    Log(LogLevel::kWarn, "kv memory is exported as {}: {}", kind, exporter_->passed_over());
  }
  SessionListener* const listener = this;
  session_ = std::make_unique<Session>(options_.session, listener);
  session_->Start();
  Result<bool> ready = session_->WaitReady(options_.register_wait_ms);
  if (!ready.ok()) return std::move(ready).status();
  return *ready ? kind : std::string();
}

Status KvWorker::MakeHello(v1::ClientMessage* message) {
  const KvExportInfo& info = exporter_->info();
  v1::WorkerHello* const hello = message->mutable_worker_hello();
  *hello = HelloOf(options_);
  *hello->mutable_layout() = ToProto(layout_);
  hello->set_device(info.kind);
  hello->set_region_bytes(info.region_bytes);
  hello->set_memory_offset(info.memory_offset);
  hello->set_address(info.address);
  hello->set_ucx_worker_address(info.ucx_worker_address);
  hello->set_ucx_remote_key(info.ucx_remote_key);
  hello->set_probe_value(info.probe_value);
  hello->set_probe_address(info.probe_address);
  // UCX needs no descriptor; everything else needs the same host.
  if (info.kind == "ucx") return OkStatus();
  return HandOver(hello->mutable_side_token());
}

Status KvWorker::HandOver(std::string* token) {
  const std::string& path = options_.session.address.path;
  if (path.empty()) {
    return Status(StatusCode::kUnsupported,
                  fmt::format("device {} needs a data plane on this host: give data_plane as "
                              "unix:///path, or use device ucx",
                              exporter_->info().kind));
  }
  const SideToken side_token = MakeSideToken();
  SS_TRY_ASSIGN(const SideAnswer answer, ExchangeSide(SideSocketPath(path), side_token,
                                                      exporter_->memory_fd(), kHandOverMs));
  SS_TRY(exporter_->AllowDataPlane(answer.data_plane_pid));
  token->assign(reinterpret_cast<const char*>(side_token.data()), side_token.size());
  return OkStatus();
}

void KvWorker::OnConnected(const v1::HelloReply&, std::vector<v1::ClientMessage>*) {}

void KvWorker::OnMessage(const v1::ServerMessage& message) {
  if (!message.has_load_done()) return;
  const v1::LoadDone& done = message.load_done();
  {
    const std::lock_guard lock(mu_);
    loads_.Complete({done.epoch(), done.attempt()}, done.status() == 0);
    stats_.kv_bytes += done.kv_bytes();
    stats_.wire_bytes += done.wire_bytes();
  }
  finished_.notify_all();
  if (done.status() != 0) {
    Log(LogLevel::kDebug, "load {} failed: {}", done.attempt(),
        StatusFromProto(done.status(), done.message()).ToString());
  }
}

void KvWorker::OnBroken() {
  {
    const std::lock_guard lock(mu_);
    loads_.FailAll();
  }
  finished_.notify_all();
}

bool KvWorker::Outstanding() {
  const std::lock_guard lock(mu_);
  return loads_.pending() > 0;
}

void KvWorker::BeginStep(std::string_view metadata) {
  Result<StepMetadata> step = DecodeStep(metadata);
  if (!step.ok()) {
    Log(LogLevel::kError, "{}", step.status().ToString());
    return;
  }
  if (step->empty()) return;
  const std::lock_guard lock(mu_);
  const int64_t deadline_ns =
      clock_->NowNs() + static_cast<int64_t>(options_.fetch_deadline_s * 1e9);
  v1::ClientMessage grant;
  grant.mutable_grant()->set_epoch(step->epoch);
  for (StepMetadata::NewLoad& load : step->loads) {
    grant.mutable_grant()->add_attempts(load.attempt);
    loads_.Expect({step->epoch, load.attempt}, std::move(load.request_id), deadline_ns);
  }
  bool reached = session_ != nullptr && session_->connected();
  if (reached && step->grant && !step->loads.empty()) reached = session_->Send(grant).ok();
  if (!reached) {
    // What was done early stands; the rest would only wait for its deadline.
    for (const uint64_t attempt : grant.grant().attempts()) loads_.Fail({step->epoch, attempt});
  }
  for (const uint64_t attempt : step->failed) loads_.Fail({step->epoch, attempt});
}

CompletionTable::Finished KvWorker::Poll(int64_t wait_us) {
  std::unique_lock lock(mu_);
  ExpireLoads();
  const int64_t bounded_us = std::clamp<int64_t>(wait_us, 0, kPollWaitUsMax);
  if (bounded_us > 0 && !loads_.has_finished() && loads_.pending() > 0) {
    finished_.wait_for(lock, std::chrono::microseconds(bounded_us),
                       [&] { return loads_.has_finished(); });
    ExpireLoads();
  }
  CompletionTable::Finished finished = loads_.Take();
  stats_.loads_received += finished.received.size();
  stats_.loads_failed += finished.failed.size();
  return finished;
}

void KvWorker::ExpireLoads() {
  if (loads_.pending() == 0) return;
  v1::ClientMessage cancel;
  for (const auto& [epoch, attempt] : loads_.Expire(clock_->NowNs())) {
    ++stats_.loads_over_deadline;
    cancel.mutable_cancel()->set_epoch(epoch);
    cancel.mutable_cancel()->add_attempts(attempt);
  }
  if (cancel.cancel().attempts_size() > 0 && session_ != nullptr) {
    (void)session_->Send(std::move(cancel));
  }
}

size_t KvWorker::Pending() {
  const std::lock_guard lock(mu_);
  return loads_.pending();
}

KvWorkerStats KvWorker::TakeStats() {
  const std::lock_guard lock(mu_);
  KvWorkerStats stats = std::exchange(stats_, {});
  const uint64_t breaks = session_ != nullptr ? session_->breaks() : 0;
  stats.reconnects = breaks - breaks_told_;
  breaks_told_ = breaks;
  return stats;
}

}  // namespace shadowserve
