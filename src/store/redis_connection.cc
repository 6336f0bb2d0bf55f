#include "store/redis_connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "store/resp_collector.h"

namespace shadowserve {
namespace {

constexpr size_t kPiecesPerSend = 64;
constexpr size_t kReceiveBytesMax = size_t{1} << 20;
// Read beyond a large body: a reply's header and little else, since what comes with it of the next
// body is copied.
constexpr size_t kReadAheadOfLarge = 64;
constexpr size_t kLargeBodyBytes = 16 * 1024;
// Copied to the system by one Flush, at most about this much: the owner's thread has other work.
constexpr uint64_t kSendBytesPerFlush = 512 * 1024;
// While much of a body is missing, the system wakes us when this much is there: fewer, larger
// reads.
constexpr int kLowWaterBytes = 128 * 1024;

RedisReply ReplyOf(const RespToken& token) {
  using Kind = RedisReply::Kind;
  switch (token.type) {
    case RespType::kSimple:
      return {Kind::kSimple, 0, token.text};
    case RespType::kError:
      return {Kind::kError, 0, token.text};
    case RespType::kInteger:
      return {Kind::kInteger, token.number, {}};
    case RespType::kBulk:
      return {token.stored ? Kind::kBulk : Kind::kTooLarge, token.number, {}};
    case RespType::kNil:
      return {Kind::kNil, 0, {}};
    case RespType::kArray:
      break;
  }
  return {Kind::kCollected, token.number, {}};
}

}  // namespace

void LoseAll(RedisCommandList commands) {
  while (!commands.empty()) {
    RedisCommand* const command = commands.Pop();
    command->listener->OnReply(command, RedisReply{});
  }
}

RedisConnection::RedisConnection(const RedisConnectionOptions* options, int epoll_fd,
                                 RedisNode* node)
    : options_(options), epoll_fd_(epoll_fd), node_(node) {}

RedisConnection::~RedisConnection() {
  SS_CHECK(commands_.empty(), "a connection goes with commands in flight");
}

void RedisConnection::Open(const SocketAddress& address, int64_t now_ns) {
  SS_CHECK(state_ == State::kClosed, "open already");
  state_ = State::kConnecting;
  opened_ns_ = progress_ns_ = now_ns;
  fd_ = UniqueFd(
      socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP));
  const int on = 1;
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
  event.data.ptr = this;
  watching_write_ = true;
  low_water_ = 1;
  if (!fd_.valid() || setsockopt(fd_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) != 0 ||
      setsockopt(fd_.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) != 0 ||
      epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd_.get(), &event) != 0) {
    return Close(RedisFault::kUnreachable, std::strerror(errno));
  }
  const int failed =
      connect(fd_.get(), reinterpret_cast<const sockaddr*>(&address.storage), address.bytes);
  if (failed != 0 && errno != EINPROGRESS) {
    Close(RedisFault::kUnreachable, std::strerror(errno));
  }
}

void RedisConnection::Close(RedisFault fault, std::string error) {
  state_ = State::kClosed;
  fault_ = fault;
  lost_commands_ = outstanding_commands_;
  error_ = std::move(error);
  stream_.reset();
  fd_.Reset();
  reader_.Reset();
  unsent_ = nullptr;
  unsent_offset_ = 0;
  outstanding_bytes_ = 0;
  outstanding_commands_ = 0;
  skipped_replies_ = 0;
  collecting_ = false;
  greeting_left_ = 0;
  RedisCommandList lost;
  for (RedisCommandList all = commands_.TakeAll(); !all.empty();) {
    RedisCommand* const command = all.Pop();
    if (command != &greeting_) lost.Push(command);
  }
  LoseAll(lost);
}

