// Session: one control stream to the data plane that comes back by itself.
//
// Two threads, named and blocked when idle: the reader connects, says hello and reads; the writer
// sends what is queued, pings, and watches the time of a connect. The caller's threads never block:
// Send puts a message into a bounded queue or fails.
//
// A connection counts from the data plane's HelloReply to its break. Messages queued for one
// connection are never sent on a later one. After a break, or when nobody answers, it is tried
// again with an exponential backoff, for ever.
//
// Health: while an answer is owed (a ping, or a message sent with `answer_owed`) and nothing at all
// has been heard for `silent_ms`, the session is unhealthy; after `dead_ms` the stream is broken.
// Time here is real time: only the patience of a network, never the fate of a load or a page.
#ifndef SHADOWSERVE_CLIENT_SESSION_H_
#define SHADOWSERVE_CLIENT_SESSION_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "rpc/control.pb.h"
#include "rpc/tls.h"

namespace shadowserve {

struct SessionOptions {
  Address address;
  TlsFiles tls;      // read anew for each connection: what a restart replaced is taken
  std::string name;  // of its threads and in the log; 12 bytes count
  int backoff_first_ms = 50;
  int backoff_last_ms = 2000;
  int connect_ms = 5000;    // from the first packet to HelloReply
  int ping_busy_ms = 1000;  // while something is outstanding
  int ping_idle_ms = 5000;
  int silent_ms = 1000;
  int dead_ms = 10'000;
  size_t queue_messages_max = 1024;
  size_t queue_bytes_max = 8 << 20;
};

// Called on the reader thread, but for Outstanding (writer thread); never with a lock of Session
// held.
class SessionListener {
 public:
  virtual ~SessionListener() = default;
  // Fills the hello of a new connection. kUnavailable and kDeadline: try again later; any other
  // error is a refusal.
  virtual Status MakeHello(v1::ClientMessage* hello) = 0;
  // The data plane accepted. No Send succeeds before this returns; `first` is sent before all else.
  virtual void OnConnected(const v1::HelloReply& reply, std::vector<v1::ClientMessage>* first) = 0;
  virtual void OnMessage(const v1::ServerMessage& message) = 0;
  // Once per OnConnected. No Send succeeds from before this call until the next OnConnected
  // returns.
  virtual void OnBroken() = 0;
  virtual bool Outstanding() = 0;
};

class Session {
 public:
  // `listener` outlives the session.
  Session(SessionOptions options, SessionListener* listener);
  // Starts connecting, and with it the callbacks. Once, before all else.
  void Start();
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  enum class Overflow { kFail, kBreak };
  struct SendOptions {
    bool answer_owed = false;
    Overflow overflow =
        Overflow::kFail;  // kBreak: the stream is worth nothing without this message
  };
  // kUnavailable: not connected; kExhausted: the queue is full. Thread-safe, never blocks.
  Status Send(v1::ClientMessage message, const SendOptions& options);
  Status Send(v1::ClientMessage message) { return Send(std::move(message), SendOptions{}); }

  // Connected, and not silent while it owes an answer. Thread-safe, no lock in the common case.
  bool healthy();
  bool connected() const { return phase_.load() == Phase::kReady; }
  // Waits for the first decision about the current connection: true = accepted, false = nobody
  // there within the time; an error = the data plane (or MakeHello) refused, with the remedy.
  // Thread-safe.
  Result<bool> WaitReady(int64_t timeout_ms);
  // Connections that broke. Thread-safe.
  uint64_t breaks() const { return breaks_.load(std::memory_order_relaxed); }
  // Ends both threads and calls OnBroken if connected. Idempotent. Not from a callback.
  void Close();

 private:
  enum class Phase { kDown, kConnecting, kReady };
  struct Stream;  // gRPC's types, in session.cc

  void RunReader();
  bool RunConnection();
  bool Connect(Stream* stream, std::string* error);
  void EndConnection(Stream* stream, bool was_ready);
  void RunWriter();
  // Returns when there is something to do; REQUIRES and leaves the lock held.
  void WaitForWork(std::unique_lock<std::mutex>& lock);
  void WriteFront(std::unique_lock<std::mutex>& lock);
  void BreakLocked();
  void Refuse(const Status& status);
  void LogChange(std::string_view state, std::string_view why);

  const SessionOptions options_;
  SessionListener* const listener_;

  std::mutex mu_;
  std::condition_variable changed_;  // for both threads and WaitReady
  bool stopping_ = false;
  bool writing_ = false;
  Stream* stream_ = nullptr;  // while connecting or ready
  int64_t connect_until_ms_ = 0;
  int64_t last_ping_ms_ = 0;
  Status refusal_;
  std::deque<v1::ClientMessage> queue_;
  size_t queue_bytes_ = 0;
  std::string logged_state_;

  // Written under mu_, read by healthy() and connected() without it: a stale value only makes a
  // caller send (and fail) or not wait.
  std::atomic<Phase> phase_ = Phase::kDown;
  std::atomic<int64_t> owed_since_ms_ = 0;  // 0: nothing is owed
  std::atomic<uint64_t> breaks_ = 0;

  std::thread reader_;
  std::thread writer_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_SESSION_H_
