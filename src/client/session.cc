#include "client/session.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>

#include "base/log.h"
#include "rpc/channel.h"
#include "rpc/control.grpc.pb.h"
#include "rpc/convert.h"

namespace shadowserve {
namespace {

// Never 0, which stands for "nothing owed".
int64_t NowMs() {
  return 1 + std::chrono::duration_cast<std::chrono::milliseconds>(
                 std::chrono::steady_clock::now().time_since_epoch())
                 .count();
}

void NameThread(const std::string& name) {
  pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());
}

bool TryAgain(StatusCode code) {
  return code == StatusCode::kUnavailable || code == StatusCode::kDeadline;
}

}  // namespace

struct Session::Stream {
  explicit Stream(std::shared_ptr<grpc::Channel> made)
      : channel(std::move(made)), stub(v1::Control::NewStub(channel)) {}
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Control::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReaderWriter<v1::ClientMessage, v1::ServerMessage>> calls;
};

Session::Session(SessionOptions options, SessionListener* listener)
    : options_(std::move(options)), listener_(listener) {}

void Session::Start() {
  reader_ = std::thread([this] { RunReader(); });
  writer_ = std::thread([this] { RunWriter(); });
}

Session::~Session() {
  Close();
}

void Session::Close() {
  {
    const std::lock_guard lock(mu_);
    stopping_ = true;
    BreakLocked();
  }
  changed_.notify_all();
  if (reader_.joinable()) reader_.join();
  if (writer_.joinable()) writer_.join();
}

Status Session::Send(v1::ClientMessage message, const SendOptions& options) {
  const size_t bytes = message.ByteSizeLong();
  {
    const std::lock_guard lock(mu_);
    if (phase_ != Phase::kReady || stopping_) {
      return Status(StatusCode::kUnavailable, "no connection to the data plane");
    }
    if (queue_.size() >= options_.queue_messages_max ||
        queue_bytes_ + bytes > options_.queue_bytes_max) {
      if (options.overflow == Overflow::kBreak) BreakLocked();
      return Status(StatusCode::kExhausted, "the data plane does not read its messages");
    }
    if (options.answer_owed && owed_since_ms_ == 0) owed_since_ms_ = NowMs();
    queue_.push_back(std::move(message));
    queue_bytes_ += bytes;
  }
  changed_.notify_all();
  return OkStatus();
}

bool Session::healthy() {
  if (phase_ != Phase::kReady) return false;
  const int64_t since = owed_since_ms_;
  if (since == 0) return true;
  const int64_t silence = NowMs() - since;
  if (silence > options_.dead_ms) {
    // The writer may sit in a Write that the peer never takes: break from here too.
    const std::lock_guard lock(mu_);
    BreakLocked();
  }
  return silence <= options_.silent_ms;
}

Result<bool> Session::WaitReady(int64_t timeout_ms) {
  std::unique_lock lock(mu_);
  changed_.wait_for(lock, std::chrono::milliseconds(std::max<int64_t>(timeout_ms, 0)),
                    [&] { return phase_ == Phase::kReady || !refusal_.ok() || stopping_; });
  if (phase_ == Phase::kReady) return true;
  if (!refusal_.ok()) return refusal_;
  return false;
}

void Session::BreakLocked() {
  if (stream_ != nullptr) stream_->context.TryCancel();
}

void Session::RunReader() {
  NameThread(options_.name + "-rd");
  int backoff_ms = options_.backoff_first_ms;
  for (;;) {
    {
      const std::lock_guard lock(mu_);
      if (stopping_) return;
    }
    if (RunConnection()) backoff_ms = options_.backoff_first_ms;
    std::unique_lock lock(mu_);
    if (!refusal_.ok()) backoff_ms = options_.backoff_last_ms;
    changed_.wait_for(lock, std::chrono::milliseconds(backoff_ms), [&] { return stopping_; });
    backoff_ms = std::min(backoff_ms * 2, options_.backoff_last_ms);
  }
}

// True when the data plane had accepted.
bool Session::RunConnection() {
  const Result<std::optional<TlsIdentity>> tls = ReadTlsFiles(options_.tls);
  if (!tls.ok()) {
    LogChange("unreachable", tls.status().message());
    return false;
  }
  Stream stream(MakeChannel(options_.address, *tls));
  {
    const std::lock_guard lock(mu_);
    if (stopping_) return false;
    stream_ = &stream;
    phase_ = Phase::kConnecting;
    connect_until_ms_ = NowMs() + options_.connect_ms;
  }
  changed_.notify_all();
  std::string error;
  const bool ready = Connect(&stream, &error);
  if (ready) {
    v1::ServerMessage message;
    while (stream.calls->Read(&message)) {
      owed_since_ms_ = 0;
      if (!message.has_pong()) listener_->OnMessage(message);
    }
  }
  EndConnection(&stream, ready);
  {
    const std::lock_guard lock(mu_);
    if (stopping_) return ready;
  }
  if (ready) error = "the stream ended";
  LogChange(ready ? "lost" : "unreachable", error);
  return ready;
}

