// Defaults that decide speed and memory, with their units and reasons. The daemon's config starts
// from them, and `shadowctl bench` measures with them.
#ifndef SHADOWSERVE_PIPELINE_TUNABLES_H_
#define SHADOWSERVE_PIPELINE_TUNABLES_H_

#include <algorithm>
#include <cstdint>

#include "base/units.h"

namespace shadowserve {

// A layer range's KV is at most 4 MiB (format/kv_layout.h); the rest holds header, block table,
// side bytes, and blocks that did not shrink.
constexpr uint64_t kSlabBytesDefault = 4 * kMiB + 256 * kKiB;
constexpr uint64_t kSlabBudgetDefault = 256 * kMiB;
constexpr double kSaveShareDefault = 0.25;
// Joins in flight.
constexpr uint32_t kJoinsInflightDefault = 64;

// How a budget is shared out: `save_share` of the slabs, at least two, for saves; the rest for
// fetches.
constexpr uint32_t SaveSlabs(uint64_t budget, uint64_t slab_bytes, double save_share) {
  const auto share = static_cast<uint64_t>(static_cast<double>(budget / slab_bytes) * save_share);
  return static_cast<uint32_t>(std::max<uint64_t>(share, 2));
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_TUNABLES_H_
