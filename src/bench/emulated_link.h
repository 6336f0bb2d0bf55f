// A store at the other end of a link: objects arrive one after another, at the link's rate. For
// benchmarks only.
#ifndef SHADOWSERVE_BENCH_EMULATED_LINK_H_
#define SHADOWSERVE_BENCH_EMULATED_LINK_H_

#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "store/store.h"

namespace shadowserve {

// What `inner` (a near store) has read arrives in the order in which it was read, byte by byte, as
// StoreRequest::arrived tells. No latency beside that, no bytes of protocol; while nothing is asked
// for the link is idle. `clock` outlives the store.
Result<std::unique_ptr<Store>> MakeLinkedStore(std::unique_ptr<Store> inner, double gigabits_per_s,
                                               const Clock* clock);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_EMULATED_LINK_H_
