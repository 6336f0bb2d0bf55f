#include "pipeline/page_map.h"

#include <algorithm>
#include <string>
#include <utility>

namespace shadowserve {
namespace {

uint64_t PlaneSpan(const PlaneStride& plane, const PageLayout& layout) {
  return plane.offset + (layout.page_tokens - 1) * plane.token_stride +
         (layout.head_dim - 1) * plane.dim_stride + DtypeBytes(layout.dtype);
}

// A segment is stored by one rank: a rank that held a part of one could not.
Status CheckWholeSegments(const ModelShape& shape, const PageLayout& layout) {
  const uint32_t per_range = LayersPerRange(shape);
  const auto layers = static_cast<uint32_t>(layout.layer_offset.size());
  const uint32_t end = layout.first_layer + layers;
  if (layout.first_layer % per_range != 0 || (end % per_range != 0 && end != shape.layers)) {
    return Status(StatusCode::kUnsupported,
                  "pipeline stage holds layers " + std::to_string(layout.first_layer) + ".." +
                      std::to_string(end) + ", which cuts a layer range of " +
                      std::to_string(per_range) +
                      " layers; choose a pipeline split at its multiples");
  }
  const uint32_t group_heads = shape.kv_heads / shape.head_groups;
  if (layout.first_head % group_heads != 0 || layout.heads % group_heads != 0) {
    return Status(StatusCode::kUnsupported,
                  "tensor-parallel rank holds KV heads " + std::to_string(layout.first_head) +
                      ".." + std::to_string(layout.first_head + layout.heads) + " of " +
                      std::to_string(shape.kv_heads) + ", which cuts a head group of " +
                      std::to_string(group_heads) + "; set format.head_groups to " +
                      std::to_string(shape.kv_heads / layout.heads) +
                      " on every data plane that shares the store");
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<RankMemory>> RankMemory::Create(const ModelShape& shape, PageLayout layout,
                                                       std::unique_ptr<KvDevice> device,
                                                       uint64_t join_bytes_max) {
  SS_TRY(CheckModelShape(shape));
  SS_TRY(CheckPageLayout(layout, shape, device->region_bytes()));
  SS_TRY(CheckWholeSegments(shape, layout));
  auto rank = std::unique_ptr<RankMemory>(new RankMemory);
  rank->shape_ = shape;
  rank->layout_ = std::move(layout);
  rank->device_ = std::move(device);
  const uint32_t group_heads = shape.kv_heads / shape.head_groups;
  const uint32_t per_range = LayersPerRange(shape);
  const auto layers = static_cast<uint32_t>(rank->layout_.layer_offset.size());
  rank->first_group_ = rank->layout_.first_head / group_heads;
  rank->group_count_ = rank->layout_.heads / group_heads;
  rank->first_range_ = rank->layout_.first_layer / per_range;
  rank->range_count_ = (layers + per_range - 1) / per_range;
  SS_TRY(rank->PlanStaging(join_bytes_max));
  return rank;
}

Status RankMemory::PlanStaging(uint64_t join_bytes_max) {
  const uint64_t element = DtypeBytes(layout_.dtype);
  const uint64_t head_bytes = uint64_t{2} * layout_.page_tokens * layout_.head_dim * element;
  const uint64_t span = std::max(PlaneSpan(layout_.k, layout_), PlaneSpan(layout_.v, layout_));
  const uint64_t pages = pages_per_chunk();
  staging_ = layout_;
  staging_.first_layer = 0;
  if (layout_.head_stride * (layout_.heads - 1) + span == layout_.heads * head_bytes) {
    run_bytes_ = layout_.heads * head_bytes;
    runs_per_page_ = 1;
  } else if (span == head_bytes) {
    run_bytes_ = head_bytes;
    runs_per_page_ = layout_.heads;
    staging_.head_stride = head_bytes;
  } else if (!direct()) {
    return Status(StatusCode::kUnsupported,
                  "pages of this layout are not made of contiguous runs, which device '" +
                      std::string(device_->kind()) + "' needs; use device 'mapped'");
  }
  staging_.page_stride = layout_.heads * head_bytes;
  staging_.page_count = pages;
  const uint32_t range_layers =
      std::min(LayersPerRange(shape_), static_cast<uint32_t>(layout_.layer_offset.size()));
  staging_.layer_offset.resize(range_layers);
  for (uint32_t i = 0; i < range_layers; ++i) {
    staging_.layer_offset[i] = i * pages * staging_.page_stride;
  }
  const uint64_t join_bytes = range_layers * pages * staging_.page_stride;
  if (join_bytes > join_bytes_max) {
    return Status(StatusCode::kUnsupported,
                  "one layer range of this model needs slabs of " + std::to_string(join_bytes) +
                      " bytes, but memory.slab_size gives " + std::to_string(join_bytes_max) +
                      "; raise memory.slab_size");
  }
  return OkStatus();
}

void RankMemory::AppendPieces(const SegmentShape& segment, const BlockRange& block,
                              std::span<const uint32_t> pages, uint32_t first_token,
                              std::span<std::byte> target, std::vector<PlanePiece>* pieces) const {
  const PageLayout& layout = direct() ? layout_ : staging_;
  const uint32_t page_tokens = layout.page_tokens;
  const uint32_t begin = std::max(block.first_token, first_token);
  const uint32_t end = block.first_token + block.tokens;
  for (uint32_t i = 0; i < block.planes; ++i) {
    const uint32_t plane = block.first_plane + i;
    const PlaneIndex index = PlaneAt(segment, plane);
    const uint32_t layer = direct() ? segment.layers.first + index.layer : index.layer;
    const PlaneStride& stride = index.value ? layout.v : layout.k;
    for (uint32_t token = begin; token < end;) {
      const uint32_t page = token / page_tokens;
      const uint32_t in_page = token % page_tokens;
      const uint32_t tokens = std::min(page_tokens - in_page, end - token);
      const uint64_t offset = PlaneOffset(layout, direct() ? pages[page] : page, layer,
                                          segment.first_head + index.head, index.value) +
                              in_page * stride.token_stride;
      pieces->push_back(PlanePiece{target.data() + offset, stride.token_stride, stride.dim_stride,
                                   token, tokens, plane});
      token += tokens;
    }
  }
}

void RankMemory::AppendRuns(LayerRange range, std::span<const uint32_t> pages, uint32_t first_token,
                            std::span<std::byte> staging, std::vector<TransferRun>* runs) const {
  const uint32_t first_page = first_token / layout_.page_tokens;
  const uint64_t cell = std::min(layout_.k.offset, layout_.v.offset);
  for (uint32_t layer = 0; layer < range.count; ++layer) {
    for (uint32_t page = first_page; page < pages.size(); ++page) {
      for (uint32_t run = 0; run < runs_per_page_; ++run) {
        const uint32_t head = layout_.first_head + run;
        const uint64_t remote =
            PlaneOffset(layout_, pages[page], range.first + layer, head, false) - layout_.k.offset;
        const uint64_t local = PlaneOffset(staging_, page, layer, head, false) - staging_.k.offset;
        runs->push_back(
            TransferRun{remote + cell, staging.subspan(local + cell, run_bytes_ - cell)});
      }
    }
  }
}

uint64_t PieceBytes(std::span<const PlanePiece> pieces, const SegmentShape& shape) {
  uint64_t tokens = 0;
  for (const PlanePiece& piece : pieces) tokens += piece.tokens;
  return tokens * shape.head_dim * DtypeBytes(shape.dtype);
}

size_t RankMemory::pieces_max() const {
  return size_t{std::max(1U, kBlockSymbolsTarget / (kChunkTokens * layout_.head_dim))} *
         pages_per_chunk();
}

size_t RankMemory::runs_max() const {
  return staging_.layer_offset.size() * pages_per_chunk() * runs_per_page_;
}

}  // namespace shadowserve
