// RedisCommand: one command on its way to a server and its reply on the way back.
//
// The command's text lies with its owner, in up to three pieces that are sent one after another, so
// that a value is sent from where it is. All of it is lent from Queue until OnReply, which comes
// exactly once: with the server's reply, or with kLost when the connection ended first. Then the
// server may or may not have run the command. Commands are links of lists: nothing is allocated.
#ifndef SHADOWSERVE_STORE_REDIS_COMMAND_H_
#define SHADOWSERVE_STORE_REDIS_COMMAND_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace shadowserve {

class RespCollector;
struct RedisCommand;

struct RedisReply {
  enum class Kind : uint8_t {
    kSimple,     // +OK
    kError,      // `text`
    kInteger,    // `number`
    kBulk,       // `number` bytes are in the target
    kTooLarge,   // a bulk of `number` bytes did not fit the target; nothing was stored
    kNil,        //
    kCollected,  // an array, which is in the collector
    kLost,       // no reply: the connection ended
  };
  Kind kind = Kind::kLost;
  int64_t number = 0;
  std::string_view text;  // valid during OnReply
};

class RedisReplyListener {
 public:
  virtual ~RedisReplyListener() = default;
  // May queue commands; must not close or open connections.
  virtual void OnReply(RedisCommand* command, const RedisReply& reply) = 0;
};

struct RedisCommand {
  std::array<std::span<const std::byte>, 3> pieces;
  std::span<std::byte> target;         // where a bulk reply goes
  RespCollector* collector = nullptr;  // for replies that are arrays
  uint32_t replies_to_skip = 0;        // of commands sent in front (ASKING)
  uint64_t expected_bytes = 0;         // of value, either way: for the bound of a connection
  int64_t deadline_ns = INT64_MAX;     // while it waits for a connection
  RedisReplyListener* listener = nullptr;
  RedisCommand* next = nullptr;
};

// First in, first out. Not thread-safe.
class RedisCommandList {
 public:
  bool empty() const { return first_ == nullptr; }
  RedisCommand* front() const { return first_; }
  void Push(RedisCommand* command) {
    command->next = nullptr;
    (first_ == nullptr ? first_ : last_->next) = command;
    last_ = command;
  }
  RedisCommand* Pop() {
    RedisCommand* const command = first_;
    first_ = command->next;
    command->next = nullptr;
    return command;
  }
  RedisCommandList TakeAll() {
    const RedisCommandList all = *this;
    first_ = nullptr;
    return all;
  }

 private:
  RedisCommand* first_ = nullptr;
  RedisCommand* last_ = nullptr;
};

// Tells all of them that there will be no reply.
void LoseAll(RedisCommandList commands);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_COMMAND_H_
