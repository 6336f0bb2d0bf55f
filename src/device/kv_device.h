// KvDevice: one engine rank's registered KV memory as the data plane sees it. Reads and writes are
// one-sided: the engine process takes no part in them, copies nothing and progresses nothing.
//
// Two kinds of access, told apart by direct():
//  * direct: the region is mapped here; the caller loads and stores it itself (device `mapped`);
//  * by transfer: Submit moves runs between local memory and the region (`process_vm`, `ucx`).
// Submit/Poll follow the project's shape: Submit accepts a prefix and moves nothing; Poll does the
// moving, at most about 4 MiB per call, and must be called until everything came back. Every
// accepted transfer completes exactly once, in the order of submission; local memory and runs are
// lent until then. Offsets are checked against the region's size: kInvalidArgument in the
// completion, nothing moved. kUnavailable: the engine is gone, or a transfer made no progress for
// seconds (`mapped` outlives the engine: its memory stays, and writes to it go nowhere). After a
// failure part of a transfer may be in place, but nothing moves any more.
//
// Owner thread: one (the pipeline's). Destroying a device unmaps / closes it: REQUIRES no direct
// access. Transfers in flight are stopped before the destructor returns; they get no completion.
#ifndef SHADOWSERVE_DEVICE_KV_DEVICE_H_
#define SHADOWSERVE_DEVICE_KV_DEVICE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/unique_fd.h"

namespace shadowserve {

struct TransferRun {
  uint64_t offset = 0;         // into the region
  std::span<std::byte> local;  // write: only read; read: written
};

struct Transfer {
  bool write = true;                  // true: local -> region; false: region -> local
  std::span<const TransferRun> runs;  // lent until completion
  uint64_t user_data = 0;
};

struct TransferCompletion {
  uint64_t user_data = 0;
  StatusCode code = StatusCode::kOk;
};

class KvDevice {
 public:
  virtual ~KvDevice() = default;
  virtual std::string_view kind() const = 0;  // "mapped", "process_vm", "ucx"
  virtual uint64_t region_bytes() const = 0;
  // The mapped region, or empty.
  virtual std::span<std::byte> direct() const = 0;
  virtual size_t Submit(std::span<const Transfer> transfers) = 0;
  virtual size_t Poll(std::span<TransferCompletion> completions) = 0;
};

// What an engine worker exports (client/kv_export.h makes it; it travels over the side socket and
// in the Register message).
struct KvExport {
  std::string kind;  // "mapped", "process_vm", "ucx"
  uint64_t region_bytes = 0;
  UniqueFd memory_fd;  // mapped: the memfd behind the region (mapped at offset memory_offset)
  uint64_t memory_offset = 0;  // bytes of the memfd in front of the region's first byte
  pid_t pid = 0;               // process_vm: the engine worker, as the kernel told (SO_PEERCRED)
  uint64_t address = 0;        // process_vm, ucx: the region's address in the engine worker
  std::string ucx_worker_address;
  std::string ucx_remote_key;
  uint64_t probe_value = 0;    // stands in the worker's memory at probe_address: read at attach to
  uint64_t probe_address = 0;  // prove that access is allowed and truly one-sided
};

struct KvDeviceOptions {
  // ucx: path of libucp.so.0; "" = where it was at build time, then the loader's search.
  std::string ucx_library;
  // ucx: UCX_TLS. Whatever is named here, a probe decides whether it is one-sided.
  std::string ucx_transports = "cma,sysv,posix,self";
};

// Opens and probes; takes up to 0.1 s per GiB (mapped) or 0.5 s (ucx). Everything in `exported` but
// pid is the engine's word and is checked. Errors name the remedy: kUnsupported (transport not
// one-sided, UCX too old or not built), kUnavailable (ptrace not permitted, other pid namespace,
// process gone), kInvalidArgument.
Result<std::unique_ptr<KvDevice>> OpenKvDevice(KvExport exported,
                                               const KvDeviceOptions& options = {});

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_KV_DEVICE_H_
