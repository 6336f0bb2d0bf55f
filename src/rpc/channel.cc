#include "rpc/channel.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include "rpc/limits.h"

namespace shadowserve {
namespace {

constexpr int kFirstConnectMs = 50;
constexpr int kLastConnectMs = 2000;

std::shared_ptr<grpc::ChannelCredentials> ClientCredentials(const std::optional<TlsIdentity>& tls) {
  if (!tls.has_value()) return grpc::InsecureChannelCredentials();
  return grpc::SslCredentials({tls->authorities, tls->key, tls->certificates});
}

std::shared_ptr<grpc::ServerCredentials> ServerCredentials(const std::optional<TlsIdentity>& tls) {
  if (!tls.has_value()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = tls->authorities;
  options.pem_key_cert_pairs.push_back({tls->key, tls->certificates});
  return grpc::SslServerCredentials(options);
}

}  // namespace

std::string GrpcTarget(const Address& address) {
  if (!address.path.empty()) return "unix:" + address.path;
  return address.tcp.host + ":" + std::to_string(address.tcp.port);
}

std::shared_ptr<grpc::Channel> MakeChannel(const Address& address,
                                           const std::optional<TlsIdentity>& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstConnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kLastConnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLastConnectMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 0);
  return grpc::CreateCustomChannel(GrpcTarget(address), ClientCredentials(tls), arguments);
}

void AddListener(const Address& address, const std::optional<TlsIdentity>& tls,
                 grpc::ServerBuilder* builder, int* bound_port) {
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddListeningPort(GrpcTarget(address), ServerCredentials(tls), bound_port);
}

}  // namespace shadowserve
