#include "bench/emulated_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/log.h"
#include "codec/deflate_codec.h"
#include "flow/affinity.h"
#include "format/segment.h"

namespace shadowserve {

class EmulatedEngine::Queue final : public EngineQueue {
 public:
  explicit Queue(EmulatedEngine* engine) : engine_(engine), tasks_(engine->card_.engine.depth) {}

  ~Queue() override {
    // Nothing may write to what was lent once the queue is gone, but to a stopped engine's.
    for (; out_ > 0; Pop()) {
      while (!Front().done.load(std::memory_order_acquire) && !Stopped()) std::this_thread::yield();
    }
    const std::lock_guard lock(engine_->mutex_);
    engine_->room_ -= tasks_.size();
  }

  size_t Submit(std::span<const EngineOp> ops) override {
    size_t taken = 0;
    {
      const std::lock_guard lock(engine_->mutex_);
      const int64_t now_ns = engine_->clock_->NowNs();
      for (const EngineOp& op : ops) {
        if (out_ == tasks_.size() || engine_->stopping_ || !engine_->Fits(op)) break;
        Task& task = tasks_[(front_ + out_) % tasks_.size()];
        task.op = op;
        task.due_ns = engine_->Schedule(now_ns, op.symbols.size());
        task.done.store(false, std::memory_order_relaxed);
        engine_->waiting_.push_back(&task);
        ++out_;
        ++taken;
      }
    }
    if (taken > 0) engine_->work_.notify_one();
    return taken;
  }

  size_t Poll(std::span<EngineDone> done) override {
    if (out_ == 0) return 0;
    const int64_t now_ns = engine_->clock_->NowNs();
    size_t count = 0;
    for (; count < done.size() && out_ > 0; Pop()) {
      const Task& task = Front();
      if (task.due_ns > now_ns || !task.done.load(std::memory_order_acquire)) break;
      done[count++] = {task.op.tag, task.code};
    }
    return count;
  }

 private:
  const Task& Front() const { return tasks_[front_]; }
  void Pop() {
    front_ = (front_ + 1) % tasks_.size();
    --out_;
  }
  bool Stopped() const {
    const std::lock_guard lock(engine_->mutex_);
    return engine_->stopping_;
  }

  EmulatedEngine* const engine_;
  std::vector<Task> tasks_;  // ring: answered in the order of submission
  size_t front_ = 0;
  size_t out_ = 0;
};

EmulatedEngine::EmulatedEngine(const CardProfile& card, std::vector<int> cpus, const Clock* clock)
    : card_(card),
      clock_(clock),
      codec_(MakeDeflateCodec()),
      thread_([this, cpus = std::move(cpus)] { Run(cpus); }) {}

EmulatedEngine::~EmulatedEngine() {
  Stop();
}

EmulatedEngine::Counts EmulatedEngine::counts() const {
  return {tasks_.load(), decoded_here_.load(), late_.load()};
}

Result<std::unique_ptr<EngineQueue>> EmulatedEngine::OpenQueue() {
  const std::lock_guard lock(mutex_);
  room_ += card_.engine.depth;
  waiting_.reserve(room_);
  return std::unique_ptr<EngineQueue>(std::make_unique<Queue>(this));
}

bool EmulatedEngine::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_.notify_one();
  if (thread_.joinable()) thread_.join();
  return true;
}

bool EmulatedEngine::Fits(const EngineOp& op) const {
  const auto fits = [this](size_t bytes) {
    return bytes > 0 && bytes <= card_.engine.op_bytes_max;
  };
  return fits(op.coded.size()) && fits(op.symbols.size());
}

int64_t EmulatedEngine::Schedule(int64_t now_ns, size_t symbol_bytes) {
  const double bytes = static_cast<double>(symbol_bytes);
  server_free_ns_ = std::max(server_free_ns_, static_cast<double>(now_ns)) +
                    bytes / card_.engine_bytes_per_s * static_cast<double>(kNsPerSecond);
  return static_cast<int64_t>(std::ceil(server_free_ns_)) + card_.engine_task_ns;
}

void EmulatedEngine::Run(const std::vector<int>& cpus) {
  NameThisThread("ss-card-engine");
  if (const Status pinned = PinThisThread(cpus); !pinned.ok()) {
    Log(LogLevel::kWarn, "{}", pinned.message());
  }
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    Task* const task = waiting_.front();
    waiting_.erase(waiting_.begin());
    lock.unlock();
    Finish(task);
    lock.lock();
  }
}

void EmulatedEngine::Finish(Task* task) {
  task->code = Decode(task->op);
  ++tasks_;
  if (clock_->NowNs() > task->due_ns) ++late_;
  // From here on the task is its queue's again.
  task->done.store(true, std::memory_order_release);
}

StatusCode EmulatedEngine::Decode(const EngineOp& op) {
  const BlockKey key = KeyOf(op);
  if (const auto found = known_.find(key); found != known_.end()) {
    std::memcpy(op.symbols.data(), found->second.data(), op.symbols.size());
    return StatusCode::kOk;
  }
  ++decoded_here_;
  const StatusCode code = codec_->Decode(op.coded, op.symbols).code();
  if (code == StatusCode::kOk && known_bytes_ + op.symbols.size() <= kKnownBytesMax) {
    known_bytes_ += op.symbols.size();
    known_.emplace(key, std::vector<std::byte>(op.symbols.begin(), op.symbols.end()));
  }
  return code;
}

EmulatedEngine::BlockKey EmulatedEngine::KeyOf(const EngineOp& op) {
  BlockKey key{Crc32c(op.coded), static_cast<uint32_t>(op.coded.size()),
               static_cast<uint32_t>(op.symbols.size()), 0};
  const size_t last = std::min(op.coded.size(), sizeof(key.last));
  std::memcpy(&key.last, op.coded.last(last).data(), last);
  return key;
}

}  // namespace shadowserve
