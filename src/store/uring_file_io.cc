#include <fcntl.h>
#include <liburing.h>
#include <sched.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "base/check.h"
#include "base/log.h"
#include "store/file_io.h"

namespace shadowserve {
namespace {

// All there since Linux 5.11.
constexpr std::array kOpcodesNeeded = {IORING_OP_OPENAT, IORING_OP_READ,     IORING_OP_WRITE,
                                       IORING_OP_FSYNC,  IORING_OP_RENAMEAT, IORING_OP_UNLINKAT};

Status NoRing(const std::string& what) {
  return Status(StatusCode::kUnsupported, what);
}

class UringFileIo final : public FileIo {
 public:
  explicit UringFileIo(const std::vector<int>& cpus) : cpus_(cpus) {}
  ~UringFileIo() override {
    if (open_) io_uring_queue_exit(&ring_);
  }

  Status Open(uint32_t depth) {
    if (const int error = io_uring_queue_init(depth, &ring_, 0); error < 0) {
      return NoRing("io_uring: " + ErrnoText(-error));
    }
    open_ = true;
    io_uring_probe* const probe = io_uring_get_probe_ring(&ring_);
    bool complete = probe != nullptr;
    for (int opcode : kOpcodesNeeded) {
      complete = complete && io_uring_opcode_supported(probe, opcode) != 0;
    }
    io_uring_free_probe(probe);
    return complete ? OkStatus() : NoRing("io_uring: the kernel is older than 5.11");
  }

  void Start(uint32_t job, const FileOp& op) override {
    if (!adopted_) AdoptThread();
    io_uring_sqe* const sqe = io_uring_get_sqe(&ring_);
    SS_CHECK(sqe != nullptr, "a job has one operation at a time");
    Prepare(op, sqe);
    io_uring_sqe_set_data64(sqe, job);
  }

  // EAGAIN, EBUSY, EINTR: what was not taken stays queued and goes with the next Flush.
  void Flush() override {
    if (io_uring_sq_ready(&ring_) > 0) (void)io_uring_submit(&ring_);
  }

  bool HasResults() const override {
    return io_uring_cq_ready(&ring_) > 0 || io_uring_sq_ready(&ring_) > 0;
  }

  // The ring's own, not an eventfd: a worker of the kernel signals that only after its result can
  // be reaped, so a descriptor that was cleared by then would stay readable with nothing behind it.
  int fd() const override { return ring_.ring_fd; }

  size_t Reap(std::span<FileResult> results) override {
    size_t count = 0;
    io_uring_cqe* cqe = nullptr;
    while (count < results.size() && io_uring_peek_cqe(&ring_, &cqe) == 0) {
      results[count++] = {static_cast<uint32_t>(io_uring_cqe_get_data64(cqe)), cqe->res};
      io_uring_cqe_seen(&ring_, cqe);
    }
    return count;
  }

  void Wait() override {
    Flush();
    io_uring_cqe* cqe = nullptr;
    (void)io_uring_wait_cqe(&ring_, &cqe);
  }

 private:
  static void Prepare(const FileOp& op, io_uring_sqe* sqe) {
    switch (op.kind) {
      case FileOp::Kind::kOpenRead:
        io_uring_prep_openat(sqe, op.fd, op.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW, 0);
        break;
      case FileOp::Kind::kOpenWrite:
        io_uring_prep_openat(sqe, op.fd, op.path,
                             O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, kFileMode);
        break;
      case FileOp::Kind::kRead:
        io_uring_prep_read(sqe, op.fd, op.data, op.length, op.offset);
        break;
      case FileOp::Kind::kWrite:
        io_uring_prep_write(sqe, op.fd, op.data, op.length, op.offset);
        break;
      case FileOp::Kind::kSync:
        io_uring_prep_fsync(sqe, op.fd, IORING_FSYNC_DATASYNC);
        break;
      case FileOp::Kind::kRename:
        io_uring_prep_renameat(sqe, op.fd, op.path, op.fd, op.new_path, 0);
        break;
      case FileOp::Kind::kUnlink:
        io_uring_prep_unlinkat(sqe, op.fd, op.path, 0);
        break;
    }
  }

  // The kernel's workers belong to the thread that submits, and exist as a group only after its
  // first submission: so a no-op goes first, then the group is bound to the CPUs, then real work
  // starts.
  void AdoptThread() {
    adopted_ = true;
    if (cpus_.empty()) return;
    io_uring_prep_nop(io_uring_get_sqe(&ring_));
    io_uring_cqe* cqe = nullptr;
    if (io_uring_submit_and_wait(&ring_, 1) == 1 && io_uring_wait_cqe(&ring_, &cqe) == 0) {
      io_uring_cqe_seen(&ring_, cqe);
    }
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu : cpus_) {
      if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(static_cast<size_t>(cpu), &set);
    }
    if (const int error = io_uring_register_iowq_aff(&ring_, sizeof(set), &set); error < 0) {
      Log(LogLevel::kWarn, "disk store: io_uring workers are not bound to the given cpus: {}",
          ErrnoText(-error));
    }
  }

  const std::vector<int> cpus_;
  io_uring ring_ = {};
  bool open_ = false;
  bool adopted_ = false;
};

}  // namespace

Result<std::unique_ptr<FileIo>> MakeUringFileIo(uint32_t depth, const std::vector<int>& cpus) {
  auto io = std::make_unique<UringFileIo>(cpus);
  SS_TRY(io->Open(depth));
  return std::unique_ptr<FileIo>(std::move(io));
}

}  // namespace shadowserve
