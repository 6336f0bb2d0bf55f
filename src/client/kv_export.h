// KvExporter: makes an engine worker's KV memory reachable by the data plane, one-sidedly.
//
//   mapped      The whole pages under the region are replaced by a memfd's, contents kept, at the
//   same
//               addresses: the engine notices nothing, the data plane maps the memfd. Needs no
//               ptrace right, works across users and pid namespaces.
//   process_vm  Nothing changes; the data plane uses the cross-memory system calls, which need the
//               ptrace right: AllowDataPlane() grants it where Yama restricts it to descendants.
//   ucx         The region is registered with UCX (>= 1.22), which is opened only then.
//
// REQUIRES, for mapped: while Create runs, no thread writes to the region or to the rest of its
// first and last page (what a copy missed would be lost). Registration, before the first forward,
// is that time; with glibc's allocator a region of more than 32 MiB shares these pages with nothing
// that anybody writes. From then on the pages are shared memory: a child that is forked, and not
// exec'ed, writes to the parent's.
//
// Destroying an exporter takes away what the data plane was given (ucx) or nothing (the others);
// the region stays valid memory of this process, as its allocator expects, in each case. A region
// can be made `mapped` once per process: keep the exporter and hand the same descriptor to a new
// data plane.
//
// Threads: one at a time.
#ifndef SHADOWSERVE_CLIENT_KV_EXPORT_H_
#define SHADOWSERVE_CLIENT_KV_EXPORT_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace shadowserve {

// What the data plane must know to reach the region; the fields of WorkerHello.
struct KvExportInfo {
  std::string kind;  // "mapped", "process_vm", "ucx"
  uint64_t region_bytes = 0;
  uint64_t memory_offset = 0;  // mapped: bytes of the memfd in front of the region's first byte
  uint64_t address = 0;        // process_vm, ucx: of the region, in this process
  std::string ucx_worker_address;
  std::string ucx_remote_key;
  uint64_t probe_value = 0;  // process_vm, ucx: random, stands at probe_address for the data plane
  uint64_t probe_address = 0;  // to find; the 8 bytes after it are its to write
};

struct KvExportOptions {
  // What to try, in this order; the first that works is used.
  std::vector<std::string> kinds = {"mapped", "process_vm"};
  // ucx: path of libucp.so.0; "" = where it was at build time, then the loader's search.
  std::string ucx_library;
  // ucx: UCX_TLS. Only transports that need no help of this process may be named.
  std::string ucx_transports = "cma,sysv,posix,self";
};

class KvExporter {
 public:
  // `region` is writable memory of this process that outlives its use by the data plane. Errors
  // join the reasons of all kinds tried. kInvalidArgument: empty region, or a kind that does not
  // exist.
  static Result<std::unique_ptr<KvExporter>> Create(std::span<std::byte> region,
                                                    const KvExportOptions& options);
  virtual ~KvExporter() = default;

  const KvExportInfo& info() const { return info_; }
  // mapped: the memfd to send over the side socket, lent; else -1.
  virtual int memory_fd() const { return -1; }
  // Names the process that will access the region (side_socket.h: data_plane_pid). Call it before
  // the hello, again for each new data plane. kUnavailable: Yama is on and the process has no name
  // here.
  virtual Status AllowDataPlane(pid_t) { return OkStatus(); }
  // Why the kinds in front of this one were passed over, for the log; "" when it was the first.
  const std::string& passed_over() const { return passed_over_; }

 protected:
  explicit KvExporter(KvExportInfo info) : info_(std::move(info)) {}

  KvExportInfo info_;
  std::string passed_over_;
};

// One maker per kind; Create calls them.
Result<std::unique_ptr<KvExporter>> ExportMapped(std::span<std::byte> region);
Result<std::unique_ptr<KvExporter>> ExportProcessVm(std::span<std::byte> region);
// Only where UCX was found at build time (kv_export_ucx.cc).
Result<std::unique_ptr<KvExporter>> ExportUcx(std::span<std::byte> region,
                                              const KvExportOptions& options);

// Lets process `pid` use ptrace's rights over this process where Yama is on. See AllowDataPlane.
Status AllowCrossMemoryAccess(pid_t pid);

// The page that probe_address points into: own, zero-filled memory, so that a put can disturb
// nothing.
class ProbePage {
 public:
  static Result<ProbePage> Create();
  ProbePage(ProbePage&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  ProbePage& operator=(ProbePage&&) = delete;
  ~ProbePage();
  std::span<std::byte> bytes() const { return bytes_; }
  uint64_t value() const;

 private:
  explicit ProbePage(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_KV_EXPORT_H_
