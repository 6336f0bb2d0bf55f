// DiskJobs: the requests that a disk store is working on, and which of them must wait for which.
//
// Requests that change the same name run in the order of their acceptance, and none of them while
// another one evicts that name: a late unlink must not take a new file away. Reads wait for nobody.
// Fixed size, no allocation. Not thread-safe.
#ifndef SHADOWSERVE_STORE_DISK_JOBS_H_
#define SHADOWSERVE_STORE_DISK_JOBS_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/unique_fd.h"
#include "store/disk_layout.h"
#include "store/store.h"

namespace shadowserve {

constexpr uint32_t kDiskQueueDepth = 64;

enum class DiskStep : uint8_t {
  kFree,
  kBlocked,    // waits for an earlier change of its name
  kOpen,       // get
  kReadReady,  // get: open, in line to be read
  kRead,
  kEvict,  // put: unlinks `victim` to make room
  kOpenTemp,
  kWrite,
  kSync,
  kPublish,
  kDropTemp,  // put: failed with `code`, unlinks its unfinished file
  kUnlink,    // delete
};

struct DiskJob {
  StoreRequest request;
  DiskStep step = DiskStep::kFree;
  StatusCode code = StatusCode::kOk;
  uint8_t attempts = 0;    // of the current step
  uint64_t sequence = 0;   // order of acceptance
  uint64_t publishes = 0;  // get: of the store, when its file was opened
  UniqueFd fd;
  uint64_t size = 0;  // of the object
  uint64_t done = 0;  // bytes of it read or written
  ObjectName victim;  // kEvict
  uint64_t victim_bytes = 0;
  DiskPath path;       // of the object or the victim
  DiskPath temp_path;  // put
};

class DiskJobs {
 public:
  DiskJobs();

  DiskJob& operator[](uint32_t id) { return jobs_[id]; }
  bool full() const { return free_count_ == 0; }
  bool idle() const { return free_count_ == kDiskQueueDepth; }
  // REQUIRES: !full().
  uint32_t Take(const StoreRequest& request);
  void Release(uint32_t id);

  // May this put or delete not run yet?
  bool MustWait(uint32_t id) const;
  // Does a put or delete of another job concern this name? Then it must not be evicted.
  bool ChangesName(const ObjectName& name, uint32_t except) const;

  // The oldest job that waits and need not; kDiskQueueDepth: none.
  uint32_t NextUnblocked() const;

 private:
  std::array<DiskJob, kDiskQueueDepth> jobs_;
  std::array<uint32_t, kDiskQueueDepth> free_;
  uint32_t free_count_ = kDiskQueueDepth;
  uint64_t next_sequence_ = 1;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_DISK_JOBS_H_
