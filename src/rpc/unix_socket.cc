#include "rpc/unix_socket.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

namespace shadowserve {
namespace {

Status SocketError(std::string_view what, int error) {
  return Status(StatusCode::kUnavailable, fmt::format("{}: {}", what, std::strerror(error)));
}

Status InvalidAddress(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

int Connect(int fd, const sockaddr_un& address) {
  return ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

// The socket file of a data plane that was killed stays behind: removed only if nobody listens.
Status RemoveStaleSocket(const std::string& path, const sockaddr_un& address, int type) {
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) {
    return errno == ENOENT ? OkStatus() : SocketError(path, errno);
  }
  if (!S_ISSOCK(info.st_mode)) {
    return InvalidAddress(fmt::format("{} exists and is no socket: remove it", path));
  }
  SS_TRY_ASSIGN(const UniqueFd probe, NewUnixSocket(type | SOCK_NONBLOCK));
  if (Connect(probe.get(), address) == 0 || errno == EAGAIN) {
    return Status(StatusCode::kUnavailable,
                  fmt::format("another process listens on {}: stop it", path));
  }
  if (errno == EPROTOTYPE) {
    return InvalidAddress(fmt::format("{} is another kind of socket: remove it", path));
  }
  if (errno != ECONNREFUSED) return SocketError(path, errno);
  return ::unlink(path.c_str()) == 0 ? OkStatus() : SocketError(path, errno);
}

}  // namespace

Result<sockaddr_un> UnixAddress(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return InvalidAddress(
        fmt::format("path '{}' must have 1 to {} bytes", path, sizeof(address.sun_path) - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> NewUnixSocket(int type) {
  UniqueFd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return SocketError("socket", errno);
  return fd;
}

Result<std::unique_ptr<UnixListener>> UnixListener::Listen(Options options) {
  std::unique_ptr<UnixListener> listener(new UnixListener(std::move(options)));
  SS_TRY(listener->Open());
  return listener;
}

Status UnixListener::Open() {
  const std::string& path = options_.path;
  SS_TRY_ASSIGN(const sockaddr_un address, UnixAddress(path));
  SS_TRY(RemoveStaleSocket(path, address, options_.type));
  SS_TRY_ASSIGN(fd_, NewUnixSocket(options_.type | SOCK_NONBLOCK));
  // Before bind, so that the file never has wider rights; after it, because umask cuts them.
  if (::fchmod(fd_.get(), options_.mode) != 0) return SocketError("fchmod", errno);
  if (::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return SocketError(path, errno);
  }
  struct stat info {};
  if (::chmod(path.c_str(), options_.mode) != 0 || ::lstat(path.c_str(), &info) != 0) {
    return SocketError(path, errno);
  }
  file_device_ = info.st_dev;
  file_inode_ = info.st_ino;
  if (::listen(fd_.get(), options_.backlog) != 0) return SocketError("listen", errno);
  return OkStatus();
}

UnixListener::~UnixListener() {
  struct stat info {};
  if (file_inode_ != 0 && ::lstat(options_.path.c_str(), &info) == 0 &&
      info.st_dev == file_device_ && info.st_ino == file_inode_) {
    ::unlink(options_.path.c_str());
  }
}

Result<PeerCredentials> PeerOf(int connection) {
  ucred who{};
  socklen_t bytes = sizeof(who);
  if (::getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &who, &bytes) != 0) {
    return SocketError("SO_PEERCRED", errno);
  }
  return PeerCredentials{who.pid, who.uid, who.gid};
}

}  // namespace shadowserve
