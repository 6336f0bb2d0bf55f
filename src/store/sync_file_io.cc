#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/check.h"
#include "store/file_io.h"

namespace shadowserve {
namespace {

class SyncFileIo final : public FileIo {
 public:
  explicit SyncFileIo(uint32_t depth) : results_(depth) {}

  void Start(uint32_t job, const FileOp& op) override {
    SS_CHECK(count_ < results_.size(), "a job has one operation at a time");
    results_[(first_ + count_++) % results_.size()] = {job, Run(op)};
  }
  void Flush() override {}
  bool HasResults() const override { return count_ > 0; }
  int fd() const override { return -1; }
  size_t Reap(std::span<FileResult> results) override {
    const size_t count = count_ < results.size() ? count_ : results.size();
    for (size_t i = 0; i < count; ++i) results[i] = results_[(first_ + i) % results_.size()];
    first_ = (first_ + count) % results_.size();
    count_ -= count;
    return count;
  }
  void Wait() override {}

 private:
  static int32_t Run(const FileOp& op) {
    const auto offset = static_cast<off_t>(op.offset);
    ssize_t value = -1;
    switch (op.kind) {
      case FileOp::Kind::kOpenRead:
        value = openat(op.fd, op.path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        break;
      case FileOp::Kind::kOpenWrite:
        value = openat(op.fd, op.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW,
                       kFileMode);
        break;
      case FileOp::Kind::kRead:
        value = pread(op.fd, op.data, op.length, offset);
        break;
      case FileOp::Kind::kWrite:
        value = pwrite(op.fd, op.data, op.length, offset);
        break;
      case FileOp::Kind::kSync:
        value = fdatasync(op.fd);
        break;
      case FileOp::Kind::kRename:
        value = renameat(op.fd, op.path, op.fd, op.new_path);
        break;
      case FileOp::Kind::kUnlink:
        value = unlinkat(op.fd, op.path, 0);
        break;
    }
    return value < 0 ? -errno : static_cast<int32_t>(value);
  }

  std::vector<FileResult> results_;  // a ring
  size_t first_ = 0;
  size_t count_ = 0;
};

}  // namespace

std::unique_ptr<FileIo> MakeSyncFileIo(uint32_t depth) {
  return std::make_unique<SyncFileIo>(depth);
}

}  // namespace shadowserve
