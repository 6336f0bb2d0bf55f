#include "flow/affinity.h"

#include <pthread.h>
#include <sched.h>

#include <cstring>

namespace shadowserve {

void NameThisThread(const std::string& name) {
  (void)pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

Status PinThisThread(std::span<const int> cpus) {
  if (cpus.empty()) return OkStatus();
  cpu_set_t set;
  CPU_ZERO(&set);
  std::string names;
  for (const int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) {
      return Status(StatusCode::kInvalidArgument, "cores: no cpu " + std::to_string(cpu));
    }
    CPU_SET(static_cast<size_t>(cpu), &set);
    names += (names.empty() ? "" : ",") + std::to_string(cpu);
  }
  if (const int error = pthread_setaffinity_np(pthread_self(), sizeof(set), &set); error != 0) {
    return Status(StatusCode::kInvalidArgument,
                  "cores: cannot run on cpus " + names + ": " + strerror(error));
  }
  return OkStatus();
}

}  // namespace shadowserve