bool Session::Connect(Stream* stream, std::string* error) {
  v1::ClientMessage hello;
  if (Status made = listener_->MakeHello(&hello); !made.ok()) {
    *error = made.ToString();
    if (!TryAgain(made.code())) Refuse(made);
    return false;
  }
  stream->calls = stream->stub->Session(&stream->context);
  v1::ServerMessage answer;
  if (!stream->calls->Write(hello) || !stream->calls->Read(&answer)) {
    const grpc::Status end = stream->calls->Finish();
    stream->calls.reset();
    *error = end.ok() ? "no answer" : end.error_message();
    if (end.error_code() == grpc::StatusCode::PERMISSION_DENIED) {
      Refuse(Status(StatusCode::kUnsupported, end.error_message()));
    }
    return false;
  }
  if (!answer.has_hello_reply()) {
    *error = "the answer is no HelloReply";
    return false;
  }
  const v1::HelloReply& reply = answer.hello_reply();
  if (Status status = StatusFromProto(reply.status(), reply.message()); !status.ok()) {
    *error = status.ToString();
    if (!TryAgain(status.code())) Refuse(status);
    return false;
  }
  std::vector<v1::ClientMessage> first;
  listener_->OnConnected(reply, &first);
  {
    const std::lock_guard lock(mu_);
    for (v1::ClientMessage& message : first) {
      queue_bytes_ += message.ByteSizeLong();
      queue_.push_back(std::move(message));
    }
    refusal_ = OkStatus();
    owed_since_ms_ = 0;
    last_ping_ms_ = NowMs();
    phase_ = Phase::kReady;
  }
  changed_.notify_all();
  LogChange("connected", reply.version());
  return true;
}

void Session::EndConnection(Stream* stream, bool was_ready) {
  {
    std::unique_lock lock(mu_);
    phase_ = Phase::kDown;
    stream->context.TryCancel();
    queue_.clear();
    queue_bytes_ = 0;
    owed_since_ms_ = 0;
    changed_.wait(lock, [&] { return !writing_; });
    stream_ = nullptr;
  }
  changed_.notify_all();
  if (was_ready) {
    breaks_.fetch_add(1, std::memory_order_relaxed);
    listener_->OnBroken();
  }
  if (stream->calls != nullptr) (void)stream->calls->Finish();
}

void Session::Refuse(const Status& status) {
  {
    const std::lock_guard lock(mu_);
    refusal_ = status;
  }
  changed_.notify_all();
}

// Once per change, not once per attempt.
void Session::LogChange(std::string_view state, std::string_view why) {
  const std::string text = std::string(state) + " " + std::string(why);
  if (text == logged_state_) return;
  logged_state_ = text;
  Log(state == "connected" ? LogLevel::kInfo : LogLevel::kWarn, "session {} {} {}: {}",
      options_.name, GrpcTarget(options_.address), state, why);
}

void Session::RunWriter() {
  NameThread(options_.name + "-wr");
  std::unique_lock lock(mu_);
  while (!stopping_) {
    if (phase_ == Phase::kReady && !queue_.empty()) {
      WriteFront(lock);
    } else {
      WaitForWork(lock);
    }
  }
}

void Session::WriteFront(std::unique_lock<std::mutex>& lock) {
  const v1::ClientMessage message = std::move(queue_.front());
  queue_.pop_front();
  queue_bytes_ -= std::min(queue_bytes_, message.ByteSizeLong());
  Stream* const stream = stream_;
  writing_ = true;
  lock.unlock();
  const bool written = stream->calls->Write(message);
  lock.lock();
  writing_ = false;
  if (!written) {
    // The reader sees the end of the stream and cleans up; until then nothing more is written.
    BreakLocked();
    queue_.clear();
    queue_bytes_ = 0;
  }
  changed_.notify_all();
}

void Session::WaitForWork(std::unique_lock<std::mutex>& lock) {
  if (phase_ == Phase::kDown) {
    changed_.wait(lock, [&] { return stopping_ || phase_ != Phase::kDown; });
    return;
  }
  if (phase_ == Phase::kConnecting) {
    const int64_t left_ms = connect_until_ms_ - NowMs();
    if (left_ms <= 0) BreakLocked();
    changed_.wait_for(lock, std::chrono::milliseconds(std::max<int64_t>(left_ms, 100)),
                      [&] { return stopping_ || phase_ != Phase::kConnecting; });
    return;
  }
  lock.unlock();
  const bool busy = listener_->Outstanding();
  lock.lock();
  if (stopping_ || phase_ != Phase::kReady || !queue_.empty()) return;
  const int64_t now_ms = NowMs();
  const int64_t owed_ms = owed_since_ms_;
  if (owed_ms != 0 && now_ms - owed_ms > options_.dead_ms) BreakLocked();
  const int64_t due_ms = last_ping_ms_ + (busy ? options_.ping_busy_ms : options_.ping_idle_ms);
  if (now_ms >= due_ms) {
    last_ping_ms_ = now_ms;
    if (owed_ms == 0) owed_since_ms_ = now_ms;
    v1::ClientMessage ping;
    ping.mutable_ping()->set_nonce(static_cast<uint64_t>(now_ms));
    queue_bytes_ += ping.ByteSizeLong();
    queue_.push_back(std::move(ping));
    return;
  }
  changed_.wait_for(lock, std::chrono::milliseconds(due_ms - now_ms),
                    [&] { return stopping_ || phase_ != Phase::kReady || !queue_.empty(); });
}

}  // namespace shadowserve
