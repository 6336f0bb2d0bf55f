#include "server/connection_gate.h"

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "base/log.h"
#include "flow/affinity.h"

namespace shadowserve {
namespace {

// A refused connection is closed after this, whatever its owner does with it.
constexpr int kRefusedAgeMs = 1000;
constexpr int kPauseMs = 250;
constexpr const char* kRefusal =
    "this user may not use the data plane: neither its own user, nor root, nor in its listen_uids";

class RefusingCall final : public grpc::ServerGenericBidiReactor {
 public:
  RefusingCall() { Finish(grpc::Status(grpc::StatusCode::PERMISSION_DENIED, kRefusal)); }
  void OnDone() override { delete this; }
};

class RefusingService final : public grpc::CallbackGenericService {
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
    return new RefusingCall;  // deleted in OnDone
  }
};

}  // namespace

std::unique_ptr<ConnectionGate::Acceptor> ConnectionGate::AddTo(grpc::ServerBuilder* builder) {
  // The kernel's word on who connects stands in for credentials.
  return builder->experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
}

Result<std::unique_ptr<ConnectionGate>> ConnectionGate::Start(
    std::unique_ptr<UnixListener> listener, AllowedUids uids, std::unique_ptr<Acceptor> server,
    const Clock* clock) {
  std::unique_ptr<ConnectionGate> gate(
      new ConnectionGate(std::move(listener), std::move(uids), std::move(server), clock));
  gate->stop_event_ = UniqueFd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!gate->stop_event_.valid()) {
    return Status(StatusCode::kUnavailable, "listen: cannot make an eventfd");
  }
  gate->refusing_service_ = std::make_unique<RefusingService>();
  grpc::ServerBuilder builder;
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kRefusedAgeMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, kRefusedAgeMs);
  builder.RegisterCallbackGenericService(gate->refusing_service_.get());
  gate->refusing_acceptor_ = AddTo(&builder);
  gate->refusing_server_ = builder.BuildAndStart();
  if (gate->refusing_server_ == nullptr) {
    return Status(StatusCode::kUnavailable, "listen: cannot start the server of refusals");
  }
  gate->thread_ = std::thread([raw = gate.get()] { raw->Run(); });
  return gate;
}

ConnectionGate::~ConnectionGate() {
  if (thread_.joinable()) {
    const uint64_t one = 1;
    (void)!write(stop_event_.get(), &one, sizeof(one));
    thread_.join();
  }
  if (refusing_server_ != nullptr) {
    refusing_server_->Shutdown(std::chrono::system_clock::now());
    refusing_server_->Wait();
  }
}

void ConnectionGate::Run() {
  NameThisThread("ss-gate");
  bool paused = false;
  for (;;) {
    pollfd entries[2] = {{stop_event_.get(), POLLIN, 0}, {listener_->fd(), POLLIN, 0}};
    (void)poll(entries, paused ? 1 : 2, paused ? kPauseMs : -1);
    if (entries[0].revents != 0) return;
    paused = !AcceptOne();
  }
}

bool ConnectionGate::AcceptOne() {
  UniqueFd connection(accept4(listener_->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!connection.valid()) {
    return errno == EAGAIN || errno == ECONNABORTED || errno == EINTR;
  }
  const Result<PeerCredentials> who = PeerOf(connection.get());
  if (!who.ok()) return true;  // closed
  if (!uids_.Allows(who->uid)) {
    Refuse(std::move(connection), *who);
    return true;
  }
  Acceptor::NewConnectionParameters parameters;
  parameters.listener_fd = listener_->fd();
  parameters.fd = connection.Release();
  server_->HandleNewConnection(&parameters);
  return true;
}

void ConnectionGate::Refuse(UniqueFd connection, const PeerCredentials& who) {
  const int64_t now_ns = clock_->NowNs();
  if (now_ns - second_began_ns_ >= kNsPerSecond) {
    second_began_ns_ = now_ns;
    refusals_ = 0;
  }
  if (refusals_ >= kRefusalsPerSecond) return;  // closes it
  ++refusals_;
  Log(LogLevel::kWarn, "connection refused: uid {} pid {} is not in listen_uids", who.uid, who.pid);
  Acceptor::NewConnectionParameters parameters;
  parameters.listener_fd = listener_->fd();
  parameters.fd = connection.Release();
  refusing_acceptor_->HandleNewConnection(&parameters);
}

}  // namespace shadowserve
