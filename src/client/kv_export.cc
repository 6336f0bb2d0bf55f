#include "client/kv_export.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace shadowserve {
namespace {

// The memory that exists twice while a region is moved, at most.
constexpr uint64_t kMovePieceBytes = uint64_t{64} << 20;
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // Linux 6.3
#endif

uint64_t PageBytes() {
  return static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
}

Status SystemError(std::string_view what, int error) {
  return Status(StatusCode::kUnavailable, fmt::format("{}: {}", what, std::strerror(error)));
}

struct PageRange {
  uint64_t first = 0;
  uint64_t end = 0;
  uint64_t bytes() const { return end - first; }
};

PageRange PagesUnder(std::span<const std::byte> region) {
  const uint64_t page = PageBytes();
  const auto address = reinterpret_cast<uint64_t>(region.data());
  return {address / page * page, (address + region.size() + page - 1) / page * page};
}

// Memory that may be replaced: one mapping of nothing but this process's own pages. Anything else
// (a file, shared memory, a device, a stack, memory with holes) has an owner who would notice.
Status CheckOnePrivateMapping(const PageRange& pages) {
  std::ifstream maps("/proc/self/maps");
  std::string line;
  while (std::getline(maps, line)) {
    uint64_t first = 0;
    uint64_t end = 0;
    uint64_t inode = 0;
    char rights[5] = {};
    int name_at = 0;
    if (std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s %*x %*s %" SCNu64 " %n", &first,
                    &end, rights, &inode, &name_at) != 4) {
      continue;
    }
    if (pages.first < first || pages.first >= end) continue;
    const std::string_view name = std::string_view(line).substr(static_cast<size_t>(name_at));
    const bool anonymous =
        inode == 0 && (name.empty() || name == "[heap]" || name.starts_with("[anon"));
    if (!anonymous || std::string_view(rights).substr(0, 2) != "rw" || rights[3] != 'p') {
      return Status(StatusCode::kUnsupported,
                    fmt::format("the memory is not private anonymous memory: {}", line));
    }
    if (pages.end > end) {
      return Status(StatusCode::kUnsupported,
                    fmt::format("the memory reaches beyond one mapping: {}", line));
    }
    return OkStatus();
  }
  return Status(StatusCode::kInvalidArgument, "the memory is not mapped");
}

