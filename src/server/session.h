// One control stream: a gRPC callback reactor that feeds Engines and writes what it sends.
//
// gRPC calls the reactor's methods on its own threads, one read and one write at a time. Send may
// come from any thread. Lives until gRPC says that the stream is done.
#ifndef SHADOWSERVE_SERVER_SESSION_H_
#define SHADOWSERVE_SERVER_SESSION_H_

#include <grpcpp/grpcpp.h>

#include <cstddef>
#include <memory>
#include <mutex>

#include "rpc/control.grpc.pb.h"
#include "server/engines.h"

namespace shadowserve {

// Makes a reactor that deletes itself; gRPC owns it from the moment it is returned.
grpc::ServerBidiReactor<v1::ClientMessage, v1::ServerMessage>* NewSession(Engines* engines);

}  // namespace shadowserve

#endif  // SHADOWSERVE_SERVER_SESSION_H_
