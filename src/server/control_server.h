// The gRPC server: sessions (callback API, no thread of their own) and shadowctl's calls (one
// thread).
#ifndef SHADOWSERVE_SERVER_CONTROL_SERVER_H_
#define SHADOWSERVE_SERVER_CONTROL_SERVER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/address.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "pipeline/data_plane.h"
#include "rpc/tls.h"
#include "rpc/unix_socket.h"
#include "server/engines.h"

namespace shadowserve {

// What a status reply says besides what Engines and DataPlane know.
struct ServerFacts {
  std::string store;  // without secrets
  StoredForm form;
  int64_t start_ns = 0;
};

class ControlServer {
 public:
  struct Options {
    Address listen;
    // Of a Unix socket (null: TCP), and who may connect to it.
    std::unique_ptr<UnixListener> listener;
    AllowedUids uids;
    std::optional<TlsIdentity> tls;  // of TCP
  };
  // Accepts sessions. kUnavailable names the address. All pointers outlive the server.
  static Result<std::unique_ptr<ControlServer>> Start(Options options, ServerFacts facts,
                                                      Engines* engines, DataPlane* plane,
                                                      Metrics* metrics, const Clock* clock);
  virtual ~ControlServer() = default;
  // As in the options, with the port that was bound.
  virtual std::string address() const = 0;
  // Ends all sessions; at most `grace_ns` for calls under way. Idempotent.
  virtual void Stop(int64_t grace_ns) = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_CONTROL_SERVER_H_
