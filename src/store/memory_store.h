// memory://?capacity=1GiB: objects as copies in this process. For tests, drills and demos;
// everything is gone with the process.
#ifndef SHADOWSERVE_STORE_MEMORY_STORE_H_
#define SHADOWSERVE_STORE_MEMORY_STORE_H_

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "base/units.h"
#include "store/store.h"
#include "store/store_url.h"

namespace shadowserve {

struct MemoryStoreOptions {
  // Sum of object sizes; beyond it the least recently used go, a segment together with its marker.
  uint64_t capacity_bytes = kGiB;
};

Result<MemoryStoreOptions> ParseMemoryStoreUrl(const StoreUrl& url);
std::unique_ptr<Store> MakeMemoryStore(const MemoryStoreOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_MEMORY_STORE_H_
