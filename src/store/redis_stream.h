// RedisStream: the bytes of one connection, plain or TLS, non-blocking. Owner thread: the
// connection's.
#ifndef SHADOWSERVE_STORE_REDIS_STREAM_H_
#define SHADOWSERVE_STORE_REDIS_STREAM_H_

#include <sys/uio.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace shadowserve {

enum class StreamState : uint8_t { kDone, kWouldBlock, kClosed };

struct StreamResult {
  StreamState state = StreamState::kDone;
  size_t bytes = 0;  // kDone: at least 1
  // kWouldBlock: the stream waits until it can write (TLS may, while it reads).
  bool wants_write = false;
};

class RedisStream {
 public:
  virtual ~RedisStream() = default;
  // Agrees on keys; bytes = 0 when done. Repeat until it is done.
  virtual StreamResult Handshake() = 0;
  virtual StreamResult Receive(std::span<iovec> places) = 0;
  // After kWouldBlock the next call must begin at the same byte of the stream.
  virtual StreamResult Send(std::span<const iovec> pieces) = 0;
  // Bytes that were received from the system already and wait in here.
  virtual bool HasBuffered() const = 0;
  // Why it closed, for people; empty when there is nothing to say.
  virtual std::string Error() const = 0;
};

// `fd` stays the caller's and outlives the stream.
std::unique_ptr<RedisStream> MakePlainStream(int fd);

struct TlsOptions {
  std::string ca_file;    // PEM; empty: the system's authorities
  std::string cert_file;  // PEM chain and key of this client; empty: none
  std::string key_file;
  std::string server_name;  // expected in the certificate; empty: the host that is connected to
};

// Keys and authorities, read once. Owner thread: the store's.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
  // A client's stream that accepts only a certificate for `host` (a name or an IP address), or for
  // the server_name of the options.
  virtual Result<std::unique_ptr<RedisStream>> MakeStream(int fd, const std::string& host) = 0;
};

// kInvalidArgument names the file that cannot be used.
Result<std::unique_ptr<TlsContext>> MakeTlsContext(const TlsOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_STREAM_H_
