// How many bytes each tenant may still save: a bound on what one tenant can push out of a store
// that all share.
//
// Time is cut into windows, the same for all tenants; in each a tenant saves at most `bytes` (as
// stored, markers included). Nothing is kept about what was saved before this process began or in
// earlier windows, or about what the store dropped since. Owner thread: the pipeline's.
#ifndef SHADOWSERVE_PIPELINE_TENANT_QUOTA_H_
#define SHADOWSERVE_PIPELINE_TENANT_QUOTA_H_

#include <cstddef>
#include <cstdint>
#include <map>

#include "base/clock.h"
#include "format/tenant.h"

namespace shadowserve {

class TenantQuota {
 public:
  // Tenants told apart within one window; all further ones share one quota.
  static constexpr size_t kTenantsMax = 4096;

  struct Options {
    uint64_t bytes = 0;  // 0: no bound
    int64_t window_ns = 0;
  };
  // `clock` outlives the quota.
  TenantQuota(const Options& options, const Clock* clock) : options_(options), clock_(clock) {}

  // Nothing more of this tenant will be taken in this window.
  bool Full(const TenantId& tenant);
  // False, and nothing is taken, when it does not fit.
  bool Take(const TenantId& tenant, uint64_t bytes);
  // Of bytes that were taken and did not get into the store. A window that began meanwhile starts
  // with no credit.
  void GiveBack(const TenantId& tenant, uint64_t bytes);

 private:
  uint64_t& Used(const TenantId& tenant);

  const Options options_;
  const Clock* clock_;
  int64_t window_began_ns_ = 0;
  std::map<TenantId, uint64_t> used_;  // bytes in this window
  uint64_t used_by_others_ = 0;        // of tenants beyond kTenantsMax
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_TENANT_QUOTA_H_