void RedisConnection::Connected(int64_t now_ns) {
  int error = 0;
  socklen_t bytes = sizeof(error);
  if (getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
  if (error != 0) return Close(RedisFault::kUnreachable, std::strerror(error));
  if (options_->tls == nullptr) {
    stream_ = MakePlainStream(fd_.get());
  } else {
    Result<std::unique_ptr<RedisStream>> stream =
        options_->tls->MakeStream(fd_.get(), options_->host);
    if (!stream.ok()) return Close(RedisFault::kTls, std::string(stream.status().message()));
    stream_ = std::move(stream).value();
  }
  state_ = State::kHandshake;
  Shake(now_ns);
}

void RedisConnection::Shake(int64_t now_ns) {
  const StreamResult result = stream_->Handshake();
  if (result.state == StreamState::kWouldBlock) return Watch(result.wants_write);
  if (result.state == StreamState::kClosed) {
    const std::string error = stream_->Error();
    return error.empty() ? Close(RedisFault::kUnreachable, "closed by the server")
                         : Close(RedisFault::kTls, error);
  }
  Greet(now_ns);
}

void RedisConnection::Greet(int64_t now_ns) {
  state_ = State::kGreeting;
  greeting_ = RedisCommand{};
  greeting_.pieces[0] = std::as_bytes(std::span(options_->greeting));
  greeting_left_ = options_->greeting_replies;
  commands_.Push(&greeting_);
  unsent_ = &greeting_;
  ++outstanding_commands_;
  Flush(now_ns);
}

bool RedisConnection::HasRoom(uint64_t expected_bytes) const {
  if (outstanding_commands_ == 0) return true;
  return outstanding_commands_ < kCommandsMax &&
         (expected_bytes == 0 || outstanding_bytes_ + expected_bytes <= kOutstandingBytesMax);
}

void RedisConnection::Queue(RedisCommand* command, int64_t now_ns) {
  SS_CHECK(ready() && HasRoom(command->expected_bytes), "no room on the connection");
  if (outstanding_commands_ == 0) {
    progress_ns_ = now_ns;
    progress_bytes_ = 0;
  }
  if (command->collector != nullptr) command->collector->Reset();
  commands_.Push(command);
  if (unsent_ == nullptr) unsent_ = command;
  ++outstanding_commands_;
  outstanding_bytes_ += command->expected_bytes;
}

size_t RedisConnection::GatherUnsent(std::span<iovec> pieces) const {
  size_t count = 0;
  uint64_t left = kSendBytesPerFlush;
  uint64_t skip = unsent_offset_;
  for (const RedisCommand* command = unsent_; command != nullptr; command = command->next) {
    for (const std::span<const std::byte> piece : command->pieces) {
      if (skip >= piece.size()) {
        skip -= piece.size();
        continue;
      }
      if (count == pieces.size() || left == 0) return count;
      const uint64_t bytes = std::min<uint64_t>(piece.size() - skip, left);
      pieces[count++] = {const_cast<std::byte*>(piece.data()) + skip, bytes};
      left -= bytes;
      skip = 0;
    }
  }
  return count;
}

void RedisConnection::Sent(size_t bytes) {
  unsent_offset_ += bytes;
  while (unsent_ != nullptr) {
    uint64_t size = 0;
    for (const std::span<const std::byte> piece : unsent_->pieces) size += piece.size();
    if (unsent_offset_ < size) return;
    unsent_offset_ -= size;
    unsent_ = unsent_->next;
  }
}

void RedisConnection::Flush(int64_t now_ns) {
  if (state_ != State::kReady && state_ != State::kGreeting) return;
  uint64_t sent = 0;
  while (unsent_ != nullptr) {
    if (sent >= kSendBytesPerFlush) return Watch(true);
    iovec pieces[kPiecesPerSend];
    const size_t count = GatherUnsent(pieces);
    const StreamResult result = stream_->Send(std::span(pieces).first(count));
    if (result.state == StreamState::kClosed) return StreamClosed();
    if (result.state == StreamState::kWouldBlock) return Watch(true);
    sent += result.bytes;
    Sent(result.bytes);
    Moved(result.bytes, now_ns);
  }
  Watch(false);
}

void RedisConnection::Moved(uint64_t bytes, int64_t now_ns) {
  progress_bytes_ += bytes;
  if (progress_bytes_ < kProgressBytes) return;
  progress_bytes_ = 0;
  progress_ns_ = now_ns;
}

void RedisConnection::StreamClosed() {
  const std::string error = stream_->Error();
  Close(RedisFault::kUnreachable, error.empty() ? "closed by the server" : error);
}

void RedisConnection::Watch(bool write) {
  if (write == watching_write_) return;
  watching_write_ = write;
  epoll_event event = {};
  event.events = EPOLLIN | EPOLLRDHUP | (write ? EPOLLOUT : 0u);
  event.data.ptr = this;
  (void)epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd_.get(), &event);
}

void RedisConnection::OnEvents(uint32_t events, int64_t now_ns, uint64_t* budget) {
  if (state_ == State::kConnecting) {
    if ((events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) != 0) Connected(now_ns);
    return;
  }
  if (state_ == State::kHandshake) return Shake(now_ns);
  if ((events & EPOLLOUT) != 0) Flush(now_ns);
  if (state_ == State::kGreeting || state_ == State::kReady) Receive(now_ns, budget);
}

size_t RedisConnection::ReadAhead() const {
  const RedisCommand* const first = commands_.front();
  const bool large = first != nullptr && first->target.size() >= kLargeBodyBytes;
  return large ? kReadAheadOfLarge : RespReader::kTailBytes;
}

