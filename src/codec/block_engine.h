// Asynchronous decompression of raw Deflate blocks: what a DPU's or a card's engine does beside the
// CPU. The other way to decode is BlockCodec::Decode, in software and at once.
//
// An engine takes only what was verified before (CRC or tag), and tells at most that a block's
// output has the size it must have. Whether a block that it does not decode is damaged, software
// decides.
#ifndef SHADOWSERVE_CODEC_BLOCK_ENGINE_H_
#define SHADOWSERVE_CODEC_BLOCK_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace shadowserve {

struct EngineLimits {
  uint32_t op_bytes_max = 0;  // of a block, coded and decoded alike
  uint32_t depth = 0;         // operations of one queue that may be in flight
};

struct EngineOp {
  std::span<const std::byte> coded;  // 1 to op_bytes_max bytes; lent until its completion
  std::span<std::byte> symbols;      // exactly what the block decodes to, 1 to op_bytes_max; lent
  uint64_t tag = 0;                  // given back by the completion
};

struct EngineDone {
  uint64_t tag = 0;
  // kOk: `symbols` is full. kCorrupt: the stream is damaged, or ends elsewhere than told.
  // kUnavailable: the engine could not. Then `symbols` may hold anything.
  StatusCode code = StatusCode::kUnavailable;
};

// Owner: one thread. Neither call blocks or allocates.
class EngineQueue {
 public:
  virtual ~EngineQueue() = default;
  // How many of the first `ops` were taken: fewer when the queue is full, or the engine refuses.
  virtual size_t Submit(std::span<const EngineOp> ops) = 0;
  // Completions in any order, each operation's once.
  virtual size_t Poll(std::span<EngineDone> done) = 0;
};

// Thread-safe but for Stop and the destructor.
class BlockEngine {
 public:
  virtual ~BlockEngine() = default;  // REQUIRES: no queue is left
  virtual std::string Describe() const = 0;
  virtual EngineLimits limits() const = 0;
  // Where operations' bytes may lie: page-aligned, known before the first of them, taken back
  // before the memory is unmapped.
  virtual Status AddMemory(std::span<std::byte> memory) = 0;
  virtual void RemoveMemory(std::span<std::byte> memory) = 0;
  // One per decoding thread. kExhausted: there is no further one.
  virtual Result<std::unique_ptr<EngineQueue>> OpenQueue() = 0;
  // Takes the engine out of work for good. True when nothing of it touches memory from now on;
  // false when that cannot be had (bounded wait). REQUIRES: no thread is inside of a queue.
  virtual bool Stop() = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_BLOCK_ENGINE_H_
