// gRPC's channel to a data plane's address and its listener there (base/address.h).
//
// Both sides turn gRPC keepalive off (a session has its own ping), take no proxy from the
// environment, and refuse messages over kMaxMessageBytes. Without `tls` who may connect is decided
// elsewhere: by the permissions of the socket file and who is behind a connection, or by the
// network. Thread-safe.
#ifndef SHADOWSERVE_RPC_CHANNEL_H_
#define SHADOWSERVE_RPC_CHANNEL_H_

#include <memory>
#include <optional>
#include <string>

#include "base/address.h"
#include "rpc/tls.h"

namespace grpc {
class Channel;
class ServerBuilder;
}  // namespace grpc

namespace shadowserve {

// As gRPC names it: "unix:/path" or "host:port".
std::string GrpcTarget(const Address& address);

// A new channel with connections of its own. It connects when it is first used; who calls paces
// reconnects by making a new one (gRPC's own backoff would add to it).
// With `tls` the data plane's certificate must hold the address's host (name or IP address).
std::shared_ptr<grpc::Channel> MakeChannel(const Address& address,
                                           const std::optional<TlsIdentity>& tls = std::nullopt);
// Adds a listener. With `tls` it takes only clients with a certificate. `bound_port` (may be null)
// receives the port after BuildAndStart: 0 = failed.
void AddListener(const Address& address, const std::optional<TlsIdentity>& tls,
                 grpc::ServerBuilder* builder, int* bound_port);

}  // namespace shadowserve

#endif  // SHADOWSERVE_RPC_CHANNEL_H_
