// The compute half of a fetch: one stored segment -> verified, decoded, dequantized, written to
// pages.
//
// Blocks are checked (CRC, or with keys the tag), decoded into an L2-sized buffer, as many together
// as the codec takes side by side, and written from there straight to their final place (or the
// staging slab that one transfer covers): decode and dequantize run back to back, the page-layout
// scatter is part of the address computation. Works in steps of a few blocks, so that one thread
// can interleave segments, stores and saves.
//
// With a codec engine, checked blocks are handed to it ahead and written, in any order, once they
// are decoded; whatever it does not take or does not decode is decoded here, as without it. What is
// damaged, only software says. Until all of a segment's blocks that were begun are written it is
// this decoder's; otherwise another may go on with it.
//
// Owner thread: one. Steady state allocates nothing.
#ifndef SHADOWSERVE_PIPELINE_SEGMENT_DECODER_H_
#define SHADOWSERVE_PIPELINE_SEGMENT_DECODER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "format/segment.h"
#include "pipeline/block_batch.h"
#include "pipeline/coders.h"
#include "pipeline/engine_port.h"
#include "pipeline/page_map.h"

namespace shadowserve {

struct DecodeTask {
  std::span<std::byte> object;  // the segment as fetched; an encrypted one is decrypted in place
  ObjectName name;
  SegmentShape shape;
  const RankMemory* rank = nullptr;
  std::span<const uint32_t> pages;  // of this chunk
  uint32_t first_token = 0;
  std::span<std::byte> target;  // mapped region or staging slab
};

// A segment under work: as many as wanted at a time, so that one whose bytes are still on their way
// holds up nobody. Lent to the decoder, and not moved, from Begin until Step says done or fails, or
// Abandon.
struct DecodeCursor {
  DecodeTask task;
  std::optional<SegmentReader> reader;
  uint32_t blocks_left = 0;   // not begun
  EnginePort::Client engine;  // begun, with the engine or decoded by it
  uint64_t kv_bytes = 0;      // written so far

  bool begun() const { return reader.has_value(); }
  bool done() const { return begun() && blocks_left == 0 && engine.out == 0; }
  // Whether the next block is among the object's first `arrived` bytes. REQUIRES: begun().
  bool next_arrived(uint64_t arrived) const {
    return blocks_left > 0 && reader->NextBlockEnd() <= arrived;
  }
};

class SegmentDecoder {
 public:
  // `metrics`, `clock`, `seal` and `engine.engine` outlive the decoder. With a `seal` only sealed
  // segments are taken. When the engine has no queue left for it, software decodes all.
  static Result<std::unique_ptr<SegmentDecoder>> Create(Metrics* metrics, const Clock* clock,
                                                        Seal* seal = nullptr,
                                                        const EnginePort::Options& engine = {});

  // Starts a segment; what `task` refers to is lent. Of task.object at least the first
  // SegmentSideEnd bytes must be there. kCorrupt: it is not to be trusted, nothing was written.
  Status Begin(const DecodeTask& task, DecodeCursor* cursor);
  // Whether a step finds something to do: a block whose bytes are among the object's first
  // `arrived` and that has room, one that the engine has finished, or nothing left.
  bool CanStep(const DecodeCursor& cursor, uint64_t arrived) const;
  // Works on up to `blocks` blocks, as far as the object's first `arrived` bytes go. True when the
  // segment is complete and its writes are fenced. kCorrupt: some pages may have been written; the
  // segment ends here, and nothing touches it any more.
  Result<bool> Step(DecodeCursor* cursor, uint64_t arrived, uint32_t blocks);
  // Ends a segment early, begun or not: afterwards nothing reads its object, or only an engine that
  // is gone (engine_port.h). Waits for the engine: as long as it takes for a few blocks.
  void Abandon(DecodeCursor* cursor);

  // Objects that only their tag was wrong with, so far; 0 without a `seal`.
  uint64_t refused() const { return seal_ == nullptr ? 0 : seal_->refused(); }

  // Looks for blocks that the engine has finished; true when there were some.
  bool Poll() { return engine_ != nullptr && engine_->Poll(); }
  // A queue of an engine that still answers.
  bool has_engine() const { return engine_ != nullptr && !engine_->gone(); }
  // Blocks are with the engine: Poll again soon.
  bool engine_busy() const { return engine_ != nullptr && engine_->busy(); }

 private:
  SegmentDecoder(Coders coders, Metrics* metrics, const Clock* clock, Seal* seal)
      : coders_(std::move(coders)),
        batch_(&coders_),
        metrics_(metrics),
        clock_(clock),
        seal_(seal) {}
  bool CanBegin(const DecodeCursor& cursor, uint64_t arrived) const;
  Result<uint32_t> BeginBlocks(DecodeCursor* cursor, uint64_t arrived, uint32_t blocks);
  Status FinishBlock(DecodeCursor* cursor);
  Status DecodeAndWrite(DecodeCursor* cursor, int64_t start_ns);
  void WriteBlock(DecodeCursor* cursor, const BlockView& block, std::span<const std::byte> symbols);
  void CountBytes(DecodeCursor* cursor, const BlockView& block);

  Coders coders_;
  BlockBatch batch_;  // decoded here
  Metrics* metrics_;
  const Clock* clock_;
  Seal* seal_;
  std::unique_ptr<EnginePort> engine_;  // null: software alone
  std::vector<PlanePiece> pieces_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_SEGMENT_DECODER_H_
