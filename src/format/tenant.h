// Who a request is for, as far as the data plane learns it: a digest of the cache salt, which never
// leaves the engine. Requests without a salt are one tenant of their own. It enters no key and no
// object: keys bind the salt itself.
#ifndef SHADOWSERVE_FORMAT_TENANT_H_
#define SHADOWSERVE_FORMAT_TENANT_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

#include "format/chunk_key.h"

namespace shadowserve {

constexpr size_t kTenantIdBytes = 16;
using TenantId = std::array<std::byte, kTenantIdBytes>;

// `salt`: empty when the request has none. The leading bytes of RootKey("tenant", salt).
inline TenantId TenantOf(std::string_view salt) {
  const std::array<std::string_view, 2> parts = {"tenant", salt};
  const Digest digest = RootKey(parts);
  TenantId tenant;
  std::copy_n(digest.begin(), tenant.size(), tenant.begin());
  return tenant;
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_TENANT_H_
