// Where a disk store keeps things, below its directory:
//
//   ab/<64 hex digits of the chain
//   key>.<profile>.<codec>.l<first>+<count>.h<group>of<groups>.<seg|mark>
//             an object; ab = the first two digits. It is the name of format/object_name.h without
//             "ss1:{" and "}", and with '.' in place of ':'
//   tmp/ss1-<number>.part    an object being written; renamed into place when it is complete
//   lock                     held by flock while a data plane uses the directory
//
// All functions are pure and thread-safe.
#ifndef SHADOWSERVE_STORE_DISK_LAYOUT_H_
#define SHADOWSERVE_STORE_DISK_LAYOUT_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "format/object_name.h"

namespace shadowserve {

inline constexpr char kDiskTempDir[] = "tmp";
inline constexpr char kDiskLockFile[] = "lock";
constexpr uint32_t kDiskShards = 256;

// A path below the store's directory, with its final zero; on the stack, since one is made per
// request.
struct DiskPath {
  static constexpr size_t kBytesMax = 160;
  std::array<char, kBytesMax> text = {};

  const char* c_str() const { return text.data(); }
  std::string_view view() const { return text.data(); }
};

DiskPath ObjectPath(const ObjectName& name);
DiskPath TempPath(uint32_t number);
DiskPath ShardPath(uint32_t shard);  // REQUIRES: shard < kDiskShards

// The exact inverses; kInvalidArgument for every other text.
Result<ObjectName> ParseObjectPath(std::string_view shard, std::string_view file);
bool IsTempFile(std::string_view file);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_DISK_LAYOUT_H_
