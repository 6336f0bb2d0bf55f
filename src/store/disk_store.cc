#include "store/disk_store.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <ctime>
#include <utility>

#include "base/log.h"
#include "store/completion_queue.h"
#include "store/disk_directory.h"
#include "store/disk_jobs.h"
#include "store/file_io.h"
#include "store/object_index.h"

namespace shadowserve {
namespace {

// A read whose caller follows its progress goes in pieces that, together with what becomes of them,
// stay in the L2 cache until the caller has used them.
constexpr uint32_t kPieceBytes = 256 * kKiB;
constexpr uint64_t kCopyBytesPerPoll = kPieceBytes;
constexpr uint32_t kTransferBytesMax = kGiB;  // of one operation
constexpr uint8_t kAttemptsMax = 16;          // of one operation, on EINTR, EAGAIN and lost races
constexpr int kRoundsPerPoll = 8;
constexpr time_t kUseEpochSeconds = 15 * 60;

StatusCode CodeOfReadError(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
      return StatusCode::kNotFound;
    case EIO:
      return StatusCode::kCorrupt;
    default:
      return StatusCode::kUnavailable;
  }
}

StatusCode CodeOfWriteError(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return StatusCode::kExhausted;
    default:
      return StatusCode::kUnavailable;
  }
}

// The current 15 minutes, as 16 bits, never 0.
uint16_t UseEpoch() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return static_cast<uint16_t>((now.tv_sec / kUseEpochSeconds) % UINT16_MAX + 1);
}

class DiskStore final : public Store {
 public:
  explicit DiskStore(const DiskStoreOptions& options) : options_(options) {}
  // The drain only guards against callers that break the contract: their buffers must not be
  // written once they are gone.
  ~DiskStore() override {
    while (!jobs_.idle()) {
      read_bytes_ = 0;
      Drive();
      if (!jobs_.idle() && read_queue_.empty() && !io_->HasResults()) io_->Wait();
    }
  }

  Status Open();
  size_t Submit(std::span<const StoreRequest> requests) override;
  size_t Poll(std::span<StoreCompletion> completions) override;
  int event_fd() const override { return epoll_.get(); }
  bool MayContain(const ObjectName& name) const override {
    return index_.Find(name) != ObjectIndex::kNone;
  }
  bool has_index() const override { return true; }
  Status List(const std::function<bool(const ObjectName&, uint64_t)>& visit) override;
  StoreStats Stats() const override {
    return {index_.object_count(), index_.total_bytes(), options_.capacity_bytes, evicted_objects_};
  }
  std::string Describe() const override { return "disk://" + options_.path; }

 private:
  // Jobs whose file is open and who wait for their turn to be read.
  class ReadQueue {
   public:
    bool empty() const { return count_ == 0; }
    void Push(uint32_t id) { ids_[(first_ + count_++) % kDiskQueueDepth] = id; }
    // The next to be read.
    void PushFront(uint32_t id) {
      first_ = (first_ + kDiskQueueDepth - 1) % kDiskQueueDepth;
      ids_[first_] = id;
      ++count_;
    }
    uint32_t Pop() {
      const uint32_t id = ids_[first_];
      first_ = (first_ + 1) % kDiskQueueDepth;
      --count_;
      return id;
    }

   private:
    std::array<uint32_t, kDiskQueueDepth> ids_ = {};
    uint32_t first_ = 0;
    uint32_t count_ = 0;
  };

  Status OpenIo();
  Status OpenEvents();
  bool HasWork() const;
  void Signal();
  void Drive();
  bool ReapAll();
  bool StartReads();

  void Begin(uint32_t id);
  void Advance(uint32_t id, int32_t value);
  void Finish(uint32_t id, StatusCode code, uint64_t bytes = 0);
  void StartPathOp(uint32_t id, FileOp::Kind kind, const DiskPath& path);
  bool TryAgain(DiskJob& job, int32_t value);
  bool MakeFolder(const char* path);

  void OpenToRead(uint32_t id);
  void OnOpen(uint32_t id, int32_t value);
  void StartRead(uint32_t id);
  void OnRead(uint32_t id, int32_t value);
  void NoteUse(const DiskJob& job);

  void MakeRoom(uint32_t id);
  uint32_t PickVictim(uint32_t id) const;
  void OnEvicted(uint32_t id, int32_t value);
  void OnOpenTemp(uint32_t id, int32_t value);
  void StartWrite(uint32_t id);
  void OnWrite(uint32_t id, int32_t value);
  void Publish(uint32_t id);
  void OnPublish(uint32_t id, int32_t value);
  void FailPut(uint32_t id, StatusCode code);

