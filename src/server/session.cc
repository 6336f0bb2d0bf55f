#include "server/session.h"

#include <utility>

#include "base/log.h"

namespace shadowserve {
namespace {

// Messages that wait for a client that does not read. One more ends the session: the client's
// engine falls back to plain serving, and its reconnect starts clean.
constexpr size_t kSendQueueMax = 16384;

class Reactor;

// Outlives the stream: whoever still holds it after the end sends into nothing.
class Sink final : public SessionSink {
 public:
  explicit Sink(Reactor* reactor) : reactor_(reactor) {}
  OutgoingQueue::Message Take() override;
  void Send(OutgoingQueue::Message message) override;
  void Close() {
    const std::lock_guard lock(mutex_);
    reactor_ = nullptr;
  }

 private:
  std::mutex mutex_;
  Reactor* reactor_;
};

class Reactor final : public grpc::ServerBidiReactor<v1::ClientMessage, v1::ServerMessage> {
 public:
  explicit Reactor(Engines* engines) : engines_(engines), sink_(std::make_shared<Sink>(this)) {
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(grpc::Status::OK);
    if (!attached_) {
      OutgoingQueue::Message message = Take();
      *message->mutable_hello_reply() = engines_->Attach(sink_, incoming_);
      attached_ = message->hello_reply().status() == 0;
      Queue(std::move(message), /*last=*/!attached_);
      if (!attached_) return;
    } else if (const Status status = engines_->Handle(sink_.get(), incoming_); !status.ok()) {
      Log(LogLevel::kWarn, "session ended: {}", status.ToString());
      return End(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, std::string(status.message())));
    }
    StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    outgoing_.Pop();
    if (!ok || ended_) {
      outgoing_.Clear();
    } else if (!outgoing_.empty()) {
      StartWrite(&outgoing_.front());
    } else if (last_queued_) {
      EndLocked(grpc::Status::OK);
    }
  }

  void OnCancel() override { End(grpc::Status::CANCELLED); }

  void OnDone() override {
    sink_->Close();
    engines_->Detach(sink_.get());
    delete this;
  }

  OutgoingQueue::Message Take() {
    const std::lock_guard lock(mutex_);
    return outgoing_.Take();
  }
  void Queue(OutgoingQueue::Message message, bool last) {
    const std::lock_guard lock(mutex_);
    if (ended_ || last_queued_) return;
    if (outgoing_.size() >= kSendQueueMax) {
      return EndLocked(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "client does not read"));
    }
    last_queued_ = last;
    outgoing_.Push(std::move(message));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

 private:
  void End(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    EndLocked(status);
  }
  void EndLocked(const grpc::Status& status) {
    if (std::exchange(ended_, true)) return;
    Finish(status);
  }

  Engines* engines_;
  const std::shared_ptr<Sink> sink_;
  v1::ClientMessage incoming_;
  bool attached_ = false;
  std::mutex mutex_;
  OutgoingQueue outgoing_;  // the front is being written
  bool last_queued_ = false;
  bool ended_ = false;
};

OutgoingQueue::Message Sink::Take() {
  const std::lock_guard lock(mutex_);
  return reactor_ != nullptr ? reactor_->Take() : OutgoingQueue().Take();
}

void Sink::Send(OutgoingQueue::Message message) {
  const std::lock_guard lock(mutex_);
  if (reactor_ != nullptr) reactor_->Queue(std::move(message), /*last=*/false);
}

}  // namespace

grpc::ServerBidiReactor<v1::ClientMessage, v1::ServerMessage>* NewSession(Engines* engines) {
  return new Reactor(engines);  // deleted in OnDone
}

}  // namespace shadowserve
