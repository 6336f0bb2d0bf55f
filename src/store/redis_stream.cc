#include "store/redis_stream.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace shadowserve {
namespace {

class PlainStream final : public RedisStream {
 public:
  explicit PlainStream(int fd) : fd_(fd) {}

  StreamResult Handshake() override { return {}; }
  StreamResult Receive(std::span<iovec> places) override {
    msghdr message = {};
    message.msg_iov = places.data();
    message.msg_iovlen = places.size();
    return ResultOf(recvmsg(fd_, &message, MSG_DONTWAIT), false);
  }
  StreamResult Send(std::span<const iovec> pieces) override {
    msghdr message = {};
    message.msg_iov = const_cast<iovec*>(pieces.data());  // sendmsg only reads it
    message.msg_iovlen = pieces.size();
    return ResultOf(sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL), true);
  }
  bool HasBuffered() const override { return false; }
  std::string Error() const override { return error_ == 0 ? "" : std::strerror(error_); }

 private:
  StreamResult ResultOf(ssize_t moved, bool writing) {
    if (moved > 0) return {StreamState::kDone, static_cast<size_t>(moved), false};
    if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
      return {StreamState::kWouldBlock, 0, writing};
    }
    error_ = moved < 0 ? errno : 0;
    return {StreamState::kClosed, 0, false};
  }

  int fd_;
  int error_ = 0;
};

}  // namespace

std::unique_ptr<RedisStream> MakePlainStream(int fd) {
  return std::make_unique<PlainStream>(fd);
}

}  // namespace shadowserve
