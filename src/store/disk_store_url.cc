#include <utility>

#include "store/disk_store.h"

namespace shadowserve {

Result<DiskStoreOptions> ParseDiskStoreUrl(const StoreUrl& url) {
  const auto bad = [](std::string what) {
    return Status(StatusCode::kInvalidArgument, "store URL: " + std::move(what));
  };
  if (!url.authority.empty()) return bad("disk has no host: write disk:///absolute/directory");
  if (url.path.empty() || url.path.find_first_not_of('/') == std::string::npos) {
    return bad("path: write disk:///absolute/directory (not the root directory)");
  }
  DiskStoreOptions options;
  options.path = url.path;
  StoreUrlOptions reader(url);
  SS_TRY(reader.TakeByteSize("capacity", &options.capacity_bytes));
  SS_TRY(reader.TakeBool("fsync", &options.fsync));
  std::string io = "auto";
  (void)reader.TakeText("io", &io);
  if (io == "uring") {
    options.io = DiskStoreOptions::Io::kUring;
  } else if (io == "sync") {
    options.io = DiskStoreOptions::Io::kSync;
  } else if (io != "auto") {
    return bad("option 'io': '" + io + "' is not auto, uring or sync");
  }
  SS_TRY(reader.RefuseRest());
  return options;
}

}  // namespace shadowserve
