// A data plane for tests: the real gRPC service on a Unix socket, doing what the test says. It
// answers hello and ping by itself; everything else is recorded and answered by the test, or not at
// all. It keeps no state from one connection to the next. Thread-safe.
#ifndef SHADOWSERVE_CLIENT_FAKE_PLANE_TEST_H_
#define SHADOWSERVE_CLIENT_FAKE_PLANE_TEST_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "rpc/control.pb.h"

namespace grpc {
class Server;
}

namespace shadowserve {

class FakePlane {
 public:
  // A name for a socket in a fresh directory, removed at the end.
  class SocketDir {
   public:
    SocketDir();
    ~SocketDir();
    std::string address() const { return "unix://" + path_ + "/s"; }
    std::string path() const { return path_ + "/s"; }

   private:
    std::string path_;
  };

  struct Script {
    uint64_t incarnation = 1;
    std::string side_socket;
    uint32_t refuse_status = 0;
    std::string refuse_message;
    std::string deny;  // not empty: no answer to hello, the stream ends with PERMISSION_DENIED
    bool read = true;  // false: after the hello, messages are left unread
  };

  explicit FakePlane(const std::string& socket_path) : FakePlane(socket_path, Script{}) {}
  FakePlane(const std::string& socket_path, Script script);
  ~FakePlane();

  // To every session that said hello.
  void Send(const v1::ServerMessage& message);
  // Ends all streams; clients may connect again.
  void Break();
  // Waits for the first recorded message (of all connections, in order) for which `match` is true
  // and takes it out. Nothing within a generous time: nullopt.
  std::optional<v1::ClientMessage> Await(
      const std::function<bool(const v1::ClientMessage&)>& match);
  bool AwaitConnections(size_t count);  // so many hellos since the start

 private:
  class Service;
  std::mutex mu_;
  std::condition_variable changed_;
  std::vector<v1::ClientMessage> received_;
  size_t hellos_ = 0;
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::Server> server_;
};

// Waits for something that other threads bring about, looking again and again. False: not within a
// generous time.
bool Eventually(const std::function<bool()>& condition);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_FAKE_PLANE_TEST_H_
