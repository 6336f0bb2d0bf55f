// The compute half of a save: canonical values of one segment -> quantized, coded, a finished
// object. Works in steps of one block, so that a save never holds up a fetch for long.
//
// Owner thread: one. Steady state allocates nothing.
#ifndef SHADOWSERVE_PIPELINE_SEGMENT_ENCODER_H_
#define SHADOWSERVE_PIPELINE_SEGMENT_ENCODER_H_

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

namespace shadowserve {

class SegmentEncoder {
 public:
  // `metrics`, `clock` and `seal` outlive the encoder. With a `seal` all objects are sealed.
  static Result<std::unique_ptr<SegmentEncoder>> Create(Metrics* metrics, const Clock* clock,
                                                        Seal* seal = nullptr);

  // `values`: shape.raw_bytes() canonical bytes; `object`: at least SegmentBytesMax. Both are lent
  // until Step returns the object. name.codec is tried for each block; one that does not shrink is
  // stored.
  void Begin(const ObjectName& name, const SegmentShape& shape, std::span<const std::byte> values,
             std::span<std::byte> object);
  // Works on one block. The finished object after the last one, else empty.
  std::span<const std::byte> Step();

 private:
  SegmentEncoder(Coders coders, Metrics* metrics, const Clock* clock, Seal* seal)
      : coders_(std::move(coders)), metrics_(metrics), clock_(clock), seal_(seal) {}

  Coders coders_;
  Metrics* metrics_;
  const Clock* clock_;
  Seal* seal_;
  std::vector<std::byte> symbols_;  // one block before coding
  std::span<const std::byte> values_;
  ObjectName name_;
  SegmentShape shape_;
  ProfileBytes bytes_;
  std::optional<SegmentWriter> writer_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_SEGMENT_ENCODER_H_
