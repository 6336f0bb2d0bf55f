// Listening Unix sockets, and who is at the other end of a connection.
#ifndef SHADOWSERVE_RPC_UNIX_SOCKET_H_
#define SHADOWSERVE_RPC_UNIX_SOCKET_H_

#include <sys/types.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"

namespace shadowserve {

// kInvalidArgument: the path does not fit into an address.
Result<sockaddr_un> UnixAddress(const std::string& path);
// `type`: SOCK_STREAM or SOCK_SEQPACKET, with SOCK_NONBLOCK if wanted. Close-on-exec.
Result<UniqueFd> NewUnixSocket(int type);

// Not blocking. Thread-safe: nothing changes after Listen.
class UnixListener {
 public:
  struct Options {
    std::string path;
    int type = 0;        // SOCK_STREAM or SOCK_SEQPACKET
    mode_t mode = 0600;  // of the socket file, from its first moment: who may connect
    int backlog = 0;
  };
  // Replaces a socket file that nobody listens on. kInvalidArgument: bad path, or another kind of
  // file is there; kUnavailable: somebody listens, or the system refuses. Messages name the path.
  static Result<std::unique_ptr<UnixListener>> Listen(Options options);
  // Removes the socket file if it is still this one's.
  ~UnixListener();
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;

  int fd() const { return fd_.get(); }
  const std::string& path() const { return options_.path; }

 private:
  explicit UnixListener(Options options) : options_(std::move(options)) {}
  Status Open();

  const Options options_;
  UniqueFd fd_;
  uint64_t file_device_ = 0;  // of the socket file
  uint64_t file_inode_ = 0;   // 0: not made yet
};

// From the kernel (SO_PEERCRED), as of the connect; nothing that the peer says.
struct PeerCredentials {
  pid_t pid = 0;  // 0: it lives in a pid namespace that is not visible from here
  uid_t uid = 0;
  gid_t gid = 0;
};
Result<PeerCredentials> PeerOf(int connection);

// Which users may talk to the data plane over its Unix sockets.
struct AllowedUids {
  bool any = false;  // whoever can open the socket file
  std::vector<uid_t> uids;

  bool Allows(uid_t uid) const {
    return any || std::find(uids.begin(), uids.end(), uid) != uids.end();
  }
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_RPC_UNIX_SOCKET_H_
