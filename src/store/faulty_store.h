// faulty+<url>: any store, with faults, for drills and tests.
//
// Options of the wrapper begin with "fault." and are taken out of the URL before the rest goes to
// the inner store: faulty+disk:///dir?capacity=1GiB&fault.corrupt=0.01&fault.seed=7
//   fault.fail      probability that a request completes with kUnavailable and does nothing
//   fault.drop      probability that a request is lost: a get or a question says kNotFound, a put
//   or delete says OK
//                   and does nothing
//   fault.corrupt   probability that one bit of a successful get is flipped
//   fault.truncate  probability that a successful get is shorter than the object
//   fault.delay_ms  each completion is held back this long
//   fault.seed      the same seed and the same order of accepted requests give the same faults
// Puts never change the caller's buffer, so corruption shows on gets only.
#ifndef SHADOWSERVE_STORE_FAULTY_STORE_H_
#define SHADOWSERVE_STORE_FAULTY_STORE_H_

#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "base/result.h"
#include "store/store.h"
#include "store/store_url.h"

namespace shadowserve {

struct FaultOptions {
  double fail = 0;
  double drop = 0;
  double corrupt = 0;
  double truncate = 0;
  uint64_t delay_ms = 0;
  uint64_t seed = 1;
};

// Moves the wrapper's options out of `url`; what is left is the inner store's, without "faulty+".
Result<FaultOptions> TakeFaultOptions(StoreUrl* url);
// `clock` decides when a delayed completion is due; null: a clock of its own. It must outlive the
// store.
Result<std::unique_ptr<Store>> MakeFaultyStore(std::unique_ptr<Store> inner,
                                               const FaultOptions& faults,
                                               const Clock* clock = nullptr);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_FAULTY_STORE_H_
