// disk:///dir?capacity=10GiB: one file per object (disk_layout.h), capacity-bounded.
//
// Options of the URL:
//   capacity  sum of object sizes, 10GiB unless given. What the file system adds (directories, last
//             blocks) comes on top. Beyond it the least recently used objects go
//   fsync     1: a put's contents reach the disk before its name does. 0, the default: a power loss
//             may leave torn or empty files under valid names; their checksums fail and they count
//             as misses, so a cache gains nothing from paying for fsync
//   io        auto (default), uring or sync. auto takes io_uring where the kernel and the container
//             permit it and plain system calls, with one warning, where they do not
//
// Reads go from the page cache or the disk straight into the caller's buffer. Nothing is allocated
// per request but the index entry of a new object. A poll starts no more reads once it has copied
// 256 KiB out of the page cache, so that the first object of many is delivered early; a read whose
// caller follows its progress (StoreRequest::arrived) goes in pieces of that size.
//
// Blocking: Submit and Poll wait for no disk with io_uring, but for closing a file, making each of
// the 256 folders once and, per object at most every 15 minutes, noting its use in its modification
// time (the LRU order of the next start). With io=sync every operation blocks.
//
// Errors beside those of store.h: no space, quota or file size limit, or an object above the
// capacity: kExhausted; no permission, read-only or vanished directory: kUnavailable. Reads go on
// in all cases. Files may be deleted by others at any time: a miss. The directory belongs to one
// data plane (flock). A delete that the system refuses leaves a file that the next start finds
// again.
#ifndef SHADOWSERVE_STORE_DISK_STORE_H_
#define SHADOWSERVE_STORE_DISK_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/units.h"
#include "store/store.h"
#include "store/store_url.h"

namespace shadowserve {

struct DiskStoreOptions {
  enum class Io : uint8_t { kAuto, kUring, kSync };
  std::string path;  // absolute
  uint64_t capacity_bytes = 10 * kGiB;
  bool fsync = false;
  Io io = Io::kAuto;
  std::vector<int> cpus;  // for the kernel's workers; empty: the caller's affinity
};

Result<DiskStoreOptions> ParseDiskStoreUrl(const StoreUrl& url);
// Blocks while it scans the directory. Errors: disk_directory.h; kUnsupported: io=uring and no
// ring.
Result<std::unique_ptr<Store>> OpenDiskStore(const DiskStoreOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_DISK_STORE_H_
