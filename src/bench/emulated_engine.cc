#include "bench/emulated_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/log.h"
#include "codec/deflate_codec.h"
#include "device/stream_copy.h"
#include "flow/affinity.h"
#include "format/segment.h"

namespace shadowserve {
namespace {

constexpr uint64_t kArenaBytes = uint64_t{8} << 20;
constexpr size_t kCacheLineBytes = 64;

}  // namespace

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
    if (taken > 0) engine_->work_.notify_all();
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

EmulatedEngine::EmulatedEngine(const CardProfile& card, const std::vector<int>& cpus,
                               const Clock* clock)
    : card_(card), clock_(clock) {
  const size_t threads = std::clamp<size_t>(cpus.size(), 1, kThreadsMax);
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this, cpus] { Run(cpus); });
}

EmulatedEngine::~EmulatedEngine() {
  Stop();
}

EmulatedEngine::Counts EmulatedEngine::counts() const {
  return {tasks_.load(), decoded_here_.load(), late_ns_.load(), bytes_.load(), busy_ns_.load()};
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
  work_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
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
  const std::unique_ptr<BlockCodec> codec = MakeDeflateCodec();
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return;
    Task* const task = waiting_.front();
    waiting_.erase(waiting_.begin());
    lock.unlock();
    Finish(codec.get(), task);
    lock.lock();
  }
}

void EmulatedEngine::Finish(BlockCodec* codec, Task* task) {
  const int64_t start_ns = clock_->NowNs();
  task->code = Decode(codec, task->op);
  const int64_t now_ns = clock_->NowNs();
  bytes_ += task->op.symbols.size();
  busy_ns_ += static_cast<uint64_t>(now_ns - start_ns);
  late_ns_ += static_cast<uint64_t>(std::max<int64_t>(now_ns - task->due_ns, 0));
  // From here on the task is its queue's again.
  task->done.store(true, std::memory_order_release);
  ++tasks_;
}

StatusCode EmulatedEngine::Decode(BlockCodec* codec, const EngineOp& op) {
  const BlockKey key = KeyOf(op);
  if (const std::span<const std::byte> known = Find(key); !known.empty()) {
    CopyPastCache(op.symbols.data(), known.data(), known.size());
    return StatusCode::kOk;
  }
  ++decoded_here_;
  const StatusCode code = codec->Decode(op.coded, op.symbols).code();
  if (code == StatusCode::kOk) Remember(key, op.symbols);
  return code;
}

std::span<const std::byte> EmulatedEngine::Find(const BlockKey& key) {
  const std::shared_lock lock(known_mutex_);
  const auto found = known_.find(key);
  return found == known_.end() ? std::span<const std::byte>() : found->second;
}

void EmulatedEngine::Remember(const BlockKey& key, std::span<const std::byte> symbols) {
  const std::lock_guard lock(known_mutex_);
  const size_t bytes = (symbols.size() + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
  if (arena_room_.size() < bytes) {
    if ((arenas_.size() + 1) * kArenaBytes > kKnownBytesMax) return;
    Result<Region> arena = Region::Create(kArenaBytes);
    if (!arena.ok()) return;
    arenas_.push_back(std::move(arena).value());
    arena_room_ = arenas_.back().bytes();
  }
  std::memcpy(arena_room_.data(), symbols.data(), symbols.size());
  known_.emplace(key, arena_room_.first(symbols.size()));
  arena_room_ = arena_room_.subspan(bytes);
}

EmulatedEngine::BlockKey EmulatedEngine::KeyOf(const EngineOp& op) {
  BlockKey key{Crc32c(op.coded), static_cast<uint32_t>(op.coded.size()),
               static_cast<uint32_t>(op.symbols.size()), 0};
  const size_t last = std::min(op.coded.size(), sizeof(key.last));
  std::memcpy(&key.last, op.coded.last(last).data(), last);
  return key;
}

}  // namespace shadowserve
