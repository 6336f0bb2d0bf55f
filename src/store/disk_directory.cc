#include "store/disk_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "store/disk_layout.h"
#include "store/file_io.h"

namespace shadowserve {
namespace {

Status Unavailable(const std::string& path, const std::string& what) {
  return Status(StatusCode::kUnavailable, "store directory '" + path + "': " + what);
}

// Calls visit(name, type) for each entry of `path` below `dir` but "." and "..".
template <typename Visit>
Status ForEachEntry(int dir, const char* path, Visit visit) {
  UniqueFd fd(openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd.valid()) {
    if (errno == ENOENT) return OkStatus();
    return Status(StatusCode::kUnavailable, std::string(path) + ": " + ErrnoText(errno));
  }
  const auto close_dir = [](DIR* stream) { closedir(stream); };
  const std::unique_ptr<DIR, decltype(close_dir)> stream(fdopendir(fd.get()), close_dir);
  if (stream == nullptr) {
    return Status(StatusCode::kUnavailable, std::string(path) + ": " + ErrnoText(errno));
  }
  (void)fd.Release();  // the stream closes it
  while (const dirent* entry = readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") visit(name, entry->d_type);
  }
  return OkStatus();
}

void CountForeign(std::string_view folder, std::string_view file, DiskScan* scan) {
  if (scan->foreign_files++ == 0) {
    scan->first_foreign = std::string(folder) + (folder.empty() ? "" : "/") + std::string(file);
  }
}

struct FoundObject {
  int64_t modified_ns;
  uint32_t id;
};

class Scanner {
 public:
  Scanner(int dir, ObjectIndex* index, DiskScan* scan) : dir_(dir), index_(index), scan_(scan) {}

  Status Run() {
    SS_TRY(ScanTop());
    SS_TRY(ForEachEntry(dir_, kDiskTempDir, [this](std::string_view file, unsigned char) {
      if (!IsTempFile(file)) return CountForeign(kDiskTempDir, file, scan_);
      const std::string path = std::string(kDiskTempDir) + "/" + std::string(file);
      if (unlinkat(dir_, path.c_str(), 0) == 0) ++scan_->temp_files_dropped;
    }));
    for (uint32_t shard = 0; shard < kDiskShards; ++shard) {
      const DiskPath folder = ShardPath(shard);
      SS_TRY(ForEachEntry(dir_, folder.c_str(), [&](std::string_view file, unsigned char) {
        AddFile(folder.view(), file);
      }));
    }
    std::ranges::stable_sort(found_, {}, &FoundObject::modified_ns);
    for (const FoundObject& object : found_) index_->Touch(object.id);
    DropHalves();
    scan_->objects_kept = index_->object_count();
    return OkStatus();
  }

 private:
  Status ScanTop() {
    return ForEachEntry(dir_, ".", [this](std::string_view name, unsigned char) {
      const bool shard = name.size() == 2 && std::ranges::all_of(name, [](char c) {
                           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                         });
      if (!shard && name != kDiskTempDir && name != kDiskLockFile) CountForeign("", name, scan_);
    });
  }

  void AddFile(std::string_view folder, std::string_view file) {
    const Result<ObjectName> name = ParseObjectPath(folder, file);
    struct stat info = {};
    if (!name.ok() || fstatat(dir_, ObjectPath(*name).c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(info.st_mode)) {
      return CountForeign(folder, file, scan_);
    }
    const uint32_t id = index_->Insert(*name, static_cast<uint64_t>(info.st_size));
    if (id == ObjectIndex::kNone) return;
    found_.push_back({info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec, id});
  }

  // A crash between the two puts of a chunk's part leaves one of them. Nobody can use it.
  void DropHalves() {
    for (const FoundObject& object : found_) {
      const ObjectName name = index_->name(object.id);
      const ObjectKind other =
          name.kind == ObjectKind::kMarker ? ObjectKind::kSegment : ObjectKind::kMarker;
      if (index_->Find(name.AsKind(other)) != ObjectIndex::kNone) continue;
      (void)unlinkat(dir_, ObjectPath(name).c_str(), 0);
      index_->Erase(object.id);
      ++scan_->objects_dropped;
    }
  }

  int dir_;
  ObjectIndex* index_;
  DiskScan* scan_;
  std::vector<FoundObject> found_;
};

Result<UniqueFd> TakeLock(const std::string& path, int dir) {
  UniqueFd lock(openat(dir, kDiskLockFile, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, kFileMode));
  if (!lock.valid() && (errno == EACCES || errno == EROFS)) {
    // A directory that became read-only can still serve what it holds.
    lock = UniqueFd(openat(dir, kDiskLockFile, O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  }
  if (!lock.valid()) return Unavailable(path, "cannot create its lock file: " + ErrnoText(errno));
  while (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) return Unavailable(path, "in use by another data plane");
    return Unavailable(path, "cannot lock it: " + ErrnoText(errno));
  }
  return lock;
}

}  // namespace

Result<DiskDirectory> OpenDiskDirectory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  DiskDirectory directory;
  directory.dir = UniqueFd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.dir.valid()) {
    return Unavailable(path, error ? "cannot create it: " + error.message() : ErrnoText(errno));
  }
  const int dir = directory.dir.get();
  SS_TRY_ASSIGN(directory.lock, TakeLock(path, dir));
  // The first put reports it when this fails. Shard folders are made by the first put into each.
  (void)mkdirat(dir, kDiskTempDir, kDirMode);
  return directory;
}

Status ScanDiskDirectory(const DiskDirectory& directory, ObjectIndex* index, DiskScan* scan) {
  return Scanner(directory.dir.get(), index, scan).Run();
}

}  // namespace shadowserve
