// The side socket: what gRPC cannot carry. A Unix SEQPACKET socket beside the control socket, over
// which an engine worker hands the data plane the memory behind its KV region, and the data plane
// hands out a pidfd of itself: the only sure sign that it has ended, whatever became of the stream,
// and one that holds across pid namespaces. A stopped process is not an ended one.
//
// One exchange per connection, fixed structs in the byte order of the host that both ends share:
//   hello   {magic u32, version u16, fd_count u16, token[16]}     + fd_count (0 or 1) descriptors
//   answer  {magic u32, status u32, incarnation u64}              + when status is 0: the pidfd
// `token` is random and comes again in the WorkerHello, which ties the two connections together.
#ifndef SHADOWSERVE_RPC_SIDE_SOCKET_H_
#define SHADOWSERVE_RPC_SIDE_SOCKET_H_

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "rpc/unix_socket.h"

namespace shadowserve {

constexpr size_t kSideTokenBytes = 16;
using SideToken = std::array<std::byte, kSideTokenBytes>;

// From the kernel's random source.
SideToken MakeSideToken();
// Where the side socket of a control socket is: "<control socket>.mem".
std::string SideSocketPath(std::string_view control_socket_path);

// One engine worker that said hello.
struct SidePeer {
  SideToken token{};
  PeerCredentials who;
  UniqueFd memory_fd;  // invalid when it brought none. Unchecked: it can be any kind of file
};

struct SideServerOptions {
  std::string path;
  uint64_t incarnation = 0;
  mode_t mode = 0600;            // of the socket file: who may connect
  const Clock* clock = nullptr;  // outlives the server
};

// The data plane's end. Owner thread: one. Nothing blocks; memory and descriptors are bounded.
class SideServer {
 public:
  // Connections that have not said hello yet. One more drops the oldest.
  static constexpr size_t kPendingMax = 32;
  // A connection that says nothing for so long is dropped.
  static constexpr int64_t kHelloTimeoutNs = kNsPerSecond;

  // Replaces a socket file that nobody listens on. kInvalidArgument: bad path, or another kind of
  // file is there; kUnavailable: somebody listens, or the system refuses; kUnsupported: no pidfd
  // here.
  static Result<std::unique_ptr<SideServer>> Listen(SideServerOptions options);
  SideServer(const SideServer&) = delete;
  SideServer& operator=(const SideServer&) = delete;

  // Readable when HandleEvents has something to do; for poll or epoll.
  int fd() const { return epoll_.get(); }

  // What becomes of a peer: OK keeps it, an error's code goes back as the answer. Called before the
  // answer is sent, so that a WorkerHello can never come before its token is known.
  using Accept = std::function<Status(SidePeer)>;
  void HandleEvents(const Accept& accept);

  size_t pending_count() const;

 private:
  struct Pending {
    UniqueFd fd;
    int64_t since_ns = 0;
  };

  explicit SideServer(SideServerOptions options) : options_(std::move(options)) {}
  Status Open();
  Status Watch(int fd, uint64_t tag);
  void AcceptAll();
  void AddPending(UniqueFd connection);
  void Exchange(Pending& pending, const Accept& accept);
  void DropSilent();
  void ArmTimer();

  SideServerOptions options_;
  UniqueFd epoll_;
  std::unique_ptr<UnixListener> listener_;
  UniqueFd timer_;
  UniqueFd pidfd_;
  bool listener_paused_ = false;  // out of descriptors: looked at again by the timer
  std::array<Pending, kPendingMax> pending_;
};

// The engine worker's end.
struct SideAnswer {
  uint64_t incarnation = 0;
  pid_t data_plane_pid = 0;  // as this pid namespace names it; 0 when it does not
  UniqueFd data_plane_pidfd;
};

// Connects, says hello, waits for the answer; at most about `timeout_ms` in all. `memory_fd` is
// lent (-1: none). kUnavailable: nobody there; kDeadline; kUnsupported: the other end speaks
// something else; else the code that the data plane answered.
Result<SideAnswer> ExchangeSide(const std::string& path, const SideToken& token, int memory_fd,
                                int timeout_ms);

// Whether the process behind a pidfd has ended (a zombie has). Never blocks.
bool ProcessHasExited(int pidfd);
// A pidfd of a process, close-on-exec. kUnavailable: no such process; kUnsupported: not on this
// kernel.
Result<UniqueFd> OpenPidfd(pid_t pid);

}  // namespace shadowserve

#endif  // SHADOWSERVE_RPC_SIDE_SOCKET_H_
