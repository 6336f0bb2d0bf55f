// One life of the data plane, as seen by a session: its incarnation and, on the same host, a pidfd.
// Shared by everything that was sent to it. Immutable, thus thread-safe.
#ifndef SHADOWSERVE_CLIENT_PLANE_PROCESS_H_
#define SHADOWSERVE_CLIENT_PLANE_PROCESS_H_

#include <cstdint>
#include <memory>

#include "base/unique_fd.h"
#include "rpc/side_socket.h"

namespace shadowserve {

struct PlaneProcess {
  uint64_t incarnation = 0;
  UniqueFd pidfd;  // invalid: its end cannot be told from here

  bool HasExited() const { return pidfd.valid() && ProcessHasExited(pidfd.get()); }
};
using PlaneProcessPtr = std::shared_ptr<const PlaneProcess>;

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_PLANE_PROCESS_H_
