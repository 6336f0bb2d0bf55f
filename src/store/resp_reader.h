// RespReader: RESP2 replies, a piece at a time, bulk bodies straight into the caller's buffer.
//
// RESP2, what a server sends (protocol of Redis 2.0 and later, and of Valkey):
//   +<text>\r\n          simple string
//   -<text>\r\n          error; its first word is the kind
//   :<number>\r\n        integer
//   $<count>\r\n<count bytes>\r\n   bulk string; $-1\r\n is nil
//   *<count>\r\n<count replies>     array; *-1\r\n is nil
//
// The caller receives into Places(): while a bulk body is on its way these are {the rest of the
// body in its final place, a small tail}, else only the tail. So a body is never copied in user
// space, but for what one read brought beyond the reply before it (the caller bounds that).
//
// Input is hostile: a length is checked before it is used, nothing is written outside the target,
// and a body that does not fit it is drained and stored nowhere. After kBad the stream has no
// meaning any more. Allocates nothing. Not thread-safe.
#ifndef SHADOWSERVE_STORE_RESP_READER_H_
#define SHADOWSERVE_STORE_RESP_READER_H_

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace shadowserve {

enum class RespType : uint8_t { kSimple, kError, kInteger, kBulk, kNil, kArray };

struct RespToken {
  RespType type = RespType::kNil;
  int64_t number = 0;     // kInteger: value; kBulk: bytes; kArray: items that follow
  bool stored = false;    // kBulk: it fitted, and is in the target
  std::string_view text;  // kSimple, kError: without sign and end; valid until the next call
};

class RespReader {
 public:
  static constexpr size_t kTailBytes = 16 * 1024;
  static constexpr size_t kLineBytesMax = 4 * 1024;
  static constexpr int64_t kBulkBytesMax = int64_t{512} << 20;  // proto-max-bulk-len of servers
  static constexpr int64_t kArrayItemsMax = 1 << 17;

  enum class Step : uint8_t { kToken, kMore, kBad };

  // The next token of the stream; kMore: receive first. A bulk body goes to `target`, which has to
  // be the same in all calls until the token is out.
  Step Next(std::span<std::byte> target, RespToken* token);

  // Where to receive: fills one or two of `places`, returns how many. Together they take at most
  // `bytes_max` (at least 1) bytes, of which at most `read_ahead` (at least 1) beyond the current
  // body. REQUIRES: Next said kMore.
  size_t Places(size_t read_ahead, size_t bytes_max, std::span<iovec, 2> places);
  // So many bytes were received into the last Places.
  void Received(size_t bytes);

  // What is missing of the current body; 0 between bodies.
  uint64_t body_left() const { return body_left_; }

  // A new stream.
  void Reset();

 private:
  Step Line(std::string_view* line);
  Step Parse(std::string_view line, std::span<std::byte> target, RespToken* token);
  Step Body(RespToken* token);
  size_t buffered() const { return end_ - begin_; }

  std::array<std::byte, kTailBytes> tail_;
  size_t begin_ = 0;
  size_t end_ = 0;
  bool in_body_ = false;
  std::byte* body_ = nullptr;  // where its next byte goes; null: drained
  uint64_t body_bytes_ = 0;
  uint64_t body_left_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_RESP_READER_H_
