// The control socket's door: accepts connections, asks the kernel whose they are, and hands those
// of allowed users to the gRPC server. All others go to a server of their own, which answers every
// call with PERMISSION_DENIED and one line that says why: no byte that they send reaches a session.
#ifndef SHADOWSERVE_SERVER_CONNECTION_GATE_H_
#define SHADOWSERVE_SERVER_CONNECTION_GATE_H_

#include <grpcpp/server_builder.h>

#include <memory>
#include <thread>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "rpc/unix_socket.h"

namespace shadowserve {

// Owner thread: the one that made it. Runs a thread of its own, blocked while nobody connects.
class ConnectionGate {
 public:
  // Refused connections that get an answer within one second; more are closed without one.
  static constexpr int kRefusalsPerSecond = 16;
  using Acceptor = grpc::experimental::ExternalConnectionAcceptor;

  // What the gRPC server needs to take connections from a gate. Before BuildAndStart.
  static std::unique_ptr<Acceptor> AddTo(grpc::ServerBuilder* builder);

  // `server`: of a server that was started. `clock` outlives the gate.
  static Result<std::unique_ptr<ConnectionGate>> Start(std::unique_ptr<UnixListener> listener,
                                                       AllowedUids uids,
                                                       std::unique_ptr<Acceptor> server,
                                                       const Clock* clock);
  // Takes no more connections; those handed over stay. Before the server is shut down.
  ~ConnectionGate();

 private:
  ConnectionGate(std::unique_ptr<UnixListener> listener, AllowedUids uids,
                 std::unique_ptr<Acceptor> server, const Clock* clock)
      : listener_(std::move(listener)),
        uids_(std::move(uids)),
        server_(std::move(server)),
        clock_(clock) {}
  void Run();
  // False: out of descriptors or memory; try again a little later.
  bool AcceptOne();
  void Refuse(UniqueFd connection, const PeerCredentials& who);

  const std::unique_ptr<UnixListener> listener_;
  const AllowedUids uids_;
  const std::unique_ptr<Acceptor> server_;
  const Clock* clock_;
  std::unique_ptr<grpc::CallbackGenericService> refusing_service_;
  std::unique_ptr<Acceptor> refusing_acceptor_;
  std::unique_ptr<grpc::Server> refusing_server_;
  int64_t second_began_ns_ = 0;  // of the refusals counted below
  int refusals_ = 0;
  UniqueFd stop_event_;
  std::thread thread_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_CONNECTION_GATE_H_
