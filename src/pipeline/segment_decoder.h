// The compute half of a fetch: one stored segment -> verified, decoded, dequantized, written to
// pages.
//
// A block is checked (CRC, or with keys its tag), decoded into an L2-sized buffer and written from
// there straight to its final place (or the staging slab that one transfer covers): decode and
// dequantize run back to back, the page-layout scatter is part of the address computation. Works in
// steps of a few blocks, so that one thread can interleave segments, stores and saves.
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
#include "pipeline/coders.h"
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
// holds up nobody. Lent to the decoder from Begin until Step says done or fails.
struct DecodeCursor {
  DecodeTask task;
  std::optional<SegmentReader> reader;
  uint32_t blocks_left = 0;
  uint64_t kv_bytes = 0;  // written so far

  bool begun() const { return reader.has_value(); }
  // Whether the next step finds all bytes that it needs among the object's first `arrived`.
  bool CanStep(uint64_t arrived) const {
    return blocks_left == 0 || reader->NextBlockEnd() <= arrived;
  }
};

class SegmentDecoder {
 public:
  // `metrics`, `clock` and `seal` outlive the decoder. With a `seal` only sealed segments are
  // taken.
  static Result<std::unique_ptr<SegmentDecoder>> Create(Metrics* metrics, const Clock* clock,
                                                        Seal* seal = nullptr);

  // Starts a segment; what `task` refers to is lent. Of task.object at least the first
  // SegmentSideEnd bytes must be there. kCorrupt: it is not to be trusted, nothing was written.
  Status Begin(const DecodeTask& task, DecodeCursor* cursor);
  // Works on up to `blocks` blocks, as far as the object's first `arrived` bytes go. True when the
  // segment is complete and its writes are fenced. kCorrupt: some pages may have been written; the
  // segment ends here.
  Result<bool> Step(DecodeCursor* cursor, uint64_t arrived, uint32_t blocks);

 private:
  SegmentDecoder(Coders coders, Metrics* metrics, const Clock* clock, Seal* seal)
      : coders_(std::move(coders)), metrics_(metrics), clock_(clock), seal_(seal) {}
  Status DecodeBlock(DecodeCursor* cursor);
  void CountBytes(DecodeCursor* cursor, const BlockView& block);

  Coders coders_;
  Metrics* metrics_;
  const Clock* clock_;
  Seal* seal_;
  std::vector<std::byte> symbols_;  // one decoded block
  std::vector<PlanePiece> pieces_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_SEGMENT_DECODER_H_