  const DiskStoreOptions options_;
  DiskDirectory directory_;
  UniqueFd epoll_;  // over `own_work_` and the descriptor of `io_`
  UniqueFd own_work_;
  std::unique_ptr<FileIo> io_;
  ObjectIndex index_;
  DiskJobs jobs_;
  ReadQueue read_queue_;
  CompletionQueue<kDiskQueueDepth> ready_;
  uint32_t outstanding_ = 0;      // accepted requests whose completion was not handed out yet
  uint64_t reserved_bytes_ = 0;   // of puts that have their room
  uint64_t unlinking_bytes_ = 0;  // of victims on their way out
  uint64_t read_bytes_ = 0;       // read in this Poll
  uint64_t publishes_ = 0;
  uint64_t evicted_objects_ = 0;
  bool signalled_ = false;  // own_work_ is readable
};

Status DiskStore::OpenIo() {
  if (options_.io != DiskStoreOptions::Io::kSync) {
    Result<std::unique_ptr<FileIo>> ring = MakeUringFileIo(kDiskQueueDepth, options_.cpus);
    if (ring.ok()) {
      io_ = std::move(ring).value();
      return OkStatus();
    }
    if (options_.io == DiskStoreOptions::Io::kUring) return std::move(ring).status();
    Log(LogLevel::kWarn, "disk store {}: reads and writes block ({})", options_.path,
        ring.status().message());
  }
  io_ = MakeSyncFileIo(kDiskQueueDepth);
  return OkStatus();
}

Status DiskStore::OpenEvents() {
  own_work_ = UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_ = UniqueFd(epoll_create1(EPOLL_CLOEXEC));
  bool complete = true;
  for (const int fd : {own_work_.get(), io_->fd()}) {
    epoll_event event = {EPOLLIN, {}};
    complete = complete && (fd < 0 || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) == 0);
  }
  if (complete && own_work_.valid()) return OkStatus();
  return Status(StatusCode::kUnavailable, "disk store: no eventfd or epoll");
}

Status DiskStore::Open() {
  SS_TRY_ASSIGN(directory_, OpenDiskDirectory(options_.path));
  DiskScan scan;
  SS_TRY(ScanDiskDirectory(directory_, &index_, &scan).WithContext(options_.path));
  if (scan.foreign_files > 0) {
    Log(LogLevel::kWarn,
        "disk store {}: {} files that are no objects are left alone, the first is {}",
        options_.path, scan.foreign_files, scan.first_foreign);
  }
  while (index_.total_bytes() > options_.capacity_bytes) {
    const uint32_t victim = index_.NextVictim(index_.oldest());
    (void)unlinkat(directory_.dir.get(), ObjectPath(index_.name(victim)).c_str(), 0);
    index_.Erase(victim);
    ++evicted_objects_;
  }
  Log(LogLevel::kInfo, "disk store {}: objects {} bytes {} capacity {} dropped {} unfinished {}",
      options_.path, index_.object_count(), index_.total_bytes(),
      FormatByteSize(options_.capacity_bytes), scan.objects_dropped, scan.temp_files_dropped);
  SS_TRY(OpenIo());
  return OpenEvents();
}

size_t DiskStore::Submit(std::span<const StoreRequest> requests) {
  size_t accepted = 0;
  while (accepted < requests.size() && outstanding_ < kDiskQueueDepth) {
    const uint32_t id = jobs_.Take(requests[accepted++]);
    ++outstanding_;
    if (IsChange(requests[accepted - 1].op) && jobs_.MustWait(id)) {
      jobs_[id].step = DiskStep::kBlocked;
    } else {
      Begin(id);
    }
  }
  io_->Flush();
  if (!ready_.empty() || io_->HasResults()) Signal();
  return accepted;
}

size_t DiskStore::Poll(std::span<StoreCompletion> completions) {
  read_bytes_ = 0;
  Drive();
  const size_t count = ready_.PopInto(completions);
  outstanding_ -= static_cast<uint32_t>(count);
  if (HasWork()) {
    Signal();
  } else if (signalled_) {
    uint64_t ignored = 0;
    (void)!read(own_work_.get(), &ignored, sizeof(ignored));
    signalled_ = false;
  }
  return count;
}

bool DiskStore::HasWork() const {
  return !ready_.empty() || !read_queue_.empty() || io_->HasResults();
}

