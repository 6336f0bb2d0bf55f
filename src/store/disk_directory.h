// Opening a disk store's directory: lock it, make its folders, find out what it holds.
#ifndef SHADOWSERVE_STORE_DISK_DIRECTORY_H_
#define SHADOWSERVE_STORE_DISK_DIRECTORY_H_

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "store/object_index.h"

namespace shadowserve {

struct DiskDirectory {
  UniqueFd lock;  // keeps every other data plane out while open
  UniqueFd dir;   // paths of disk_layout.h are relative to it
};

struct DiskScan {
  uint64_t objects_kept = 0;
  uint64_t objects_dropped = 0;  // a segment without its marker or the reverse: a save cut short
  uint64_t temp_files_dropped = 0;
  uint64_t foreign_files = 0;  // left alone
  std::string first_foreign;
};

// Creates what is missing. kUnavailable names the directory: in use by another data plane, or the
// system's reason. A directory that cannot be written but has been used before opens all the same.
Result<DiskDirectory> OpenDiskDirectory(const std::string& path);

// Fills `index` with the directory's objects, least recently modified first; removes unfinished
// files and halves of chunks. Blocks: two system calls per file, at start only.
Status ScanDiskDirectory(const DiskDirectory& directory, ObjectIndex* index, DiskScan* scan);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_DISK_DIRECTORY_H_
