#include "device/ucx_device.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>
#include <ucp/api/ucp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "device/engine_process.h"
#include "device/transfer_ring.h"

namespace shadowserve {
namespace {

constexpr unsigned kMajorMin = 1;
constexpr unsigned kMinorMin =
    22;  // older ones emulate puts and gets: the target must progress them
constexpr int64_t kProbeNs = 500 * kNsPerMs;
constexpr int64_t kStallNs = 5 * kNsPerSecond;
constexpr int64_t kDrainNs = kNsPerSecond;
constexpr size_t kBlobBytesMax = size_t{64} << 10;

Status Fail(StatusCode code, std::string_view why) {
  return Status(code, fmt::format("KV device 'ucx': {}", why));
}

// The functions used here, found at run time: a data plane that is not configured for UCX never has
// it in its process.
// The formatter does not settle on one form of this list.
// clang-format off
#define SS_UCX_FUNCTIONS(X)                                                              \
  X(ucp_get_version)                                                                     \
  X(ucp_config_read)                                                                     \
  X(ucp_config_modify) X(ucp_config_release) X(ucp_init_version) X(ucp_cleanup)          \
      X(ucp_worker_create) X(ucp_worker_destroy) X(ucp_worker_progress) X(ucp_ep_create) \
          X(ucp_ep_rkey_unpack) X(ucp_rkey_destroy) X(ucp_put_nbx) X(ucp_get_nbx)        \
              X(ucp_ep_flush_nbx) X(ucp_request_check_status) X(ucp_request_free)        \
                  X(ucs_status_string)
// clang-format on

struct UcxLibrary {
#define SS_UCX_MEMBER(name) decltype(&::name) name = nullptr;
  SS_UCX_FUNCTIONS(SS_UCX_MEMBER)
#undef SS_UCX_MEMBER
};

Result<UcxLibrary> LoadUcx(const std::string& configured) {
  void* handle = nullptr;
  std::string reasons;
  for (const std::string& path : configured.empty()
                                     ? std::vector<std::string>{SS_UCX_LIBRARY, "libucp.so.0"}
                                     : std::vector<std::string>{configured}) {
    // Never unloaded: UCX leaves threads and exit handlers behind.
    handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle != nullptr) break;
    reasons += fmt::format("{}{}", reasons.empty() ? "" : "; ", ::dlerror());
  }
  if (handle == nullptr) {
    return Fail(StatusCode::kUnsupported,
                fmt::format("install UCX >= 1.22 or let the engine export `mapped`: {}", reasons));
  }
  UcxLibrary ucx;
  bool complete = true;
#define SS_UCX_FIND(name)                                                 \
  ucx.name = reinterpret_cast<decltype(&::name)>(::dlsym(handle, #name)); \
  complete = complete && ucx.name != nullptr;
  SS_UCX_FUNCTIONS(SS_UCX_FIND)
#undef SS_UCX_FIND
  ::dlclose(handle);
  if (!complete)
    return Fail(StatusCode::kUnsupported, "the library lacks functions of UCX >= 1.22");
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucx.ucp_get_version(&major, &minor, &release);
  if (major != kMajorMin || minor < kMinorMin) {
    return Fail(StatusCode::kUnsupported,
                fmt::format("UCX {}.{}.{} only emulates one-sided access: 1.22 or newer is needed",
                            major, minor, release));
  }
  return ucx;
}

// One connection to one engine worker. UCX cannot cancel an operation (closing by force needs its
// error handling, which would take the one-sided lanes away) and may abort when it is destroyed
// with one in a shared-memory lane: what was posted is waited for first. Should that fail, an abort
// is the better end: a device must not write to memory that was given back.
class UcxConnection {
 public:
  explicit UcxConnection(const UcxLibrary& ucx) : ucx_(ucx) {}
  ~UcxConnection();
  UcxConnection(const UcxConnection&) = delete;
  UcxConnection& operator=(const UcxConnection&) = delete;

  Status Open(const KvExport& exported, const KvDeviceOptions& options);
  // A put, a get and a flush must end by this side's progress alone.
  Status Probe(const KvExport& exported);

  ucs_status_ptr_t Post(bool write, std::span<std::byte> local, uint64_t remote, ucp_rkey_h key) {
    ucp_request_param_t param{};
    return write ? ucx_.ucp_put_nbx(endpoint_, local.data(), local.size(), remote, key, &param)
                 : ucx_.ucp_get_nbx(endpoint_, local.data(), local.size(), remote, key, &param);
  }
  ucs_status_ptr_t Flush() {
    ucp_request_param_t param{};
    return ucx_.ucp_ep_flush_nbx(endpoint_, &param);
  }
  unsigned Progress() { return ucx_.ucp_worker_progress(worker_); }
  // UCS_INPROGRESS, or the end: the request is freed then.
  ucs_status_t Check(ucs_status_ptr_t request) {
    const ucs_status_t status = ucx_.ucp_request_check_status(request);
    if (status != UCS_INPROGRESS) ucx_.ucp_request_free(request);
    return status;
  }
  ucp_rkey_h region_key() const { return region_key_; }

 private:
  Status Checked(std::string_view what, ucs_status_t status) const {
    if (status == UCS_OK) return OkStatus();
    return Fail(StatusCode::kUnavailable,
                fmt::format("{}: {}: {}", what, ucx_.ucs_status_string(status), kPtraceRemedy));
  }
  Status Await(std::string_view what, ucs_status_ptr_t request);
  Status UnpackKeys(const KvExport& exported);

  UcxLibrary ucx_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_ep_h endpoint_ = nullptr;
  ucp_rkey_h region_key_ = nullptr;
  ucp_rkey_h probe_key_ = nullptr;
  std::array<uint64_t, 3> probe_words_{};
};

UcxConnection::~UcxConnection() {
  for (ucp_rkey_h key : {region_key_, probe_key_}) {
    if (key != nullptr) ucx_.ucp_rkey_destroy(key);
  }
  // With its endpoint, and with whatever a device could still do to local memory.
  if (worker_ != nullptr) ucx_.ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucx_.ucp_cleanup(context_);
}

Status UcxConnection::Open(const KvExport& exported, const KvDeviceOptions& options) {
  ucp_config_t* config = nullptr;
  SS_TRY(Checked("config", ucx_.ucp_config_read(nullptr, nullptr, &config)));
  const ucs_status_t modified =
      ucx_.ucp_config_modify(config, "TLS", options.ucx_transports.c_str());
  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_RMA;
  const ucs_status_t opened =
      modified == UCS_OK ? ucx_.ucp_init_version(kMajorMin, kMinorMin, &params, config, &context_)
                         : modified;
  ucx_.ucp_config_release(config);
  SS_TRY(Checked("init", opened));

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SINGLE;
  SS_TRY(Checked("worker", ucx_.ucp_worker_create(context_, &worker_params, &worker_)));

  ucp_ep_params_t ep_params{};
  ep_params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  ep_params.address = reinterpret_cast<const ucp_address_t*>(exported.ucx_worker_address.data());
  // With peer errors handled, UCX excludes the lanes of shared hosts and emulates again; that the
  // engine is gone is known from its process and from the control stream.
  ep_params.err_mode = UCP_ERR_HANDLING_MODE_NONE;
  SS_TRY(Checked("connect", ucx_.ucp_ep_create(worker_, &ep_params, &endpoint_)));
  return UnpackKeys(exported);
}

Status UcxConnection::UnpackKeys(const KvExport& exported) {
  const std::string& keys = exported.ucx_remote_key;
  uint32_t region_bytes = 0;
  if (keys.size() >= sizeof(region_bytes)) {
    for (size_t i = 0; i < sizeof(region_bytes); ++i) {
      region_bytes |= uint32_t{static_cast<unsigned char>(keys[i])} << (8 * i);
    }
  }
  const size_t payload =
      keys.size() < sizeof(region_bytes) ? 0 : keys.size() - sizeof(region_bytes);
  if (region_bytes == 0 || region_bytes >= payload) {
    return Fail(StatusCode::kInvalidArgument, "the remote key is malformed");
  }
  const char* const region = keys.data() + sizeof(region_bytes);
  SS_TRY(Checked("region key", ucx_.ucp_ep_rkey_unpack(endpoint_, region, &region_key_)));
  return Checked("probe key",
                 ucx_.ucp_ep_rkey_unpack(endpoint_, region + region_bytes, &probe_key_));
}

Status UcxConnection::Await(std::string_view what, ucs_status_ptr_t request) {
  if (!UCS_PTR_IS_PTR(request)) return Checked(what, UCS_PTR_STATUS(request));
  const SteadyClock clock;
  const int64_t end_ns = clock.NowNs() + kProbeNs;
  while (clock.NowNs() < end_ns) {
    while (Progress() != 0) {
    }
    const ucs_status_t status = Check(request);
    if (status != UCS_INPROGRESS) return Checked(what, status);
    ::sched_yield();
  }
  return Fail(StatusCode::kUnsupported,
              fmt::format("{}: the transport only emulates one-sided access (no end within {} ms "
                          "without the engine's help): name others, or use `mapped`; {}",
                          what, kProbeNs / kNsPerMs, kPtraceRemedy));
}

Status UcxConnection::Probe(const KvExport& exported) {
  // Members: when a probe is given up, UCX still holds them until the worker is destroyed.
  auto& [found, sent, returned] = probe_words_;
  sent = ~exported.probe_value;
  const auto bytes = [](uint64_t& value) { return std::as_writable_bytes(std::span(&value, 1)); };
  const uint64_t scratch = exported.probe_address + sizeof(uint64_t);
  SS_TRY(Await("get", Post(false, bytes(found), exported.probe_address, probe_key_)));
  SS_TRY(Await("put", Post(true, bytes(sent), scratch, probe_key_)));
  SS_TRY(Await("flush", Flush()));
  SS_TRY(Await("get", Post(false, bytes(returned), scratch, probe_key_)));
  if (found != exported.probe_value || returned != sent) {
    return Fail(StatusCode::kUnavailable, "the probe found other bytes than the engine's");
  }
  return OkStatus();
}

class UcxDevice final : public KvDevice {
 public:
  UcxDevice(const KvExport& exported, std::optional<EngineProcess> process,
            std::unique_ptr<UcxConnection> connection)
      : region_bytes_(exported.region_bytes),
        address_(exported.address),
        process_(std::move(process)),
        connection_(std::move(connection)),
        ring_(exported.region_bytes) {}
  ~UcxDevice() override { Disconnect(); }

  std::string_view kind() const override { return "ucx"; }
  uint64_t region_bytes() const override { return region_bytes_; }
  std::span<std::byte> direct() const override { return {}; }
  size_t Submit(std::span<const Transfer> transfers) override { return ring_.Accept(transfers); }
  size_t Poll(std::span<TransferCompletion> completions) override;

 private:
  static constexpr size_t kWindow = 64;  // operations outstanding
  static constexpr uint64_t kBytesPerPollMax = uint64_t{4} << 20;

  void Disconnect();
  void Reap();
  bool PostMore(uint64_t* bytes_left);
  void Keep(ucs_status_ptr_t request);
  bool Stalled();

  uint64_t region_bytes_;
  uint64_t address_;
  std::optional<EngineProcess> process_;       // none: the engine is on another host
  std::unique_ptr<UcxConnection> connection_;  // null: broken, everything fails from then on
  TransferRing ring_;
  std::array<ucs_status_ptr_t, kWindow> outstanding_{};
  size_t outstanding_count_ = 0;
  bool flushed_ = false;  // of the first transfer: its flush was posted
  bool broken_ = false;
  SteadyClock clock_;
  int64_t progress_ns_ = 0;  // when something last moved
};

void UcxDevice::Keep(ucs_status_ptr_t request) {
  progress_ns_ = clock_.NowNs();
  if (UCS_PTR_IS_PTR(request)) {
    outstanding_[outstanding_count_++] = request;
  } else if (UCS_PTR_STATUS(request) != UCS_OK) {
    broken_ = true;
  }
}

void UcxDevice::Reap() {
  for (unsigned i = 0; i < kWindow && connection_->Progress() != 0; ++i) {
    progress_ns_ = clock_.NowNs();
  }
  for (size_t i = 0; i < outstanding_count_;) {
    const ucs_status_t status = connection_->Check(outstanding_[i]);
    if (status == UCS_INPROGRESS) {
      ++i;
      continue;
    }
    broken_ = broken_ || status != UCS_OK;
    outstanding_[i] = outstanding_[--outstanding_count_];
  }
}

// Waits for what was posted (at most a window of it), for a bounded time, and closes. An engine
// that has died ends it too: cross-memory calls fail, queue pairs flush.
void UcxDevice::Disconnect() {
  if (connection_ == nullptr) return;
  const int64_t end_ns = clock_.NowNs() + kDrainNs;
  while (outstanding_count_ > 0 && clock_.NowNs() < end_ns) Reap();
  outstanding_count_ = 0;
  connection_.reset();
}

// Posts what the window and the budget allow. False: the first transfer waits for what is
// outstanding, or the budget is used up.
bool UcxDevice::PostMore(uint64_t* bytes_left) {
  std::array<TransferRun, kWindow> pieces;
  const size_t count =
      ring_.TakePieces(std::span(pieces).first(kWindow - outstanding_count_), *bytes_left);
  for (const TransferRun& piece : std::span(pieces).first(count)) {
    *bytes_left -= piece.local.size();
    Keep(connection_->Post(ring_.write(), piece.local, address_ + piece.offset,
                           connection_->region_key()));
    if (broken_) return false;
  }
  return count > 0;
}

bool UcxDevice::Stalled() {
  return outstanding_count_ > 0 && clock_.NowNs() - progress_ns_ > kStallNs;
}

size_t UcxDevice::Poll(std::span<TransferCompletion> completions) {
  size_t completed = 0;
  uint64_t bytes_left = kBytesPerPollMax;
  if (ring_.empty()) return 0;
  // Asked before every batch: cma goes by pid, and a pid may name another process one day.
  broken_ = broken_ || (process_.has_value() && !process_->Alive());
  if (!broken_) Reap();
  while (completed < completions.size() && !ring_.empty() && !broken_) {
    if (!ring_.started() && !ring_.InBounds()) {
      completions[completed++] = ring_.Complete(StatusCode::kInvalidArgument);
      continue;
    }
    if (outstanding_count_ == kWindow || bytes_left == 0) break;
    if (PostMore(&bytes_left)) continue;
    if (broken_ || outstanding_count_ > 0) break;
    if (bytes_left > 0 && ring_.write() && !flushed_) {
      // A put is over when its source may be reused; in place is what it is after a flush.
      flushed_ = true;
      Keep(connection_->Flush());
      continue;
    }
    flushed_ = false;
    completions[completed++] = ring_.Complete(StatusCode::kOk);
  }
  if (broken_ || Stalled()) {
    broken_ = true;
    Disconnect();  // first: nothing may touch local memory once it is given back
    while (completed < completions.size() && !ring_.empty()) {
      completions[completed++] = ring_.Complete(StatusCode::kUnavailable);
    }
  }
  return completed;
}

}  // namespace

Result<std::unique_ptr<KvDevice>> OpenUcxDevice(KvExport exported, const KvDeviceOptions& options) {
  constexpr uint64_t kUserEnd = uint64_t{1} << 56;
  if (exported.ucx_worker_address.empty() || exported.ucx_worker_address.size() > kBlobBytesMax ||
      exported.ucx_remote_key.size() > kBlobBytesMax || exported.address >= kUserEnd ||
      exported.region_bytes > kUserEnd - exported.address ||
      exported.probe_address >= kUserEnd - 2 * sizeof(uint64_t)) {
    return Fail(StatusCode::kInvalidArgument, "the address or the remote key is malformed");
  }
  std::optional<EngineProcess> process;
  if (exported.pid > 0) {
    Result<EngineProcess> watched = EngineProcess::Watch(exported.pid);
    if (!watched.ok()) return Fail(StatusCode::kUnavailable, watched.status().message());
    process = std::move(watched).value();
  }
  SS_TRY_ASSIGN(const UcxLibrary ucx, LoadUcx(options.ucx_library));
  auto connection = std::make_unique<UcxConnection>(ucx);
  SS_TRY(connection->Open(exported, options));
  SS_TRY(connection->Probe(exported));
  return std::unique_ptr<KvDevice>(
      new UcxDevice(exported, std::move(process), std::move(connection)));
}

}  // namespace shadowserve
