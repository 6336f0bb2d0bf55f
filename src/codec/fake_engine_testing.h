// For tests: a BlockEngine in this process that decodes in software, and refuses, fails, delays,
// mixes up or vanishes as told. Deterministic: its time are the calls of Poll.
#ifndef SHADOWSERVE_CODEC_FAKE_ENGINE_TESTING_H_
#define SHADOWSERVE_CODEC_FAKE_ENGINE_TESTING_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
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

  explicit FakeEngine(EngineLimits limits) : limits_(limits) { pending_.reserve(limits.depth); }

  Faults faults;
  bool stoppable = true;
  uint64_t answered = 0;
  uint64_t asked = 0;
  std::vector<std::span<std::byte>> memory;
  bool stopped = false;

  size_t outstanding() const { return pending_.size(); }
  // Does what a vanished engine may still do: writes its outputs, late.
  void WriteLate() {
    for (const EngineOp& op : pending_) std::memset(op.symbols.data(), 0xEE, op.symbols.size());
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
    if (std::exchange(queue_open_, true)) return Status(StatusCode::kExhausted, "one queue");
    return std::unique_ptr<EngineQueue>(std::make_unique<Queue>(this));
  }
  bool Stop() override {
    if (stoppable) stopped = true, pending_.clear();
    return stoppable;
  }

 private:
  class Queue final : public EngineQueue {
   public:
    explicit Queue(FakeEngine* engine) : engine_(engine) {}
    ~Queue() override { engine_->queue_open_ = false; }
    size_t Submit(std::span<const EngineOp> ops) override { return engine_->Submit(ops); }
    size_t Poll(std::span<EngineDone> done) override { return engine_->Poll(done); }

   private:
    FakeEngine* engine_;
  };

  bool Chance(uint32_t parts) { return random_() % 100 < parts; }

  size_t Submit(std::span<const EngineOp> ops) {
    if (stopped || Chance(faults.refuse)) return 0;
    const size_t count = std::min(ops.size(), limits_.depth - pending_.size());
    for (const EngineOp& op : ops.first(count)) {
      if (op.coded.empty() || op.coded.size() > limits_.op_bytes_max || op.symbols.empty() ||
          op.symbols.size() > limits_.op_bytes_max) {
        return static_cast<size_t>(&op - ops.data());
      }
      pending_.push_back(op);
      ++asked;
    }
    return count;
  }

  size_t Poll(std::span<EngineDone> done) {
    size_t count = 0;
    while (count < done.size() && !pending_.empty() && !Chance(faults.hold)) {
      if (answered >= faults.vanish_after) return count;
      const size_t at = faults.reorder ? random_() % pending_.size() : 0;
      const EngineOp op = pending_[at];
      pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(at));
      done[count++] = {op.tag, Run(op)};
      ++answered;
      if (faults.answers_twice && count < done.size()) done[count++] = {op.tag, StatusCode::kOk};
    }
    return count;
  }

  StatusCode Run(const EngineOp& op) {
    if (Chance(faults.fail)) {
      std::memset(op.symbols.data(), 0xBD, op.symbols.size());
      return Chance(50) ? StatusCode::kCorrupt : StatusCode::kUnavailable;
    }
    return codec_->Decode(op.coded, op.symbols).code();
  }

  EngineLimits limits_;
  std::unique_ptr<BlockCodec> codec_ = MakeDeflateCodec();
  std::minstd_rand random_{1};
  std::vector<EngineOp> pending_;
  bool queue_open_ = false;
};

}  // namespace shadowserve::testing

#endif  // SHADOWSERVE_CODEC_FAKE_ENGINE_TESTING_H_
