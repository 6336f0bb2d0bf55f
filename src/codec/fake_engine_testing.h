// For tests: a BlockEngine in this process that decodes in software, and refuses, fails, delays,
// mixes up or vanishes as told. Deterministic for each queue: its time are the calls of Poll.
#ifndef SHADOWSERVE_CODEC_FAKE_ENGINE_TESTING_H_
#define SHADOWSERVE_CODEC_FAKE_ENGINE_TESTING_H_

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "codec/block_engine.h"
#include "codec/deflate_codec.h"

namespace shadowserve::testing {

class FakeEngine final : public BlockEngine {
 public:
  // Parts of 100.
  struct Faults {
    uint32_t refuse = 0;   // a Submit takes nothing
    uint32_t fail = 0;     // an operation completes as kUnavailable or kCorrupt, its output spoilt
    uint32_t hold = 0;     // a Poll gives nothing
    bool reorder = false;  // completions come in any order
    uint64_t vanish_after = UINT64_MAX;  // operations that are answered, then none is
    bool answers_twice = false;
  };

  explicit FakeEngine(EngineLimits limits, uint32_t queues = 1) : limits_(limits), queues_(queues) {
    for (State& queue : queues_) queue.pending.reserve(limits.depth);
  }

  // What is told here changes only while no other thread is inside of a queue.
  Faults faults;
  // By number of the queue, where there is one: in place of `faults`.
  std::vector<Faults> faults_of_queue;
  bool stoppable = true;
  std::vector<std::span<std::byte>> memory;
  // Any thread.
  std::atomic<uint64_t> asked = 0;
  std::atomic<uint64_t> polls = 0;
  std::atomic<bool> stopped = false;

  size_t outstanding() const {
    const std::lock_guard lock(mutex_);
    size_t count = 0;
    for (const State& queue : queues_) count += queue.pending.size();
    return count;
  }
  uint64_t answered(size_t queue) const {
    const std::lock_guard lock(mutex_);
    return queues_[queue].answered;
  }
  size_t open_queues() const {
    const std::lock_guard lock(mutex_);
    return static_cast<size_t>(
        std::ranges::count_if(queues_, [](const State& queue) { return queue.open; }));
  }
  // Does what a vanished engine may still do: writes its outputs, late.
  void WriteLate() {
    const std::lock_guard lock(mutex_);
    for (const State& queue : queues_) {
      for (const EngineOp& op : queue.pending) {
        std::memset(op.symbols.data(), 0xEE, op.symbols.size());
      }
    }
  }

  std::string Describe() const override { return "fake"; }
  EngineLimits limits() const override { return limits_; }
  Status AddMemory(std::span<std::byte> bytes) override {
    memory.push_back(bytes);
    return OkStatus();
  }
  void RemoveMemory(std::span<std::byte> bytes) override {
    std::erase_if(memory, [&](const auto& known) { return known.data() == bytes.data(); });
  }
  Result<std::unique_ptr<EngineQueue>> OpenQueue() override {
    const std::lock_guard lock(mutex_);
    for (State& queue : queues_) {
      if (queue.open) continue;
      queue.open = true;
      return std::unique_ptr<EngineQueue>(std::make_unique<Queue>(this, &queue));
    }
    return Status(StatusCode::kExhausted, "no queue is left");
  }
  bool Stop() override {
    const std::lock_guard lock(mutex_);
    if (!stoppable) return false;
    stopped = true;
    for (State& queue : queues_) queue.pending.clear();
    return true;
  }

 private:
  struct State {
    bool open = false;
    uint64_t answered = 0;
    std::minstd_rand random{1};
    std::vector<EngineOp> pending;
    bool Chance(uint32_t parts) { return random() % 100 < parts; }
  };
  class Queue final : public EngineQueue {
   public:
    Queue(FakeEngine* engine, State* state) : engine_(engine), state_(state) {}
    ~Queue() override {
      const std::lock_guard lock(engine_->mutex_);
      state_->open = false;
    }
    size_t Submit(std::span<const EngineOp> ops) override { return engine_->Submit(state_, ops); }
    size_t Poll(std::span<EngineDone> done) override { return engine_->Poll(state_, done); }

   private:
    FakeEngine* engine_;
    State* state_;
  };

  const Faults& FaultsOf(const State* queue) const {
    const auto number = static_cast<size_t>(queue - queues_.data());
    return number < faults_of_queue.size() ? faults_of_queue[number] : faults;
  }

  size_t Submit(State* queue, std::span<const EngineOp> ops) {
    const std::lock_guard lock(mutex_);
    if (stopped || queue->Chance(FaultsOf(queue).refuse)) return 0;
    const size_t count = std::min(ops.size(), limits_.depth - queue->pending.size());
    for (const EngineOp& op : ops.first(count)) {
      if (op.coded.empty() || op.coded.size() > limits_.op_bytes_max || op.symbols.empty() ||
          op.symbols.size() > limits_.op_bytes_max) {
        return static_cast<size_t>(&op - ops.data());
      }
      queue->pending.push_back(op);
      ++asked;
    }
    return count;
  }

  size_t Poll(State* queue, std::span<EngineDone> done) {
    const std::lock_guard lock(mutex_);
    ++polls;
    const Faults& told = FaultsOf(queue);
    std::vector<EngineOp>& pending = queue->pending;
    size_t count = 0;
    while (count < done.size() && !pending.empty() && !queue->Chance(told.hold)) {
      if (queue->answered >= told.vanish_after) return count;
      const size_t at = told.reorder ? queue->random() % pending.size() : 0;
      const EngineOp op = pending[at];
      pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(at));
      done[count++] = {op.tag, Run(queue, told, op)};
      ++queue->answered;
      if (told.answers_twice && count < done.size()) done[count++] = {op.tag, StatusCode::kOk};
    }
    return count;
  }

  StatusCode Run(State* queue, const Faults& told, const EngineOp& op) {
    if (queue->Chance(told.fail)) {
      std::memset(op.symbols.data(), 0xBD, op.symbols.size());
      return queue->Chance(50) ? StatusCode::kCorrupt : StatusCode::kUnavailable;
    }
    return codec_->Decode(op.coded, op.symbols).code();
  }

  const EngineLimits limits_;
  std::unique_ptr<BlockCodec> codec_ = MakeDeflateCodec();
  mutable std::mutex mutex_;  // guards queues_ and codec_
  std::vector<State> queues_;
};

}  // namespace shadowserve::testing

#endif  // SHADOWSERVE_CODEC_FAKE_ENGINE_TESTING_H_
