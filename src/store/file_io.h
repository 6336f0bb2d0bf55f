// FileIo: asynchronous file operations by job number, as the disk store needs them. Two forms: a
// ring (io_uring) and plain system calls for kernels or containers that do not permit a ring.
//
// A job has at most one operation in flight, so a FileIo of depth n is never full. Start only
// queues; Flush hands everything queued to the kernel; what a Flush can do without waiting (reads
// from the page cache) is done when it returns. Paths and buffers are lent until the operation's
// result. One owner thread, but for the constructor.
#ifndef SHADOWSERVE_STORE_FILE_IO_H_
#define SHADOWSERVE_STORE_FILE_IO_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "base/result.h"

namespace shadowserve {

// Of what a disk store creates.
constexpr mode_t kDirMode = 0755;
constexpr mode_t kFileMode = 0644;

inline std::string ErrnoText(int error) {
  return std::generic_category().message(error);
}

struct FileOp {
  enum class Kind : uint8_t {
    kOpenRead,   // path below fd -> a new descriptor
    kOpenWrite,  // path below fd, created or emptied -> a new descriptor
    kRead,       // length bytes at offset -> bytes read, may be fewer
    kWrite,      // length bytes at offset -> bytes written, may be fewer
    kSync,       // fd
    kRename,     // path to new_path, both below fd
    kUnlink,     // path below fd
  };
  Kind kind = Kind::kRead;
  int fd = -1;
  const char* path = nullptr;
  const char* new_path = nullptr;
  std::byte* data = nullptr;
  uint32_t length = 0;
  uint64_t offset = 0;
};

struct FileResult {
  uint32_t job = 0;
  int32_t value = 0;  // as the system call's; errors as -errno
};

class FileIo {
 public:
  virtual ~FileIo() = default;  // REQUIRES: no operation in flight
  virtual void Start(uint32_t job, const FileOp& op) = 0;
  virtual void Flush() = 0;
  // Would Reap or Flush do something now?
  virtual bool HasResults() const = 0;
  // Readable as long as there are results of operations that Start left in flight; -1: it leaves
  // none.
  virtual int fd() const = 0;
  virtual size_t Reap(std::span<FileResult> results) = 0;
  // Blocks until there is a result. REQUIRES: an operation is in flight.
  virtual void Wait() = 0;
};

// The kernel's workers keep to `cpus`, if any are named. kUnsupported says why there can be no ring
// here.
Result<std::unique_ptr<FileIo>> MakeUringFileIo(uint32_t depth, const std::vector<int>& cpus);
// Each operation runs, and may block, in Start.
std::unique_ptr<FileIo> MakeSyncFileIo(uint32_t depth);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_FILE_IO_H_