// While there is work the descriptor stays readable, so a busy caller pays for no system call.
void DiskStore::Signal() {
  if (signalled_) return;
  const uint64_t one = 1;
  (void)!write(own_work_.get(), &one, sizeof(one));
  signalled_ = true;
}

void DiskStore::Drive() {
  for (int round = 0; round < kRoundsPerPoll; ++round) {
    bool progress = ReapAll();
    io_->Flush();
    progress = StartReads() || progress;
    if (!progress) return;
  }
  io_->Flush();
}

bool DiskStore::ReapAll() {
  std::array<FileResult, kDiskQueueDepth> results;
  const size_t count = io_->Reap(results);
  for (const FileResult& result : std::span(results).first(count)) {
    Advance(result.job, result.value);
  }
  return count > 0;
}

// A read from the page cache copies inside Flush. After kCopyBytesPerPoll of that the rest has to
// wait for the next Poll; reads that wait for the disk do not count and are all started.
bool DiskStore::StartReads() {
  bool progress = false;
  while (!read_queue_.empty() && read_bytes_ < kCopyBytesPerPoll) {
    StartRead(read_queue_.Pop());
    io_->Flush();
    ReapAll();
    progress = true;
  }
  return progress;
}

void DiskStore::Begin(uint32_t id) {
  DiskJob& job = jobs_[id];
  const ObjectName& name = job.request.name;
  const uint32_t entry = index_.Find(name);
  if (job.request.op == StoreOp::kPut) {
    if (job.size > options_.capacity_bytes) return Finish(id, StatusCode::kExhausted);
    // A segment must not make room for its own marker.
    const uint32_t segment = index_.Find(name.AsKind(ObjectKind::kSegment));
    if (segment != ObjectIndex::kNone) index_.Touch(segment);
    return MakeRoom(id);
  }
  const bool get = job.request.op == StoreOp::kGet;
  if (job.request.op == StoreOp::kExists) {
    return Finish(id, entry == ObjectIndex::kNone ? StatusCode::kNotFound : StatusCode::kOk);
  }
  if (entry == ObjectIndex::kNone) {
    return Finish(id, get ? StatusCode::kNotFound : StatusCode::kOk);
  }
  job.path = ObjectPath(name);
  if (get) {
    index_.Touch(entry);
    return OpenToRead(id);
  }
  index_.Erase(entry);
  job.step = DiskStep::kUnlink;
  StartPathOp(id, FileOp::Kind::kUnlink, job.path);
}

void DiskStore::Advance(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  switch (job.step) {
    case DiskStep::kOpen:
      return OnOpen(id, value);
    case DiskStep::kRead:
      return OnRead(id, value);
    case DiskStep::kEvict:
      return OnEvicted(id, value);
    case DiskStep::kOpenTemp:
      return OnOpenTemp(id, value);
    case DiskStep::kWrite:
      return OnWrite(id, value);
    case DiskStep::kSync:
      return value < 0 ? FailPut(id, CodeOfWriteError(-value)) : Publish(id);
    case DiskStep::kPublish:
      return OnPublish(id, value);
    case DiskStep::kDropTemp:
      return Finish(id, job.code);
    case DiskStep::kUnlink:
      return Finish(id,
                    value == 0 || value == -ENOENT ? StatusCode::kOk : StatusCode::kUnavailable);
    case DiskStep::kFree:
    case DiskStep::kBlocked:
    case DiskStep::kReadReady:
      break;
  }
  SS_CHECK(false, "a result without its operation");
}

void DiskStore::Finish(uint32_t id, StatusCode code, uint64_t bytes) {
  DiskJob& job = jobs_[id];
  job.fd.Reset();
  ready_.Push({job.request.user_data, code, bytes});
  const bool change = IsChange(job.request.op);
  jobs_.Release(id);
  if (!change) return;
  const uint32_t next = jobs_.NextUnblocked();
  if (next != kDiskQueueDepth) Begin(next);
}

void DiskStore::StartPathOp(uint32_t id, FileOp::Kind kind, const DiskPath& path) {
  io_->Start(id, {.kind = kind, .fd = directory_.dir.get(), .path = path.c_str()});
}

bool DiskStore::TryAgain(DiskJob& job, int32_t value) {
  return (value == -EINTR || value == -EAGAIN) && ++job.attempts < kAttemptsMax;
}

