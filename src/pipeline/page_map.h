// Where the values of one chunk lie: in an engine's region (PageLayout) or, for devices that take
// transfers instead of stores, in a staging slab that has the same shape as the pages.
//
// Thread-safe: plain values, immutable after construction.
#ifndef SHADOWSERVE_PIPELINE_PAGE_MAP_H_
#define SHADOWSERVE_PIPELINE_PAGE_MAP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "device/kv_device.h"
#include "format/kv_layout.h"
#include "quant/quantizer.h"

namespace shadowserve {

// One engine rank's registered memory.
class RankMemory {
 public:
  // Refuses a layout that does not fit the shape or the region, or (devices without direct access)
  // one whose pages are not made of contiguous runs. `join_bytes_max`: what one staging slab holds.
  static Result<std::unique_ptr<RankMemory>> Create(const ModelShape& shape, PageLayout layout,
                                                    std::unique_ptr<KvDevice> device,
                                                    uint64_t join_bytes_max);

  const ModelShape& shape() const { return shape_; }
  const PageLayout& layout() const { return layout_; }
  KvDevice& device() const { return *device_; }
  bool direct() const { return !device_->direct().empty(); }

  uint32_t pages_per_chunk() const { return kChunkTokens / layout_.page_tokens; }
  // Head groups and layer ranges that this rank holds: [first, first + count).
  uint32_t first_group() const { return first_group_; }
  uint32_t group_count() const { return group_count_; }
  uint32_t first_range() const { return first_range_; }
  uint32_t range_count() const { return range_count_; }

  // Appends to `pieces` the part of `block` (of a segment of this rank) that lies in the chunk's
  // `pages`, leaving out tokens before `first_token` (a multiple of the page's tokens). `target` is
  // the mapped region when direct(), else a staging slab.
  void AppendPieces(const SegmentShape& segment, const BlockRange& block,
                    std::span<const uint32_t> pages, uint32_t first_token,
                    std::span<std::byte> target, std::vector<PlanePiece>* pieces) const;

  // Appends the runs that move the chunk's pages of one layer range between `staging` and the
  // region.
  void AppendRuns(LayerRange range, std::span<const uint32_t> pages, uint32_t first_token,
                  std::span<std::byte> staging, std::vector<TransferRun>* runs) const;
  // Bounds for reserving: no more than this many come out of one call with a whole join.
  size_t pieces_max() const;
  size_t runs_max() const;

 private:
  RankMemory() = default;
  Status PlanStaging(uint64_t join_bytes_max);

  ModelShape shape_;
  PageLayout layout_;
  // The same cells packed densely for one chunk and one layer range: page index = page of the
  // chunk, layer index = layer of the range.
  PageLayout staging_;
  uint64_t run_bytes_ = 0;      // one contiguous run of a page: all heads of a layer, or one head
  uint32_t runs_per_page_ = 1;  // per layer
  std::unique_ptr<KvDevice> device_;
  uint32_t first_group_ = 0;
  uint32_t group_count_ = 0;
  uint32_t first_range_ = 0;
  uint32_t range_count_ = 0;
};

// KV bytes that the pieces hold.
uint64_t PieceBytes(std::span<const PlanePiece> pieces, const SegmentShape& shape);

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_PAGE_MAP_H_
