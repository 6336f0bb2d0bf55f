// The store back ends, by URL scheme: disk, memory, Redis and its clusters (contract.md, "Store
// URLs"), and `faulty+<url>`, which wraps any of them for drills.
#ifndef SHADOWSERVE_STORE_STORE_TABLE_H_
#define SHADOWSERVE_STORE_STORE_TABLE_H_

#include <memory>
#include <string_view>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "store/store.h"

namespace shadowserve {

struct StoreOptions {
  // CPUs that kernel helpers of the store (io_uring workers) may use; empty: the caller's affinity.
  std::vector<int> cpus;
  // Where a store of servers counts what happens with them; must outlive it. Null: nowhere.
  ServerTable* servers = nullptr;
};

// kInvalidArgument names the part of the URL that is wrong (unknown scheme, unknown or bad option).
Result<std::unique_ptr<Store>> OpenStore(std::string_view url, const StoreOptions& options);
// Syntax check only, for config parsing: opens nothing.
Status CheckStoreUrl(std::string_view url);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_STORE_TABLE_H_
