// RedisConnection: one non-blocking socket to one server, from connect to the last reply.
//
//   closed -> connecting -> (TLS handshake) -> greeting (AUTH, SELECT, PING) -> ready -> closed
//
// Commands are pipelined and answered in order. At most kOutstandingBytesMax of values are asked
// for at a time (deeper pipelines of big values only grow the server's output buffers), and at most
// kCommandsMax commands.
//
// When the connection ends, by the server, by a time-out or by nonsense in the stream, every
// command that was queued gets kLost, and only after the socket is closed: nothing is written into
// a buffer after that. `fault` then says why; the owner decides when to open again.
//
// Time-outs: `connect_timeout_ns` from Open to ready; then `timeout_ns` without progress while
// commands wait. Progress is a reply, or kProgressBytes moved: a server that drips is a dead one.
//
// Owner thread: the store's. Its socket is in the owner's epoll set with the connection's address
// as data.
#ifndef SHADOWSERVE_STORE_REDIS_CONNECTION_H_
#define SHADOWSERVE_STORE_REDIS_CONNECTION_H_

#include <sys/socket.h>

#include <cstdint>
#include <memory>
#include <string>

#include "base/unique_fd.h"
#include "store/redis_command.h"
#include "store/redis_stream.h"
#include "store/resp_reader.h"

namespace shadowserve {

class RedisNode;

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t bytes = 0;
};

enum class RedisFault : uint8_t {
  kNone,
  kUnreachable,  // no connection: refused, no route, or closed by the server
  kTimeout,
  kRefused,  // the server's greeting was an error (password, database, loading, ...)
  kTls,      // no trust between the two
  kProtocol,
};

struct RedisConnectionOptions {
  int64_t connect_timeout_ns = 0;
  int64_t timeout_ns = 0;
  std::string greeting;           // commands; each must be answered by a simple string
  uint32_t greeting_replies = 0;  // at least 1
  TlsContext* tls = nullptr;      // null: plain
  std::string host;               // for TLS
};

class RedisConnection {
 public:
  static constexpr uint64_t kOutstandingBytesMax = uint64_t{4} << 20;
  static constexpr uint32_t kCommandsMax = 128;
  static constexpr uint64_t kProgressBytes = 64 * 1024;

  enum class State : uint8_t { kClosed, kConnecting, kHandshake, kGreeting, kReady };

  // `options` outlives it; so does `node`, which is for its owner (may be null).
  RedisConnection(const RedisConnectionOptions* options, int epoll_fd, RedisNode* node);
  RedisConnection(const RedisConnection&) = delete;
  RedisConnection& operator=(const RedisConnection&) = delete;
  ~RedisConnection();  // REQUIRES: no commands

  // REQUIRES: closed. Failure shows in state() and fault().
  void Open(const SocketAddress& address, int64_t now_ns);
  // Ends it on purpose.
  void Close(RedisFault fault, std::string error);

  State state() const { return state_; }
  bool ready() const { return state_ == State::kReady; }
  // Why it is closed; kNone when it never was open.
  RedisFault fault() const { return fault_; }
  const std::string& error() const { return error_; }
  RedisNode* node() const { return node_; }
  // Commands answered so far, over all of its life.
  uint64_t replies() const { return replies_; }
  // Commands that the last end of the connection lost; its greeting counts.
  uint32_t lost_commands() const { return lost_commands_; }
  // The owner was away for so long: that was not the server's silence.
  void Forgive(int64_t away_ns) {
    opened_ns_ += away_ns;
    progress_ns_ += away_ns;
  }

  // Whether a command with so many bytes of value may be queued now. One always may when there is
  // none.
  bool HasRoom(uint64_t expected_bytes) const;
  uint64_t outstanding_bytes() const { return outstanding_bytes_; }
  uint32_t outstanding_commands() const { return outstanding_commands_; }
  bool HasUnsent() const { return unsent_ != nullptr; }
  // REQUIRES: ready and HasRoom. Sent by the next Flush.
  void Queue(RedisCommand* command, int64_t now_ns);
  void Flush(int64_t now_ns);

  // Events of epoll. Receives at most *budget bytes and takes them off it.
  void OnEvents(uint32_t events, int64_t now_ns, uint64_t* budget);
  // True when bytes wait that epoll does not tell about.
  bool HasBuffered() const { return stream_ != nullptr && stream_->HasBuffered(); }
  void CheckTime(int64_t now_ns);

 private:
  void Connected(int64_t now_ns);
  void Shake(int64_t now_ns);
  void Greet(int64_t now_ns);
  void Receive(int64_t now_ns, uint64_t* budget);
  bool Consume(int64_t now_ns);
  bool OnGreeting(const RespToken& token, int64_t now_ns);
  bool OnToken(const RespToken& token, int64_t now_ns);
  void Answer(const RedisReply& reply, int64_t now_ns);
  size_t ReadAhead() const;
  size_t GatherUnsent(std::span<iovec> pieces) const;
  void Sent(size_t bytes);
  void Moved(uint64_t bytes, int64_t now_ns);
  void StreamClosed();
  void Watch(bool write);
  void SetLowWater();

  const RedisConnectionOptions* options_;
  const int epoll_fd_;
  RedisNode* const node_;
  UniqueFd fd_;
  std::unique_ptr<RedisStream> stream_;
  RespReader reader_;
  State state_ = State::kClosed;
  RedisFault fault_ = RedisFault::kNone;
  std::string error_;
  bool watching_write_ = false;
  int low_water_ = 1;
  uint64_t replies_ = 0;
  uint32_t lost_commands_ = 0;

  RedisCommandList commands_;       // sent and unsent, in order
  RedisCommand* unsent_ = nullptr;  // the first that is not wholly sent
  uint64_t unsent_offset_ = 0;      // bytes of it that are
  uint64_t outstanding_bytes_ = 0;
  uint32_t outstanding_commands_ = 0;
  uint32_t skipped_replies_ = 0;  // of the first command
  bool collecting_ = false;       // an array of the first command has begun
  RedisCommand greeting_;
  uint32_t greeting_left_ = 0;
  int64_t opened_ns_ = 0;
  int64_t progress_ns_ = 0;
  uint64_t progress_bytes_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_CONNECTION_H_
