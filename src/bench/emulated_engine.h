// EmulatedEngine: a card's decompression engine in time, software in fact. For benchmarks only.
//
// The card's engine is a server that takes tasks in order. A task is answered no earlier than the
// card could: when the server has decoded all before it and itself (`engine_bytes_per_s`), and
// `engine_task_ns` later. What it decodes is real: threads of its own do it, on CPUs that the data
// plane does not use. Software is slower than a card, so they remember what they have decoded: a
// block that they know is copied, past the caches, since a card's engine writes to memory. A
// benchmark lets every block pass once before it measures; afterwards answers are as late as the
// card's, or as this machine copies, which is counted.
#ifndef SHADOWSERVE_BENCH_EMULATED_ENGINE_H_
#define SHADOWSERVE_BENCH_EMULATED_ENGINE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "bench/card_profile.h"
#include "codec/codec.h"
#include "mem/slab_pool.h"

namespace shadowserve {

class EmulatedEngine final : public BlockEngine {
 public:
  // What it remembers at most; further blocks are decoded each time.
  static constexpr uint64_t kKnownBytesMax = uint64_t{2} << 30;
  // As many as copy at a card's rate, where there are CPUs for them.
  static constexpr size_t kThreadsMax = 4;
  // For EnginePort: it always answers, if late where a block is not known or the machine is busy.
  static constexpr int64_t kAnswerNs = 60 * kNsPerSecond;

  struct Counts {
    uint64_t tasks = 0;         // done
    uint64_t decoded_here = 0;  // of these, those that were not known before
    uint64_t late_ns = 0;       // by which they were later than the card's, together
    uint64_t bytes = 0;         // decoded ones of theirs
    uint64_t busy_ns = 0;       // of all threads
  };

  // `cpus`: where its threads run, at most one each; empty: one, where the caller does. `clock`
  // outlives it.
  EmulatedEngine(const CardProfile& card, const std::vector<int>& cpus, const Clock* clock);
  ~EmulatedEngine() override;

  // Any thread.
  Counts counts() const;
  size_t threads() const { return threads_.size(); }

  std::string Describe() const override { return std::string("emulated ") + card_.name; }
  EngineLimits limits() const override { return card_.engine; }
  // The memory is this process's.
  Status AddMemory(std::span<std::byte>) override { return OkStatus(); }
  void RemoveMemory(std::span<std::byte>) override {}
  Result<std::unique_ptr<EngineQueue>> OpenQueue() override;
  bool Stop() override;

 private:
  class Queue;
  struct Task {
    EngineOp op;
    int64_t due_ns = 0;
    StatusCode code = StatusCode::kUnavailable;
    std::atomic<bool> done = false;  // released by an engine's thread: `code` and the symbols
  };
  // A block's coded bytes: their CRC and their last ones, which a CRC of 32 bits alone would mix up
  // too often.
  struct BlockKey {
    uint32_t crc = 0;
    uint32_t coded_bytes = 0;
    uint32_t symbol_bytes = 0;
    uint64_t last = 0;
    bool operator==(const BlockKey&) const = default;
  };
  struct BlockKeyHash {
    size_t operator()(const BlockKey& key) const { return key.crc; }
  };

  static BlockKey KeyOf(const EngineOp& op);
  bool Fits(const EngineOp& op) const;
  // When the card would answer; the server has it from `now_ns` on. REQUIRES: mutex_ held.
  int64_t Schedule(int64_t now_ns, size_t symbol_bytes);
  void Run(const std::vector<int>& cpus);
  void Finish(BlockCodec* codec, Task* task);
  StatusCode Decode(BlockCodec* codec, const EngineOp& op);
  std::span<const std::byte> Find(const BlockKey& key);
  void Remember(const BlockKey& key, std::span<const std::byte> symbols);

  const CardProfile card_;
  const Clock* const clock_;

  std::atomic<uint64_t> tasks_ = 0;
  std::atomic<uint64_t> decoded_here_ = 0;
  std::atomic<uint64_t> late_ns_ = 0;
  std::atomic<uint64_t> bytes_ = 0;
  std::atomic<uint64_t> busy_ns_ = 0;

  std::shared_mutex known_mutex_;
  // Guarded by known_mutex_.
  std::unordered_map<BlockKey, std::span<const std::byte>, BlockKeyHash> known_;
  std::vector<Region> arenas_;       // where they lie, in huge pages if there are any
  std::span<std::byte> arena_room_;  // of the last one

  std::mutex mutex_;
  std::condition_variable work_;
  // Guarded by mutex_.
  std::vector<Task*> waiting_;  // first in, first out; its capacity is what all queues hold
  size_t room_ = 0;             // tasks that all queues hold
  double server_free_ns_ = 0;
  bool stopping_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_EMULATED_ENGINE_H_
