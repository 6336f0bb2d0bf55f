#include "client/fake_plane_test.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_context.h>
#include <poll.h>

#include <chrono>
#include <filesystem>
#include <set>
#include <thread>

#include "rpc/channel.h"
#include "rpc/control.grpc.pb.h"

namespace shadowserve {
namespace {

constexpr std::chrono::seconds kPatience(30);
using ServerStream = grpc::ServerReaderWriter<v1::ServerMessage, v1::ClientMessage>;

struct Connection {
  grpc::ServerContext* context;
  ServerStream* stream;
};

}  // namespace

class FakePlane::Service final : public v1::Control::Service {
 public:
  Service(FakePlane* plane, Script script) : plane_(plane), script_(std::move(script)) {}

  grpc::Status Session(grpc::ServerContext* context, ServerStream* stream) override {
    v1::ClientMessage hello;
    if (!stream->Read(&hello)) return grpc::Status::OK;
    if (!script_.deny.empty()) return {grpc::StatusCode::PERMISSION_DENIED, script_.deny};
    v1::ServerMessage reply;
    reply.mutable_hello_reply()->set_status(script_.refuse_status);
    reply.mutable_hello_reply()->set_message(script_.refuse_message);
    reply.mutable_hello_reply()->set_incarnation(script_.incarnation);
    reply.mutable_hello_reply()->set_side_socket(script_.side_socket);
    const auto connection = std::make_shared<Connection>(Connection{context, stream});
    {
      const std::lock_guard lock(plane_->mu_);
      stream->Write(reply);
      if (script_.refuse_status != 0) return grpc::Status::OK;
      connections_.insert(connection);
      plane_->received_.push_back(hello);
      ++plane_->hellos_;
    }
    plane_->changed_.notify_all();
    if (script_.read) {
      ReadAll(stream);
    } else {
      std::unique_lock lock(plane_->mu_);
      plane_->changed_.wait(lock, [&] { return stopping_ || context->IsCancelled(); });
    }
    const std::lock_guard lock(plane_->mu_);
    connections_.erase(connection);
    return grpc::Status::OK;
  }

  // REQUIRES plane_->mu_ for both.
  void SendAll(const v1::ServerMessage& message) {
    for (const auto& connection : connections_) connection->stream->Write(message);
  }
  void CancelAll() {
    for (const auto& connection : connections_) connection->context->TryCancel();
  }
  void Stop() { stopping_ = true; }

 private:
  void ReadAll(ServerStream* stream) {
    v1::ClientMessage message;
    while (stream->Read(&message)) {
      const std::lock_guard lock(plane_->mu_);
      if (message.has_ping()) {
        v1::ServerMessage pong;
        pong.mutable_pong()->set_nonce(message.ping().nonce());
        stream->Write(pong);
        continue;
      }
      plane_->received_.push_back(message);
      plane_->changed_.notify_all();
    }
  }

  FakePlane* const plane_;
  const Script script_;
  bool stopping_ = false;
  std::set<std::shared_ptr<Connection>> connections_;
};

FakePlane::SocketDir::SocketDir() {
  std::string name = (std::filesystem::temp_directory_path() / "ssXXXXXX").string();
  if (::mkdtemp(name.data()) != nullptr) path_ = name;
}
FakePlane::SocketDir::~SocketDir() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

FakePlane::FakePlane(const std::string& socket_path, Script script)
    : service_(std::make_unique<Service>(this, std::move(script))) {
  grpc::ServerBuilder builder;
  Address address;
  address.path = socket_path;
  AddListener(address, {}, &builder, nullptr);
  builder.RegisterService(service_.get());
  server_ = builder.BuildAndStart();
}

FakePlane::~FakePlane() {
  {
    const std::lock_guard lock(mu_);
    service_->Stop();
  }
  changed_.notify_all();
  Break();
  server_->Shutdown(std::chrono::system_clock::now());
}

void FakePlane::Send(const v1::ServerMessage& message) {
  const std::lock_guard lock(mu_);
  service_->SendAll(message);
}

void FakePlane::Break() {
  const std::lock_guard lock(mu_);
  service_->CancelAll();
}

std::optional<v1::ClientMessage> FakePlane::Await(
    const std::function<bool(const v1::ClientMessage&)>& match) {
  std::unique_lock lock(mu_);
  auto found = received_.end();
  changed_.wait_for(lock, kPatience, [&] {
    found = std::find_if(received_.begin(), received_.end(), match);
    return found != received_.end();
  });
  if (found == received_.end()) return std::nullopt;
  v1::ClientMessage message = *found;
  received_.erase(found);
  return message;
}

bool FakePlane::AwaitConnections(size_t count) {
  std::unique_lock lock(mu_);
  return changed_.wait_for(lock, kPatience, [&] { return hellos_ >= count; });
}

bool Eventually(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    ::poll(nullptr, 0, 1);  // between two looks; nothing depends on how long
  }
  return true;
}

}  // namespace shadowserve
