// The engine's side of device `ucx`: registers the region, packs keys and address, and takes no
// further part. UCX is opened here, at run time, and nowhere else in the client.
#include <dlfcn.h>
#include <fmt/format.h>
#include <ucp/api/ucp.h>

#include <vector>

#include "client/kv_export.h"

namespace shadowserve {
namespace {

constexpr unsigned kMajorMin = 1;
constexpr unsigned kMinorMin =
    22;  // older ones emulate puts and gets: this side would have to progress

// The formatter does not settle on one form of this list.
// clang-format off
#define SS_UCX_FUNCTIONS(X)                                                                        \
  X(ucp_get_version)                                                                               \
  X(ucp_config_read)                                                                               \
  X(ucp_config_modify) X(ucp_config_release) X(ucp_init_version) X(ucp_cleanup)                    \
      X(ucp_worker_create) X(ucp_worker_destroy) X(ucp_worker_query) X(ucp_worker_release_address) \
          X(ucp_mem_map) X(ucp_mem_unmap) X(ucp_rkey_pack) X(ucp_rkey_buffer_release)              \
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
    return Status(
        StatusCode::kUnsupported,
        fmt::format("install UCX >= 1.22 (package libucx-cu12) or use `mapped`: {}", reasons));
  }
  UcxLibrary ucx;
  bool complete = true;
#define SS_UCX_FIND(name)                                                 \
  ucx.name = reinterpret_cast<decltype(&::name)>(::dlsym(handle, #name)); \
  complete = complete && ucx.name != nullptr;
  SS_UCX_FUNCTIONS(SS_UCX_FIND)
#undef SS_UCX_FIND
  ::dlclose(handle);
  if (!complete) {
    return Status(StatusCode::kUnsupported, "the library lacks functions of UCX >= 1.22");
  }
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucx.ucp_get_version(&major, &minor, &release);
  if (major != kMajorMin || minor < kMinorMin) {
    return Status(
        StatusCode::kUnsupported,
        fmt::format("UCX {}.{}.{} only emulates one-sided access: 1.22 or newer is needed", major,
                    minor, release));
  }
  return ucx;
}

class UcxExporter final : public KvExporter {
 public:
  UcxExporter(const UcxLibrary& ucx, ProbePage probe)
      : KvExporter(KvExportInfo{}), ucx_(ucx), probe_(std::move(probe)) {}

  ~UcxExporter() override {
    for (ucp_mem_h memory : {region_, probe_memory_}) {
      if (memory != nullptr) (void)ucx_.ucp_mem_unmap(context_, memory);
    }
    if (worker_ != nullptr) ucx_.ucp_worker_destroy(worker_);
    if (context_ != nullptr) ucx_.ucp_cleanup(context_);
  }

  Status Open(std::span<std::byte> region, const std::string& transports) {
    SS_TRY(OpenWorker(transports));
    SS_TRY_ASSIGN(const std::string region_key, Register(region, &region_));
    SS_TRY_ASSIGN(const std::string probe_key, Register(probe_.bytes(), &probe_memory_));
    info_.kind = "ucx";
    info_.region_bytes = region.size();
    info_.address = reinterpret_cast<uint64_t>(region.data());
    info_.probe_value = probe_.value();
    info_.probe_address = reinterpret_cast<uint64_t>(probe_.bytes().data());
    // Wire form: device/ucx_device.h.
    for (int shift = 0; shift < 32; shift += 8) {
      info_.ucx_remote_key.push_back(static_cast<char>((region_key.size() >> shift) & 0xff));
    }
    info_.ucx_remote_key += region_key + probe_key;

    ucp_worker_attr_t attributes{};
    attributes.field_mask = UCP_WORKER_ATTR_FIELD_ADDRESS;
    SS_TRY(Checked("worker address", ucx_.ucp_worker_query(worker_, &attributes)));
    info_.ucx_worker_address.assign(reinterpret_cast<const char*>(attributes.address),
                                    attributes.address_length);
    ucx_.ucp_worker_release_address(worker_, attributes.address);
    return OkStatus();
  }

  Status AllowDataPlane(pid_t pid) override { return AllowCrossMemoryAccess(pid); }

 private:
  Status Checked(std::string_view what, ucs_status_t status) const {
    if (status == UCS_OK) return OkStatus();
    return Status(StatusCode::kUnavailable,
                  fmt::format("UCX {}: {}", what, ucx_.ucs_status_string(status)));
  }

  Status OpenWorker(const std::string& transports) {
    ucp_config_t* config = nullptr;
    SS_TRY(Checked("config", ucx_.ucp_config_read(nullptr, nullptr, &config)));
    const ucs_status_t modified = ucx_.ucp_config_modify(config, "TLS", transports.c_str());
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
    return Checked("worker", ucx_.ucp_worker_create(context_, &worker_params, &worker_));
  }

  Result<std::string> Register(std::span<std::byte> bytes, ucp_mem_h* memory) {
    ucp_mem_map_params_t params{};
    params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH;
    params.address = bytes.data();
    params.length = bytes.size();
    SS_TRY(Checked("registration", ucx_.ucp_mem_map(context_, &params, memory)));
    void* key = nullptr;
    size_t key_bytes = 0;
    SS_TRY(Checked("remote key", ucx_.ucp_rkey_pack(context_, *memory, &key, &key_bytes)));
    std::string packed(static_cast<const char*>(key), key_bytes);
    ucx_.ucp_rkey_buffer_release(key);
    return packed;
  }

  UcxLibrary ucx_;
  ProbePage probe_;
  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  ucp_mem_h region_ = nullptr;
  ucp_mem_h probe_memory_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<KvExporter>> ExportUcx(std::span<std::byte> region,
                                              const KvExportOptions& options) {
  SS_TRY_ASSIGN(const UcxLibrary ucx, LoadUcx(options.ucx_library));
  SS_TRY_ASSIGN(ProbePage probe, ProbePage::Create());
  auto exporter = std::make_unique<UcxExporter>(ucx, std::move(probe));
  SS_TRY(exporter->Open(region, options.ucx_transports));
  return std::unique_ptr<KvExporter>(std::move(exporter));
}

}  // namespace shadowserve
