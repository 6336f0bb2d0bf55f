#include "pipeline/tenant_quota.h"

#include <algorithm>

namespace shadowserve {

uint64_t& TenantQuota::Used(const TenantId& tenant) {
  const int64_t now_ns = clock_->NowNs();
  if (now_ns - window_began_ns_ >= options_.window_ns) {
    window_began_ns_ = now_ns;
    used_.clear();
    used_by_others_ = 0;
  }
  const auto found = used_.find(tenant);
  if (found != used_.end()) return found->second;
  return used_.size() < kTenantsMax ? used_[tenant] : used_by_others_;
}

bool TenantQuota::Full(const TenantId& tenant) {
  return options_.bytes > 0 && Used(tenant) >= options_.bytes;
}

bool TenantQuota::Take(const TenantId& tenant, uint64_t bytes) {
  if (options_.bytes == 0) return true;
  uint64_t& used = Used(tenant);
  if (used > options_.bytes || bytes > options_.bytes - used) {
    // The tenant's end in this window: smaller objects of later chunks would leave pieces behind.
    used = options_.bytes;
    return false;
  }
  used += bytes;
  return true;
}

void TenantQuota::GiveBack(const TenantId& tenant, uint64_t bytes) {
  if (options_.bytes == 0 || bytes == 0) return;
  uint64_t& used = Used(tenant);
  used -= std::min(used, bytes);
}

}  // namespace shadowserve