// Sealed against shrinking: else either side could make the other's loads and stores fault.
Result<UniqueFd> MakeSealedMemory(uint64_t bytes) {
  UniqueFd memory(
      ::memfd_create("shadowserve-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL));
  if (!memory.valid() && errno == EINVAL) {  // an older kernel
    memory.Reset(::memfd_create("shadowserve-kv", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  }
  if (!memory.valid()) return SystemError("memfd_create", errno);
  if (::ftruncate(memory.get(), static_cast<off_t>(bytes)) != 0) {
    return SystemError("memfd size", errno);
  }
  if (::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return SystemError("memfd seals", errno);
  }
  return memory;
}

// Piece by piece, so that at most one piece exists twice. A failure leaves the rest private: every
// byte is where and what it was.
Status MovePagesTo(const UniqueFd& memory, const PageRange& pages) {
  for (uint64_t done = 0; done < pages.bytes();) {
    const uint64_t piece = std::min(kMovePieceBytes, pages.bytes() - done);
    auto* const at = reinterpret_cast<std::byte*>(pages.first + done);
    for (uint64_t copied = 0; copied < piece;) {
      // Unlike a store, it reports that memory has run out. The bare system call, because the rest
      // of the edge pages belongs to no object that an address sanitizer would let us read.
      const long wrote =
          ::syscall(SYS_pwrite64, memory.get(), at + copied, piece - copied, done + copied);
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote <= 0) return SystemError("copy into the memfd", wrote < 0 ? errno : ENOSPC);
      copied += static_cast<uint64_t>(wrote);
    }
    // Populated: no first store of a forward or of a load faults.
    if (::mmap(at, piece, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
               memory.get(), static_cast<off_t>(done)) == MAP_FAILED) {
      return SystemError("mmap of the memfd", errno);
    }
    done += piece;
  }
  return OkStatus();
}

class MappedExporter final : public KvExporter {
 public:
  MappedExporter(KvExportInfo info, UniqueFd memory)
      : KvExporter(std::move(info)), memory_(std::move(memory)) {}
  int memory_fd() const override { return memory_.get(); }

 private:
  UniqueFd memory_;
};

class ProcessVmExporter final : public KvExporter {
 public:
  ProcessVmExporter(KvExportInfo info, ProbePage probe)
      : KvExporter(std::move(info)), probe_(std::move(probe)) {}

  Status AllowDataPlane(pid_t pid) override { return AllowCrossMemoryAccess(pid); }

 private:
  ProbePage probe_;
};

Result<std::unique_ptr<KvExporter>> ExportKind(std::string_view kind, std::span<std::byte> region,
                                               const KvExportOptions& options) {
  if (kind == "mapped") return ExportMapped(region);
  if (kind == "process_vm") return ExportProcessVm(region);
  if (kind == "ucx") {
#ifdef SS_HAVE_UCX
    return ExportUcx(region, options);
#else
    (void)options;
    return Status(StatusCode::kUnsupported,
                  "built without UCX >= 1.22: build with -DSS_UCX_ROOT=..., or use `mapped`");
#endif
  }
  return Status(StatusCode::kInvalidArgument, "no such kind: mapped, process_vm, ucx");
}

}  // namespace

Result<std::unique_ptr<KvExporter>> ExportMapped(std::span<std::byte> region) {
  const PageRange pages = PagesUnder(region);
  SS_TRY(CheckOnePrivateMapping(pages));
  SS_TRY_ASSIGN(UniqueFd memory, MakeSealedMemory(pages.bytes()));
  SS_TRY(MovePagesTo(memory, pages));
  KvExportInfo info;
  info.kind = "mapped";
  info.region_bytes = region.size();
  info.memory_offset = reinterpret_cast<uint64_t>(region.data()) - pages.first;
  return std::unique_ptr<KvExporter>(new MappedExporter(std::move(info), std::move(memory)));
}

Result<std::unique_ptr<KvExporter>> ExportProcessVm(std::span<std::byte> region) {
  SS_TRY_ASSIGN(ProbePage probe, ProbePage::Create());
  KvExportInfo info;
  info.kind = "process_vm";
  info.region_bytes = region.size();
  info.address = reinterpret_cast<uint64_t>(region.data());
  info.probe_value = probe.value();
  info.probe_address = reinterpret_cast<uint64_t>(probe.bytes().data());
  return std::unique_ptr<KvExporter>(new ProcessVmExporter(std::move(info), std::move(probe)));
}

Status AllowCrossMemoryAccess(pid_t pid) {
  if (::access("/proc/sys/kernel/yama/ptrace_scope", F_OK) != 0) return OkStatus();
  // pid 0 would take the permission away again.
  if (pid <= 0) {
    return Status(StatusCode::kUnavailable,
                  "the data plane is in another pid namespace: share it, or use `mapped`");
  }
  if (::prctl(PR_SET_PTRACER, static_cast<unsigned long>(pid), 0, 0, 0) != 0) {
    return SystemError("PR_SET_PTRACER", errno);
  }
  return OkStatus();
}

Result<ProbePage> ProbePage::Create() {
  const uint64_t bytes = PageBytes();
  void* const at =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED) return SystemError("probe page", errno);
  ProbePage page(std::span(static_cast<std::byte*>(at), bytes));
  if (::getrandom(at, sizeof(uint64_t), 0) != static_cast<ssize_t>(sizeof(uint64_t))) {
    return SystemError("getrandom", errno);
  }
  return page;
}

ProbePage::~ProbePage() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

uint64_t ProbePage::value() const {
  uint64_t value;
  std::memcpy(&value, bytes_.data(), sizeof(value));
  return value;
}

Result<std::unique_ptr<KvExporter>> KvExporter::Create(std::span<std::byte> region,
                                                       const KvExportOptions& options) {
  if (region.empty() || options.kinds.empty()) {
    return Status(StatusCode::kInvalidArgument, "KV export: nothing to export, or no kind given");
  }
  std::string reasons;
  StatusCode code = StatusCode::kOk;
  for (const std::string& kind : options.kinds) {
    Result<std::unique_ptr<KvExporter>> exporter = ExportKind(kind, region, options);
    if (exporter.ok()) {
      (*exporter)->passed_over_ = std::move(reasons);
      return exporter;
    }
    code = exporter.status().code();
    reasons +=
        fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", kind, exporter.status().message());
  }
  return Status(code, fmt::format("KV export: {}", reasons));
}

}  // namespace shadowserve
