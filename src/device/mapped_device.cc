#include "device/mapped_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "device/stream_copy.h"
#include "device/transfer_ring.h"

namespace shadowserve {
namespace {

Status Refuse(std::string_view why) {
  return Status(StatusCode::kInvalidArgument, fmt::format("KV device 'mapped': {}", why));
}

// The engine must not be able to take memory away under our loads and stores (SIGBUS), nor make us
// allocate what it never paid for.
Status CheckMemory(const KvExport& exported) {
  const int fd = exported.memory_fd.get();
  if (fd < 0) return Refuse("no descriptor came over the side socket");
  struct stat info {};
  struct statfs system {};
  if (::fstat(fd, &info) != 0 || ::fstatfs(fd, &system) != 0) return Refuse(std::strerror(errno));
  const int seals = S_ISREG(info.st_mode) ? ::fcntl(fd, F_GET_SEALS) : -1;
  // A hugetlbfs memfd takes seals too, but faults when its pool is empty.
  if (seals < 0 || system.f_type != TMPFS_MAGIC) return Refuse("the descriptor is not a memfd");
  if ((seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_GROW) == 0) {
    return Refuse("the memfd is not sealed: F_SEAL_SHRINK and F_SEAL_GROW must be set");
  }
  const auto size = static_cast<uint64_t>(info.st_size);
  if (exported.region_bytes > size || exported.memory_offset > size - exported.region_bytes) {
    return Refuse(fmt::format("a memfd of {} bytes does not hold {} bytes at {}", size,
                              exported.region_bytes, exported.memory_offset));
  }
  if (static_cast<uint64_t>(info.st_blocks) * 512 < size) {
    return Refuse("the memfd has holes: all of it must be allocated");
  }
  return OkStatus();
}

class MappedDevice final : public CopyingDevice {
 public:
  MappedDevice(std::span<std::byte> mapping, std::span<std::byte> region)
      : CopyingDevice(region.size()), mapping_(mapping), region_(region) {}
  ~MappedDevice() override { ::munmap(mapping_.data(), mapping_.size()); }

  std::string_view kind() const override { return "mapped"; }
  std::span<std::byte> direct() const override { return region_; }

 private:
  StatusCode Move(bool write, std::span<const TransferRun> pieces) override {
    for (const TransferRun& piece : pieces) {
      std::byte* const at = region_.data() + piece.offset;
      if (write) {
        CopyPastCache(at, piece.local.data(), piece.local.size());
      } else {
        std::memcpy(piece.local.data(), at, piece.local.size());
      }
    }
    return StatusCode::kOk;
  }

  std::span<std::byte> mapping_;  // whole pages
  std::span<std::byte> region_;   // in it
};

}  // namespace

Result<std::unique_ptr<KvDevice>> OpenMappedDevice(KvExport exported) {
  SS_TRY(CheckMemory(exported));
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t in_page = exported.memory_offset % page;
  const uint64_t bytes = in_page + exported.region_bytes;
  void* const at =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
             exported.memory_fd.get(), static_cast<off_t>(exported.memory_offset - in_page));
  if (at == MAP_FAILED) return Refuse(fmt::format("mmap: {}", std::strerror(errno)));
  const std::span<std::byte> mapping(static_cast<std::byte*>(at), bytes);
  return std::unique_ptr<KvDevice>(
      new MappedDevice(mapping, mapping.subspan(in_page, exported.region_bytes)));
}

}  // namespace shadowserve
