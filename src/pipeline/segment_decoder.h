// The compute half of a fetch: one stored segment -> verified, decoded, dequantized, written to
// pages.
//
// A block is checked (CRC), decoded into an L2-sized buffer and written from there straight to its
// final place (or the staging slab that one transfer covers): decode and dequantize run back to
// back, the page-layout scatter is part of the address computation. Works in steps of a few blocks,
// so that one thread can interleave segments, stores and saves.
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
  std::span<const std::byte> object;  // the segment as fetched
  ObjectName name;
  SegmentShape shape;
  const RankMemory* rank = nullptr;
  std::span<const uint32_t> pages;  // of this chunk
  uint32_t first_token = 0;
  std::span<std::byte> target;  // mapped region or staging slab
};

class SegmentDecoder {
 public:
  // `metrics` and `clock` outlive the decoder.
  static Result<std::unique_ptr<SegmentDecoder>> Create(Metrics* metrics, const Clock* clock);

  // Starts a segment; what `task` refers to is lent until Step says done or fails. kCorrupt: the
  // object is not to be trusted, nothing was written.
  Status Begin(const DecodeTask& task);
  // Works on up to `blocks` blocks. True when the segment is complete and its writes are fenced.
  // kCorrupt: some pages may have been written; the segment ends here.
  Result<bool> Step(uint32_t blocks);
  // KV bytes written so far for this segment.
  uint64_t kv_bytes() const { return kv_bytes_; }

 private:
  SegmentDecoder(Coders coders, Metrics* metrics, const Clock* clock)
      : coders_(std::move(coders)), metrics_(metrics), clock_(clock) {}
  Status DecodeBlock();
  void CountBytes(const BlockView& block);

  Coders coders_;
  Metrics* metrics_;
  const Clock* clock_;
  std::vector<std::byte> symbols_;  // one decoded block
  std::vector<PlanePiece> pieces_;
  DecodeTask task_;
  std::optional<SegmentReader> reader_;
  uint32_t blocks_left_ = 0;
  uint64_t kv_bytes_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_SEGMENT_DECODER_H_
