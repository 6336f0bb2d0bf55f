// What KV bytes mean and where they lie: all size and address arithmetic of the project.
//
// Two views of the same values:
//  * canonical (wire, store): [layer][head][K|V][token][dim], the same for every page size,
//    physical layout, TP and PP size;
//  * pages (engine memory): a PageLayout, strides read from vLLM's layout description.
// A PLANE is one (layer, head, K or V) of one chunk: kChunkTokens x head_dim values. Everything
// moves in planes or parts of planes; no quantity below is ever taken from a store or a peer
// unchecked.
//
// Nothing here does I/O or allocates (but for the vectors of PageLayout). Thread-safe: plain
// values.
#ifndef SHADOWSERVE_FORMAT_KV_LAYOUT_H_
#define SHADOWSERVE_FORMAT_KV_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace shadowserve {

// Tokens of a chunk: the unit of hashing, lookup and hit.
constexpr uint32_t kChunkTokens = 256;
// A layer range holds as many layers as keep a chunk's KV over all heads within this, at least one.
constexpr uint64_t kLayerRangeBytesMax = uint64_t{4} << 20;
// Symbols of one block, the independently decodable unit. 65,535 B is the most that a
// single-segment DPDK compressdev operation takes (a BlueField's mlx5 driver has no
// scatter-gather).
constexpr uint32_t kBlockSymbolsTarget = 32 * 1024;
constexpr uint32_t kBlockSymbolsMax = 65'535;
// Bounds of what is accepted anywhere; far above real models, low enough that no product overflows.
constexpr uint32_t kLayersMax = 1024;
constexpr uint32_t kHeadsMax = 1024;
constexpr uint32_t kHeadDimMax = 1024;

enum class KvDtype : uint8_t { kBf16 = 1, kFp16 = 2, kFp8E4m3 = 3, kFp8E5m2 = 4 };
uint32_t DtypeBytes(KvDtype dtype);
std::string_view DtypeName(KvDtype dtype);
Result<KvDtype> ParseDtype(std::string_view name);  // "bf16", "fp16", "fp8_e4m3", "fp8_e5m2"

// The whole model's KV, independent of parallelism.
struct ModelShape {
  uint32_t layers = 0;    // all registered attention layers, drafters included
  uint32_t kv_heads = 0;  // over all TP ranks
  uint32_t head_dim = 0;  // of K and of V
  KvDtype dtype = KvDtype::kBf16;
  uint32_t head_groups = 1;  // deployment constant; divides kv_heads

  bool operator==(const ModelShape&) const = default;
};
// kInvalidArgument / kUnsupported naming the field when out of bounds or not divisible.
Status CheckModelShape(const ModelShape& shape);

struct LayerRange {
  uint32_t first = 0;
  uint32_t count = 0;
  bool operator==(const LayerRange&) const = default;
};
uint32_t LayersPerRange(const ModelShape& shape);
uint32_t RangeCount(const ModelShape& shape);
LayerRange RangeAt(const ModelShape& shape, uint32_t index);

// The KV of one segment: one chunk, one layer range, one head group.
struct SegmentShape {
  LayerRange layers;
  uint32_t head_group = 0;
  uint32_t first_head = 0;  // in the model
  uint32_t heads = 0;
  uint32_t head_dim = 0;
  KvDtype dtype = KvDtype::kBf16;

  uint32_t planes() const { return layers.count * heads * 2; }
  uint32_t plane_elements() const { return kChunkTokens * head_dim; }
  uint64_t elements() const { return uint64_t{planes()} * plane_elements(); }
  uint64_t raw_bytes() const { return elements() * DtypeBytes(dtype); }
  bool operator==(const SegmentShape&) const = default;
};
SegmentShape SegmentShapeOf(const ModelShape& shape, uint32_t range_index, uint32_t head_group);
// Bounds of a shape that comes from outside (a segment's own header): kInvalidArgument names the
// field. A shape that passes overflows nothing below.
Status CheckSegmentShape(const SegmentShape& shape);

// One plane within a segment; index runs [layer][head][K|V].
struct PlaneIndex {
  uint32_t layer = 0;  // within the segment
  uint32_t head = 0;   // within the segment
  bool value = false;  // false: K, true: V
};
PlaneIndex PlaneAt(const SegmentShape& shape, uint32_t plane);

// How a segment is cut into blocks. Either a block holds `planes` whole planes (the last block may
// hold fewer), or `splits` > 1 blocks hold one plane, each an equal run of tokens.
struct BlockCut {
  uint32_t planes = 1;
  uint32_t splits = 1;
};
struct BlockRange {
  uint32_t first_plane = 0;
  uint32_t planes = 0;
  uint32_t first_token = 0;  // of the chunk
  uint32_t tokens = 0;
  uint32_t elements = 0;
};
BlockCut CutOf(const SegmentShape& shape);
uint32_t BlockCount(const SegmentShape& shape);
BlockRange BlockAt(const SegmentShape& shape, uint32_t block);

// Where the cells of one engine rank's pages lie, as byte offsets into its registered region.
// Value (token t of a page, dim d) of a plane is at
//   layer_offset[layer] + page * page_stride + head * head_stride
//     + plane.offset + t * plane.token_stride + d * plane.dim_stride.
// vLLM's GPU form "rows" ([K|V] per token) and its x86 CPU form "cpu-vec" (K [D][N], V [N][D]) are
// both of this kind (reference: vllm v1/attention/backends/cpu_attn.py).
struct PlaneStride {
  uint64_t offset = 0;
  uint64_t token_stride = 0;
  uint64_t dim_stride = 0;
  bool operator==(const PlaneStride&) const = default;
};
struct PageLayout {
  KvDtype dtype = KvDtype::kBf16;
  uint32_t page_tokens = 0;  // divides kChunkTokens
  uint64_t page_count = 0;
  uint32_t first_layer = 0;  // of the model; layer_offset[i] is layer first_layer + i
  std::vector<uint64_t> layer_offset;
  uint32_t first_head = 0;  // of the model
  uint32_t heads = 0;       // of this rank
  uint32_t head_dim = 0;
  uint64_t page_stride = 0;
  uint64_t head_stride = 0;
  PlaneStride k;
  PlaneStride v;
};
// Refuses, by name, a layout that does not fit `shape`, or whose cells would leave a region of
// `region_bytes` or overlap within a plane. kInvalidArgument / kUnsupported. Whether the rank holds
// whole segments is not asked: only the data plane knows the head groups (RankMemory::Create).
Status CheckPageLayout(const PageLayout& layout, const ModelShape& shape, uint64_t region_bytes);
// Offset of token 0 of `page` for a plane of model layer `layer`, model head `head`.
// REQUIRES: a checked layout, page < page_count, layer and head held by this rank.
uint64_t PlaneOffset(const PageLayout& layout, uint64_t page, uint32_t layer, uint32_t head,
                     bool value);

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_KV_LAYOUT_H_
