#include "rpc/side_socket.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <span>

namespace shadowserve {
namespace {

constexpr uint32_t kMagic = 0x4d535353;  // "SSSM"
constexpr uint16_t kVersion = 1;
constexpr uint64_t kListenerTag = SideServer::kPendingMax;
constexpr uint64_t kTimerTag = SideServer::kPendingMax + 1;
constexpr int64_t kTimerNs = 250 * kNsPerMs;
// Room for more than one descriptor, so that a peer that sends two is seen doing so.
constexpr size_t kReceivedFdsMax = 4;

struct Hello {
  uint32_t magic;
  uint16_t version;
  uint16_t fd_count;
  SideToken token;
};
static_assert(sizeof(Hello) == 24);

struct Answer {
  uint32_t magic;
  uint32_t status;
  uint64_t incarnation;
};
static_assert(sizeof(Answer) == 16);

Status SystemError(std::string_view what, int error) {
  return Status(StatusCode::kUnavailable,
                fmt::format("side socket: {}: {}", what, std::strerror(error)));
}

// One message with at most one descriptor.
ssize_t SendMessage(int socket, std::span<const std::byte> bytes, int fd) {
  iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(fd));
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

struct Received {
  ssize_t bytes = -1;
  bool cut = false;  // longer than the buffer, or more descriptors than there was room for
  size_t fd_count = 0;
  UniqueFd first_fd;
};

// Every descriptor that the kernel installed is owned or closed here, whatever else is wrong.
Received ReceiveMessage(int socket, std::span<std::byte> bytes) {
  iovec part{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kReceivedFdsMax)] = {};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  Received received;
  do {
    received.bytes = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (received.bytes < 0 && errno == EINTR);
  if (received.bytes < 0) return received;
  received.cut = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
      UniqueFd owned(fd);
      if (received.fd_count++ == 0) received.first_fd = std::move(owned);
    }
  }
  return received;
}

}  // namespace

SideToken MakeSideToken() {
  SideToken token;
  size_t filled = 0;
  while (filled < token.size()) {
    const ssize_t got = ::getrandom(token.data() + filled, token.size() - filled, 0);
    if (got > 0) filled += static_cast<size_t>(got);
  }
  return token;
}

std::string SideSocketPath(std::string_view control_socket_path) {
  return std::string(control_socket_path) + ".mem";
}

Result<UniqueFd> OpenPidfd(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (fd.valid()) return fd;
  if (errno == ENOSYS) {
    return Status(StatusCode::kUnsupported, "pidfd_open: needs Linux 5.3 or newer");
  }
  return Status(StatusCode::kUnavailable,
                fmt::format("pidfd_open: process {}: {}", pid, std::strerror(errno)));
}

bool ProcessHasExited(int pidfd) {
  pollfd entry{pidfd, POLLIN, 0};
  int ready;
  do {
    ready = ::poll(&entry, 1, 0);
  } while (ready < 0 && errno == EINTR);
  return ready > 0 && (entry.revents & POLLIN) != 0;
}

Result<std::unique_ptr<SideServer>> SideServer::Listen(SideServerOptions options) {
  std::unique_ptr<SideServer> server(new SideServer(std::move(options)));
  SS_TRY(server->Open());
  return server;
}

Status SideServer::Open() {
  SS_TRY_ASSIGN(pidfd_, OpenPidfd(::getpid()));
  Result<std::unique_ptr<UnixListener>> listener = UnixListener::Listen(
      {options_.path, SOCK_SEQPACKET, options_.mode, static_cast<int>(kPendingMax)});
  if (!listener.ok()) return std::move(listener).status().WithContext("side socket");
  listener_ = std::move(listener).value();
  timer_.Reset(::timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  if (!timer_.valid()) return SystemError("timerfd", errno);
  epoll_.Reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return SystemError("epoll", errno);
  SS_TRY(Watch(listener_->fd(), kListenerTag));
  return Watch(timer_.get(), kTimerTag);
}

Status SideServer::Watch(int fd, uint64_t tag) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return SystemError("epoll", errno);
  return OkStatus();
}

size_t SideServer::pending_count() const {
  size_t count = 0;
  for (const Pending& pending : pending_) count += pending.fd.valid();
  return count;
}

void SideServer::HandleEvents(const Accept& accept) {
  std::array<epoll_event, kPendingMax + 2> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
  bool listener_ready = false;
  for (int i = 0; i < count; ++i) {
    const uint64_t tag = events[static_cast<size_t>(i)].data.u64;
    if (tag < kPendingMax) {
      Exchange(pending_[tag], accept);
    } else if (tag == kListenerTag) {
      listener_ready = true;
    } else {
      uint64_t expirations;
      (void)!::read(timer_.get(), &expirations, sizeof(expirations));
      if (listener_paused_) listener_paused_ = !Watch(listener_->fd(), kListenerTag).ok();
    }
  }
  DropSilent();
  // Last, because it may reuse the slots that the events above name.
  if (listener_ready) AcceptAll();
  ArmTimer();
}

