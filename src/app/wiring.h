// Puts the data plane together from its config: the only place that names concrete back ends.
#ifndef SHADOWSERVE_APP_WIRING_H_
#define SHADOWSERVE_APP_WIRING_H_

#include <memory>
#include <string>

#include "app/config.h"
#include "base/result.h"

namespace shadowserve {

// A running data plane. Start order: slabs and store, pipeline thread, side socket, control server,
// metrics; the destructor goes back the same way. Owner thread: the one that made it.
class Daemon {
 public:
  virtual ~Daemon() = default;
  // Errors name the key or address at fault. `control_path_only`: see run_daemon.h.
  static Result<std::unique_ptr<Daemon>> Start(const Config& config,
                                               bool control_path_only = false);
  // Where sessions connect, with the port that was bound.
  virtual std::string address() const = 0;
  // Takes no new sessions, lets loads under way finish (bounded), drops saves, stops all threads.
  virtual void Stop() = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_WIRING_H_