// True when the folder is there now; another put may have made it a moment ago.
bool DiskStore::MakeFolder(const char* path) {
  return mkdirat(directory_.dir.get(), path, kDirMode) == 0 || errno == EEXIST;
}

void DiskStore::OpenToRead(uint32_t id) {
  DiskJob& job = jobs_[id];
  job.step = DiskStep::kOpen;
  job.publishes = publishes_;
  StartPathOp(id, FileOp::Kind::kOpenRead, job.path);
}

void DiskStore::OnOpen(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  if (TryAgain(job, value)) return OpenToRead(id);
  if (value < 0) {
    const StatusCode code = CodeOfReadError(-value);
    if (code != StatusCode::kNotFound) return Finish(id, code);
    // Gone. If something was published meanwhile it may be this very name: look again, or the index
    // would lose a file that exists.
    if (job.publishes != publishes_ && ++job.attempts < kAttemptsMax) return OpenToRead(id);
    const uint32_t entry = index_.Find(job.request.name);
    if (entry != ObjectIndex::kNone && job.publishes == publishes_) index_.Erase(entry);
    return Finish(id, code);
  }
  job.fd.Reset(value);
  struct stat info = {};
  if (fstat(value, &info) != 0 || !S_ISREG(info.st_mode)) return Finish(id, StatusCode::kCorrupt);
  job.size = static_cast<uint64_t>(info.st_size);
  if (job.size > job.request.buffer.size()) return Finish(id, StatusCode::kCorrupt, job.size);
  if (job.size == 0) return Finish(id, StatusCode::kOk);
  job.step = DiskStep::kReadReady;
  job.attempts = 0;
  read_queue_.Push(id);
}

void DiskStore::StartRead(uint32_t id) {
  DiskJob& job = jobs_[id];
  job.step = DiskStep::kRead;
  const uint64_t most = job.request.arrived != nullptr ? kPieceBytes : kTransferBytesMax;
  io_->Start(id, {.kind = FileOp::Kind::kRead,
                  .fd = job.fd.get(),
                  .data = job.request.buffer.data() + job.done,
                  .length = static_cast<uint32_t>(std::min(job.size - job.done, most)),
                  .offset = job.done});
}

void DiskStore::OnRead(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  if (TryAgain(job, value)) return StartRead(id);
  if (value < 0) return Finish(id, CodeOfReadError(-value));
  if (value == 0) return Finish(id, StatusCode::kCorrupt);  // became shorter under our hands
  job.attempts = 0;
  job.done += static_cast<uint64_t>(value);
  read_bytes_ += static_cast<uint64_t>(value);
  if (job.request.arrived != nullptr) *job.request.arrived = job.done;
  if (job.done < job.size) {
    // Its next piece goes first, but not before the caller had its turn.
    job.step = DiskStep::kReadReady;
    return read_queue_.PushFront(id);
  }
  NoteUse(job);
  Finish(id, StatusCode::kOk, job.size);
}

void DiskStore::NoteUse(const DiskJob& job) {
  const uint32_t entry = index_.Find(job.request.name);
  const uint16_t now = UseEpoch();
  if (entry == ObjectIndex::kNone || index_.mark(entry) == now) return;
  index_.set_mark(entry, now);
  (void)futimens(job.fd.get(), nullptr);
}

// The oldest object that may go; kNone: there is none. Looks past at most as many objects as there
// are jobs, since only jobs keep objects in place.
uint32_t DiskStore::PickVictim(uint32_t id) const {
  for (uint32_t at = index_.oldest(); at != ObjectIndex::kNone; at = index_.newer(at)) {
    const uint32_t victim = index_.NextVictim(at);
    if (!jobs_.ChangesName(index_.name(victim), id)) return victim;
  }
  return ObjectIndex::kNone;
}

// Bytes of victims count until they are unlinked, so the directory never exceeds the capacity, and
// puts side by side do not evict twice for the same room.
void DiskStore::MakeRoom(uint32_t id) {
  DiskJob& job = jobs_[id];
  if (index_.total_bytes() + unlinking_bytes_ + reserved_bytes_ + job.size <=
      options_.capacity_bytes) {
    reserved_bytes_ += job.size;
    job.step = DiskStep::kOpenTemp;
    return StartPathOp(id, FileOp::Kind::kOpenWrite, job.temp_path);
  }
  const uint32_t victim = PickVictim(id);
  if (victim == ObjectIndex::kNone) return Finish(id, StatusCode::kExhausted);
  job.victim = index_.name(victim);
  job.victim_bytes = index_.bytes(victim);
  job.path = ObjectPath(job.victim);
  index_.Erase(victim);
  unlinking_bytes_ += job.victim_bytes;
  job.step = DiskStep::kEvict;
  StartPathOp(id, FileOp::Kind::kUnlink, job.path);
}

