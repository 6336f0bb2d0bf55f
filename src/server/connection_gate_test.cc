#include "server/connection_gate.h"

#include <gmock/gmock.h>
#include <grpcpp/client_context.h>
#include <poll.h>
#include <sys/stat.h>

#include "server/served_plane_testing.h"

namespace shadowserve::testing {
namespace {

using ::testing::HasSubstr;

const AllowedUids kThisUser = {false, {geteuid()}};
const AllowedUids kAnotherUser = {false, {geteuid() + 1}};

grpc::Status AskStatus(const ServedPlane& plane) {
  grpc::ClientContext context;
  v1::StatusReply reply;
  return plane.Connect()->GetStatus(&context, {}, &reply);
}

// The session's first answer, or how the stream ended without one.
grpc::Status SayHello(const ServedPlane& plane, v1::ServerMessage* answer) {
  const auto stub = plane.Connect();
  grpc::ClientContext context;
  const auto stream = stub->Session(&context);
  v1::ClientMessage hello;
  hello.mutable_ping();
  stream->Write(hello);
  const bool answered = stream->Read(answer);
  if (answered) context.TryCancel();
  const grpc::Status end = stream->Finish();
  return answered ? grpc::Status::OK : end;
}

// The first byte from the other end; 0 when it closed without one.
ssize_t FirstByte(int connection) {
  pollfd entry{connection, POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 30'000), 1);
  char byte = 0;
  return recv(connection, &byte, 1, 0);
}

UniqueFd ConnectRaw(const ServedPlane& plane) {
  UniqueFd connection = NewUnixSocket(SOCK_STREAM).value();
  const sockaddr_un address = UnixAddress(plane.address.path).value();
  EXPECT_EQ(connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
            0);
  return connection;
}

TEST(ConnectionGate, ServesUsersOfItsList) {
  const ServedPlane plane(kThisUser);
  EXPECT_TRUE(AskStatus(plane).ok());
  v1::ServerMessage answer;
  ASSERT_TRUE(SayHello(plane, &answer).ok());
  EXPECT_TRUE(answer.has_hello_reply());
  EXPECT_TRUE(ExchangeSide(SideSocketPath(plane.address.path), MakeSideToken(), -1, 30'000).ok());
}

TEST(ConnectionGate, ServesAnybodyWhenToldSo) {
  const ServedPlane plane(AllowedUids{true, {}});
  EXPECT_TRUE(AskStatus(plane).ok());
}

TEST(ConnectionGate, TellsOtherUsersWhyEveryCallOfTheirsFails) {
  const ServedPlane plane(kAnotherUser);
  v1::ServerMessage answer;
  for (const grpc::Status& end : {AskStatus(plane), SayHello(plane, &answer)}) {
    EXPECT_EQ(end.error_code(), grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_THAT(end.error_message(), HasSubstr("listen_uids"));
  }
  EXPECT_TRUE(plane.engines->SessionStatuses().empty());
}

TEST(ConnectionGate, TheSideSocketRefusesOtherUsersToo) {
  const ServedPlane plane(kAnotherUser);
  const auto answer = ExchangeSide(SideSocketPath(plane.address.path), MakeSideToken(), -1, 30'000);
  ASSERT_FALSE(answer.ok());
  EXPECT_EQ(answer.status().code(), StatusCode::kUnsupported);
}

TEST(ConnectionGate, AnswersOnlySoManyRefusedConnectionsASecond) {
  ServedPlane plane(kAnotherUser);
  std::vector<UniqueFd> answered;
  for (int i = 0; i < ConnectionGate::kRefusalsPerSecond; ++i) {
    answered.push_back(ConnectRaw(plane));
    EXPECT_EQ(FirstByte(answered.back().get()), 1);  // HTTP/2 settings
  }
  EXPECT_EQ(FirstByte(ConnectRaw(plane).get()), 0);
  plane.gate_clock.AdvanceNs(kNsPerSecond);
  EXPECT_EQ(FirstByte(ConnectRaw(plane).get()), 1);
}

TEST(ConnectionGate, TheSocketFileHasItsModeAndGoesWithTheServer) {
  std::string path;
  struct stat info {};
  {
    const ServedPlane plane(kThisUser);
    path = plane.address.path;
    ASSERT_EQ(lstat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    plane.server->Stop(0);
    EXPECT_NE(lstat(path.c_str(), &info), 0);
  }
}

}  // namespace
}  // namespace shadowserve::testing
