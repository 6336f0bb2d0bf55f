// The kinds of device, by name. One row per back end; a library that is missing takes its row away.
#include <fmt/format.h>

#include <array>

#include "device/kv_device.h"
#include "device/mapped_device.h"
#include "device/process_vm_device.h"
#ifdef SS_HAVE_UCX
#include "device/ucx_device.h"
#endif

namespace shadowserve {
namespace {

struct Row {
  std::string_view kind;
  Result<std::unique_ptr<KvDevice>> (*open)(KvExport, const KvDeviceOptions&);
};

constexpr std::array kRows = {
    Row{"mapped", [](KvExport exported,
                     const KvDeviceOptions&) { return OpenMappedDevice(std::move(exported)); }},
    Row{"process_vm",
        [](KvExport exported, const KvDeviceOptions&) {
          return OpenProcessVmDevice(std::move(exported));
        }},
#ifdef SS_HAVE_UCX
    Row{"ucx", OpenUcxDevice},
#endif
};

}  // namespace

Result<std::unique_ptr<KvDevice>> OpenKvDevice(KvExport exported, const KvDeviceOptions& options) {
  if (exported.region_bytes == 0) {
    return Status(StatusCode::kInvalidArgument, "KV device: the region is empty");
  }
  for (const Row& row : kRows) {
    if (row.kind == exported.kind) return row.open(std::move(exported), options);
  }
  if (exported.kind == "ucx") {
    return Status(StatusCode::kUnsupported,
                  "KV device 'ucx': built without UCX >= 1.22: build with -DSS_UCX_ROOT=... or let "
                  "the engine export `mapped`");
  }
  return Status(
      StatusCode::kInvalidArgument,
      fmt::format("KV device '{}': no such kind: mapped, process_vm, ucx", exported.kind));
}

}  // namespace shadowserve