void DiskStore::OnEvicted(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  unlinking_bytes_ -= job.victim_bytes;
  job.step = DiskStep::kBlocked;  // no longer in the way of a change of the victim's name
  if (value == 0 || value == -ENOENT) {
    ++evicted_objects_;
    MakeRoom(id);
  } else {
    // It is still there, and a directory that cannot be written goes on serving reads.
    (void)index_.Insert(job.victim, job.victim_bytes);
    Finish(id, CodeOfWriteError(-value));
  }
  const uint32_t next = jobs_.NextUnblocked();
  if (next != kDiskQueueDepth) Begin(next);
}

void DiskStore::OnOpenTemp(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  const bool made = value == -ENOENT && ++job.attempts == 1 && MakeFolder(kDiskTempDir);
  if (made || TryAgain(job, value)) {
    return StartPathOp(id, FileOp::Kind::kOpenWrite, job.temp_path);
  }
  if (value < 0) {
    reserved_bytes_ -= job.size;
    return Finish(id, CodeOfWriteError(-value));
  }
  job.fd.Reset(value);
  job.attempts = 0;
  StartWrite(id);
}

void DiskStore::StartWrite(uint32_t id) {
  DiskJob& job = jobs_[id];
  if (job.done == job.size) {
    if (!options_.fsync) return Publish(id);
    job.step = DiskStep::kSync;
    return io_->Start(id, {.kind = FileOp::Kind::kSync, .fd = job.fd.get()});
  }
  job.step = DiskStep::kWrite;
  io_->Start(
      id,
      {.kind = FileOp::Kind::kWrite,
       .fd = job.fd.get(),
       .data = job.request.buffer.data() + job.done,
       .length = static_cast<uint32_t>(std::min<uint64_t>(job.size - job.done, kTransferBytesMax)),
       .offset = job.done});
}

void DiskStore::OnWrite(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  if (TryAgain(job, value)) return StartWrite(id);
  if (value <= 0) return FailPut(id, CodeOfWriteError(value == 0 ? ENOSPC : -value));
  job.attempts = 0;
  job.done += static_cast<uint64_t>(value);
  StartWrite(id);
}

void DiskStore::Publish(uint32_t id) {
  DiskJob& job = jobs_[id];
  job.fd.Reset();
  job.path = ObjectPath(job.request.name);
  job.step = DiskStep::kPublish;
  io_->Start(id, {.kind = FileOp::Kind::kRename,
                  .fd = directory_.dir.get(),
                  .path = job.temp_path.c_str(),
                  .new_path = job.path.c_str()});
}

void DiskStore::OnPublish(uint32_t id, int32_t value) {
  DiskJob& job = jobs_[id];
  if (TryAgain(job, value)) return Publish(id);
  const uint32_t shard = std::to_integer<uint32_t>(job.request.name.key[0]);
  if (value == -ENOENT && ++job.attempts == 1 && MakeFolder(ShardPath(shard).c_str())) {
    return Publish(id);
  }
  if (value < 0) return FailPut(id, CodeOfWriteError(-value));
  reserved_bytes_ -= job.size;
  ++publishes_;
  const uint32_t entry = index_.Insert(job.request.name, job.size);
  if (entry != ObjectIndex::kNone) index_.set_mark(entry, UseEpoch());
  Finish(id, StatusCode::kOk);
}

void DiskStore::FailPut(uint32_t id, StatusCode code) {
  DiskJob& job = jobs_[id];
  reserved_bytes_ -= job.size;
  job.fd.Reset();
  job.code = code;
  job.step = DiskStep::kDropTemp;
  StartPathOp(id, FileOp::Kind::kUnlink, job.temp_path);
}

Status DiskStore::List(const std::function<bool(const ObjectName&, uint64_t)>& visit) {
  for (uint32_t id = index_.oldest(); id != ObjectIndex::kNone; id = index_.newer(id)) {
    if (!visit(index_.name(id), index_.bytes(id))) break;
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Store>> OpenDiskStore(const DiskStoreOptions& options) {
  auto store = std::make_unique<DiskStore>(options);
  SS_TRY(store->Open());
  return std::unique_ptr<Store>(std::move(store));
}

}  // namespace shadowserve
