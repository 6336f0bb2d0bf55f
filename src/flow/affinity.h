// Names and pins the calling thread. Pinning is a request: an error names the CPUs that the kernel
// refused. Threads started afterwards inherit the affinity.
#ifndef SHADOWSERVE_FLOW_AFFINITY_H_
#define SHADOWSERVE_FLOW_AFFINITY_H_

#include <span>
#include <string>

#include "base/result.h"

namespace shadowserve {

// At most 15 characters are kept (the kernel's limit).
void NameThisThread(const std::string& name);
// Empty: leaves the affinity as it is.
Status PinThisThread(std::span<const int> cpus);

}  // namespace shadowserve

#endif  // SHADOWSERVE_FLOW_AFFINITY_H_