void RedisConnection::Receive(int64_t now_ns, uint64_t* budget) {
  while (Consume(now_ns) && *budget > 0) {
    iovec places[2];
    const size_t count =
        reader_.Places(ReadAhead(), std::min<uint64_t>(*budget, kReceiveBytesMax), places);
    size_t asked = 0;
    for (const iovec& place : std::span(places).first(count)) asked += place.iov_len;
    const StreamResult result = stream_->Receive(std::span(places).first(count));
    if (result.state == StreamState::kClosed) return StreamClosed();
    if (result.state == StreamState::kWouldBlock) {
      if (result.wants_write) Watch(true);
      break;
    }
    reader_.Received(result.bytes);
    *budget -= std::min<uint64_t>(*budget, result.bytes);
    Moved(result.bytes, now_ns);
    // A plain socket that gave less than asked for is empty: no system call to learn it again.
    if (result.bytes < asked && options_->tls == nullptr) {
      (void)Consume(now_ns);
      break;
    }
  }
  if (state_ != State::kClosed) SetLowWater();
}

void RedisConnection::SetLowWater() {
  const bool much = reader_.body_left() >= 2 * kLowWaterBytes && options_->tls == nullptr;
  const int wanted = much ? kLowWaterBytes : 1;
  if (wanted == low_water_) return;
  low_water_ = wanted;
  (void)setsockopt(fd_.get(), SOL_SOCKET, SO_RCVLOWAT, &low_water_, sizeof(low_water_));
}

// Everything that is there. False when the connection ended.
bool RedisConnection::Consume(int64_t now_ns) {
  while (state_ != State::kClosed) {
    RedisCommand* const command = commands_.front();
    std::span<std::byte> target;
    if (command != nullptr) {
      target = command->collector != nullptr ? command->collector->target() : command->target;
    }
    RespToken token;
    const RespReader::Step step = reader_.Next(target, &token);
    if (step == RespReader::Step::kMore) return true;
    if (step == RespReader::Step::kBad) {
      Close(RedisFault::kProtocol, "nonsense in place of a reply");
      return false;
    }
    if (command == nullptr || command == unsent_) {
      Close(RedisFault::kProtocol, token.type == RespType::kError
                                       ? std::string(token.text)
                                       : "a reply that nobody asked for");
      return false;
    }
    const bool going_on =
        state_ == State::kGreeting ? OnGreeting(token, now_ns) : OnToken(token, now_ns);
    if (!going_on) return false;
  }
  return false;
}

bool RedisConnection::OnGreeting(const RespToken& token, int64_t now_ns) {
  if (token.type != RespType::kSimple) {
    const bool error = token.type == RespType::kError;
    Close(error ? RedisFault::kRefused : RedisFault::kProtocol,
          error ? std::string(token.text) : "not a Redis server");
    return false;
  }
  if (--greeting_left_ > 0) return true;
  (void)commands_.Pop();
  --outstanding_commands_;
  state_ = State::kReady;
  progress_ns_ = now_ns;
  return true;
}

bool RedisConnection::OnToken(const RespToken& token, int64_t now_ns) {
  RedisCommand* const command = commands_.front();
  if (skipped_replies_ < command->replies_to_skip) {
    if (token.type != RespType::kArray && token.type != RespType::kBulk) {
      ++skipped_replies_;
      return true;
    }
    Close(RedisFault::kProtocol, "an array or bulk where +OK belongs");
    return false;
  }
  if (token.type == RespType::kArray || collecting_) {
    const RespCollector::Step step =
        command->collector == nullptr ? RespCollector::Step::kBad : command->collector->Add(token);
    collecting_ = step == RespCollector::Step::kMore;
    if (step == RespCollector::Step::kBad) {
      Close(RedisFault::kProtocol, "an array that is too large or unexpected");
      return false;
    }
    if (!collecting_) {
      Answer({RedisReply::Kind::kCollected,
              static_cast<int64_t>(command->collector->items().size()),
              {}},
             now_ns);
    }
    return true;
  }
  if (command->collector != nullptr && token.type == RespType::kBulk) {
    if (command->collector->Add(token) == RespCollector::Step::kBad) {
      Close(RedisFault::kProtocol, "a reply that is too large");
      return false;
    }
  }
  Answer(ReplyOf(token), now_ns);
  return true;
}

void RedisConnection::Answer(const RedisReply& reply, int64_t now_ns) {
  RedisCommand* const command = commands_.Pop();
  --outstanding_commands_;
  outstanding_bytes_ -= command->expected_bytes;
  skipped_replies_ = 0;
  progress_ns_ = now_ns;
  progress_bytes_ = 0;
  ++replies_;
  command->listener->OnReply(command, reply);
}

void RedisConnection::CheckTime(int64_t now_ns) {
  if (state_ == State::kClosed) return;
  if (state_ != State::kReady) {
    if (now_ns - opened_ns_ < options_->connect_timeout_ns) return;
    return Close(RedisFault::kTimeout,
                 state_ == State::kConnecting  ? "no connection within the time-out"
                 : state_ == State::kHandshake ? "no TLS handshake within the time-out"
                                               : "no greeting within the time-out");
  }
  if (outstanding_commands_ == 0 || now_ns - progress_ns_ < options_->timeout_ns) return;
  Close(RedisFault::kTimeout, "no reply within the time-out");
}

}  // namespace shadowserve