void SideServer::AcceptAll() {
  for (size_t i = 0; i < kPendingMax; ++i) {  // the rest at the next call
    UniqueFd connection(::accept4(listener_->fd(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (connection.valid()) {
      AddPending(std::move(connection));
      continue;
    }
    if (errno == ECONNABORTED || errno == EINTR) continue;
    if (errno != EAGAIN &&
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_->fd(), nullptr) == 0) {
      // Out of descriptors or memory: a level-triggered listener would spin until there are some.
      listener_paused_ = true;
    }
    return;
  }
}

void SideServer::AddPending(UniqueFd connection) {
  Pending* slot = &pending_[0];
  for (Pending& pending : pending_) {
    if (!pending.fd.valid()) {
      slot = &pending;
      break;
    }
    if (pending.since_ns < slot->since_ns) slot = &pending;
  }
  slot->fd = std::move(connection);  // closes the oldest when all are taken
  slot->since_ns = options_.clock->NowNs();
  if (!Watch(slot->fd.get(), static_cast<uint64_t>(slot - pending_.data())).ok()) slot->fd.Reset();
}

void SideServer::Exchange(Pending& pending, const Accept& accept) {
  const UniqueFd connection = std::move(pending.fd);
  Hello hello{};
  // One byte more than a hello, so that a longer one is seen.
  std::array<std::byte, sizeof(Hello) + 1> bytes;
  Received received = ReceiveMessage(connection.get(), bytes);
  if (received.bytes <= 0) return;  // closed, or broken

  Answer answer{kMagic, static_cast<uint32_t>(StatusCode::kInvalidArgument), options_.incarnation};
  if (!received.cut && received.bytes == sizeof(Hello)) {
    std::memcpy(&hello, bytes.data(), sizeof(hello));
    SidePeer peer;
    const Result<PeerCredentials> who = PeerOf(connection.get());
    if (hello.magic == kMagic && hello.version != kVersion) {
      answer.status = static_cast<uint32_t>(StatusCode::kUnsupported);
    } else if (hello.magic == kMagic && hello.fd_count <= 1 &&
               received.fd_count == hello.fd_count && who.ok()) {
      peer.token = hello.token;
      peer.who = *who;
      peer.memory_fd = std::move(received.first_fd);
      answer.status = static_cast<uint32_t>(accept(std::move(peer)).code());
    }
  }
  // The socket's buffer is empty, so this does not block; a peer that is gone does not matter.
  (void)SendMessage(connection.get(), std::as_bytes(std::span(&answer, 1)),
                    answer.status == 0 ? pidfd_.get() : -1);
}

void SideServer::DropSilent() {
  const int64_t now_ns = options_.clock->NowNs();
  for (Pending& pending : pending_) {
    if (pending.fd.valid() && now_ns - pending.since_ns >= kHelloTimeoutNs) pending.fd.Reset();
  }
}

void SideServer::ArmTimer() {
  itimerspec when{};
  if (pending_count() > 0 || listener_paused_) when.it_value.tv_nsec = kTimerNs;
  (void)::timerfd_settime(timer_.get(), 0, &when, nullptr);
}

Result<SideAnswer> ExchangeSide(const std::string& path, const SideToken& token, int memory_fd,
                                int timeout_ms) {
  SS_TRY_ASSIGN(const sockaddr_un address, UnixAddress(path));
  SS_TRY_ASSIGN(const UniqueFd connection, NewUnixSocket(SOCK_SEQPACKET));
  const timeval timeout{timeout_ms / 1000, (timeout_ms % 1000) * 1000};
  if (timeout_ms <= 0 ||
      ::setsockopt(connection.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) != 0 ||
      ::setsockopt(connection.get(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) != 0) {
    return Status(StatusCode::kInvalidArgument,
                  fmt::format("side socket: timeout of {} ms", timeout_ms));
  }
  const auto failed = [&path](std::string_view what, int error) {
    const bool late = error == EAGAIN || error == EINTR || error == EINPROGRESS;
    return Status(late ? StatusCode::kDeadline : StatusCode::kUnavailable,
                  fmt::format("side socket {}: {}: {}", path, what,
                              late ? "no answer in time" : std::strerror(error)));
  };
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) !=
      0) {
    return failed("connect", errno);
  }
  const Hello hello{kMagic, kVersion, static_cast<uint16_t>(memory_fd >= 0 ? 1 : 0), token};
  if (SendMessage(connection.get(), std::as_bytes(std::span(&hello, 1)), memory_fd) < 0) {
    return failed("send", errno);
  }
  std::array<std::byte, sizeof(Answer) + 1> bytes;
  Received received = ReceiveMessage(connection.get(), bytes);
  if (received.bytes < 0) return failed("receive", errno);
  if (received.bytes == 0) return failed("receive", ECONNRESET);
  Answer answer{};
  if (received.bytes == sizeof(answer)) std::memcpy(&answer, bytes.data(), sizeof(answer));
  if (received.cut || answer.magic != kMagic ||
      answer.status > static_cast<uint32_t>(StatusCode::kInternal) ||
      received.fd_count != (answer.status == 0 ? 1u : 0u)) {
    return Status(StatusCode::kUnsupported,
                  fmt::format("side socket {}: the answer is not a data plane's", path));
  }
  if (answer.status != 0) {
    return Status(static_cast<StatusCode>(answer.status),
                  fmt::format("side socket {}: the data plane refused", path));
  }
  SS_TRY_ASSIGN(const PeerCredentials data_plane, PeerOf(connection.get()));
  return SideAnswer{answer.incarnation, data_plane.pid, std::move(received.first_fd)};
}

}  // namespace shadowserve
