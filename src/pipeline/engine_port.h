// Blocks of one thread on their way through its queue of a codec engine, and the buffers that it
// decodes them into.
//
// There are as many SLOTS as the engine takes operations: one decoded block each, in memory that is
// made at start. A block holds its slot from Submit until Release, so that decoded blocks wait for
// nobody. Blocks belong to a CLIENT (a segment under work), which finds its finished ones in a
// list.
//
// The engine is not trusted to answer. One that has not completed an operation within `answer_ns`,
// or that completes what was not asked, is GONE for this port, for good: what is outstanding
// finishes undecoded (software decodes it from the wire bytes, which are still there), and none of
// its slots is used again. So a late write lands in memory that nobody reads. A late read may see
// whatever came into the wire slab since, which only shapes such a write. Ports of other threads
// find out for themselves. Before the memory goes, an engine that is gone for any port is stopped;
// if that fails the process ends, which is better than memory that is given back and then written
// to.
//
// Owner thread: one. Steady state allocates nothing.
#ifndef SHADOWSERVE_PIPELINE_ENGINE_PORT_H_
#define SHADOWSERVE_PIPELINE_ENGINE_PORT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "codec/block_engine.h"
#include "format/segment.h"
#include "mem/slab_pool.h"

namespace shadowserve {

// Memory that an engine knows (BlockEngine::AddMemory) while this lives: longer than every port
// with operations in it, since only their end stops an engine that is gone.
class LentMemory {
 public:
  LentMemory() = default;
  // `engine` outlives it; null lends to nobody.
  static Result<LentMemory> Lend(BlockEngine* engine, std::span<std::byte> memory);
  ~LentMemory();
  LentMemory(LentMemory&& other) noexcept;
  LentMemory& operator=(LentMemory&& other) noexcept;

 private:
  BlockEngine* engine_ = nullptr;
  std::span<std::byte> memory_;
};

class EnginePort {
 public:
  static constexpr uint32_t kDepthMax = 64;
  static constexpr uint32_t kNoSlot = UINT32_MAX;
  // How long a thread without other work leaves its engine alone, which has no descriptor to wait
  // on: about what a block takes.
  static constexpr int64_t kPollNs = 20'000;

  struct Options {
    // Knows the memory in which coded bytes lie. Null: software alone.
    BlockEngine* engine = nullptr;
    int64_t answer_ns = kNsPerSecond / 4;  // the longest that an operation may take
  };

  // Of a segment under work. REQUIRES when it dies: out == 0.
  struct Client {
    uint32_t out = 0;  // blocks that hold a slot
    uint32_t finished = kNoSlot;
  };

  struct Finished {
    uint32_t slot = kNoSlot;
    BlockView block;
    // Empty: the engine did not decode it.
    std::span<const std::byte> symbols;
  };

  // With a queue of its own. kUnsupported when the engine's operations are too small for this
  // format's blocks, kExhausted when it has no further queue.
  static Result<std::unique_ptr<EnginePort>> Create(const Options& options, Metrics* metrics);
  // Stops an engine that is gone. REQUIRES: no client has blocks, and no other thread is inside of
  // its own port.
  ~EnginePort();
  EnginePort(const EnginePort&) = delete;
  EnginePort& operator=(const EnginePort&) = delete;

  bool gone() const { return gone_; }
  bool has_room() const { return !free_.empty() && !gone_; }
  // Blocks that the engine has yet to finish.
  bool busy() const { return !gone_ && waiting_.size() + out_ > 0; }
  // Whether a block of this codec and size is the engine's; otherwise counts why not.
  bool Takes(const BlockView& block);

  // REQUIRES: has_room(), Takes(block), and the block is verified. Given to the engine by Flush.
  void Submit(Client* client, const BlockView& block);
  void Flush();
  // True when blocks were finished.
  bool Poll();

  // REQUIRES: client->finished != kNoSlot.
  Finished TakeFinished(Client* client);
  // `slot` of TakeFinished: its symbols are read no more.
  void Release(Client* client, uint32_t slot);
  // Forgets a client's blocks and waits until the engine touches none of them, or is gone
  // (bounded by answer_ns).
  void Abandon(Client* client);

 private:
  enum class State : uint8_t { kFree, kWaiting, kOut, kFinished, kTaken };
  struct Slot {
    State state = State::kFree;
    uint32_t next = kNoSlot;  // in the client's list
    int64_t sent_ns = 0;      // in watched_ns_
    uint32_t round = 0;       // tells this use of the slot from those before
    Client* client = nullptr;
    StatusCode code = StatusCode::kUnavailable;
    BlockView block;
    std::span<std::byte> room;
  };

  EnginePort(const Options& options, Metrics* metrics) : options_(options), metrics_(metrics) {}
  void Finish(uint32_t index, StatusCode code);
  void Free(uint32_t index);
  bool Complete(const EngineDone& done);
  void RefuseWaiting();
  bool IsLate() const;
  void GoneBecause(std::string_view why);
  void CountInflight();

  Options options_;
  Metrics* metrics_;
  SteadyClock clock_;  // of the engine's answers: real also where the pipeline's clock is not
  Region arena_;
  LentMemory lent_;                     // arena_
  std::unique_ptr<EngineQueue> queue_;  // null: Create failed
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  std::vector<uint32_t> waiting_;  // submitted, not with the engine yet
  uint32_t out_ = 0;               // with the engine
  int64_t counted_ = 0;            // of these, in the gauge that all ports share
  int64_t polled_ns_ = 0;          // when somebody last looked
  // Time in which the engine was looked at: a pause of the whole process is not the engine's fault.
  int64_t watched_ns_ = 0;
  bool gone_ = false;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_ENGINE_PORT_H_
