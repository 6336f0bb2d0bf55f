#include "format/kv_layout.h"

#include <algorithm>
#include <string>

#include "base/check.h"

namespace shadowserve {
namespace {

Status Invalid(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

Status Unsupported(std::string message) {
  return Status(StatusCode::kUnsupported, std::move(message));
}

// `field` must lie in 1..max. Above the bound is a model that this build does not take; zero is a
// mistake of the caller.
Status CheckCount(std::string_view field, uint64_t value, uint64_t max) {
  if (value == 0) return Invalid(std::string(field) + " is 0");
  if (value > max) {
    return Unsupported(std::string(field) + " " + std::to_string(value) + " is above " +
                       std::to_string(max));
  }
  return OkStatus();
}

bool KnownDtype(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBf16:
    case KvDtype::kFp16:
    case KvDtype::kFp8E4m3:
    case KvDtype::kFp8E5m2:
      return true;
  }
  return false;
}

}  // namespace

uint32_t DtypeBytes(KvDtype dtype) {
  return dtype == KvDtype::kBf16 || dtype == KvDtype::kFp16 ? 2 : 1;
}

std::string_view DtypeName(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kBf16:
      return "bf16";
    case KvDtype::kFp16:
      return "fp16";
    case KvDtype::kFp8E4m3:
      return "fp8_e4m3";
    case KvDtype::kFp8E5m2:
      return "fp8_e5m2";
  }
  return "unknown";
}

Result<KvDtype> ParseDtype(std::string_view name) {
  for (KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16, KvDtype::kFp8E4m3, KvDtype::kFp8E5m2}) {
    if (name == DtypeName(dtype)) return dtype;
  }
  return Unsupported("KV dtype '" + std::string(name) +
                     "' is not one of bf16, fp16, fp8_e4m3, fp8_e5m2");
}

Status CheckModelShape(const ModelShape& shape) {
  SS_TRY(CheckCount("layers", shape.layers, kLayersMax));
  SS_TRY(CheckCount("kv_heads", shape.kv_heads, kHeadsMax));
  SS_TRY(CheckCount("head_dim", shape.head_dim, kHeadDimMax));
  SS_TRY(CheckCount("head_groups", shape.head_groups, kHeadsMax));
  if (!KnownDtype(shape.dtype)) {
    return Unsupported("dtype number " + std::to_string(static_cast<int>(shape.dtype)) +
                       " is unknown");
  }
  if (shape.kv_heads % shape.head_groups != 0) {
    return Invalid("head_groups " + std::to_string(shape.head_groups) +
                   " does not divide kv_heads " + std::to_string(shape.kv_heads));
  }
  return OkStatus();
}

uint32_t LayersPerRange(const ModelShape& shape) {
  const uint64_t layer_bytes =
      uint64_t{shape.kv_heads} * 2 * kChunkTokens * shape.head_dim * DtypeBytes(shape.dtype);
  const uint64_t fitting = kLayerRangeBytesMax / layer_bytes;
  return static_cast<uint32_t>(std::clamp<uint64_t>(fitting, 1, shape.layers));
}

uint32_t RangeCount(const ModelShape& shape) {
  const uint32_t per_range = LayersPerRange(shape);
  return (shape.layers + per_range - 1) / per_range;
}

LayerRange RangeAt(const ModelShape& shape, uint32_t index) {
  SS_CHECK(index < RangeCount(shape), "layer range index");
  const uint32_t per_range = LayersPerRange(shape);
  const uint32_t first = index * per_range;
  return {.first = first, .count = std::min(per_range, shape.layers - first)};
}

SegmentShape SegmentShapeOf(const ModelShape& shape, uint32_t range_index, uint32_t head_group) {
  SS_CHECK(head_group < shape.head_groups, "head group index");
  const uint32_t heads = shape.kv_heads / shape.head_groups;
  return {.layers = RangeAt(shape, range_index),
          .head_group = head_group,
          .first_head = head_group * heads,
          .heads = heads,
          .head_dim = shape.head_dim,
          .dtype = shape.dtype};
}

Status CheckSegmentShape(const SegmentShape& shape) {
  if (shape.layers.count == 0 || shape.layers.count > kLayersMax ||
      shape.layers.first > kLayersMax - shape.layers.count) {
    return Invalid("layer range");
  }
  if (shape.heads == 0 || shape.heads > kHeadsMax) return Invalid("heads");
  if (shape.head_group >= kHeadsMax || shape.first_head != shape.head_group * shape.heads ||
      shape.first_head > kHeadsMax - shape.heads) {
    return Invalid("first_head");
  }
  if (shape.head_dim == 0 || shape.head_dim > kHeadDimMax) return Invalid("head_dim");
  if (!KnownDtype(shape.dtype)) return Invalid("dtype");
  // The rule of layer ranges, as far as one head group can tell.
  if (shape.layers.count > 1 && shape.raw_bytes() > kLayerRangeBytesMax) {
    return Invalid("layer range is larger than its limit");
  }
  return OkStatus();
}

PlaneIndex PlaneAt(const SegmentShape& shape, uint32_t plane) {
  return {
      .layer = plane / (shape.heads * 2), .head = plane / 2 % shape.heads, .value = plane % 2 != 0};
}

BlockCut CutOf(const SegmentShape& shape) {
  const uint32_t plane_elements = shape.plane_elements();
  BlockCut cut;
  if (plane_elements > kBlockSymbolsMax) {
    while (plane_elements / cut.splits > kBlockSymbolsMax) cut.splits *= 2;
    // kChunkTokens is a power of two and head_dim <= kHeadDimMax, so the parts are whole tokens.
    static_assert(kBlockSymbolsMax / kHeadDimMax >= 1 && (kChunkTokens & (kChunkTokens - 1)) == 0);
    return cut;
  }
  cut.planes = std::clamp(kBlockSymbolsTarget / plane_elements, 1u, shape.planes());
  return cut;
}

uint32_t BlockCount(const SegmentShape& shape) {
  const BlockCut cut = CutOf(shape);
  if (cut.splits > 1) return shape.planes() * cut.splits;
  return (shape.planes() + cut.planes - 1) / cut.planes;
}

BlockRange BlockAt(const SegmentShape& shape, uint32_t block) {
  SS_CHECK(block < BlockCount(shape), "block index");
  const BlockCut cut = CutOf(shape);
  BlockRange range;
  range.tokens = kChunkTokens / cut.splits;
  if (cut.splits > 1) {
    range.first_plane = block / cut.splits;
    range.planes = 1;
    range.first_token = block % cut.splits * range.tokens;
  } else {
    range.first_plane = block * cut.planes;
    range.planes = std::min(cut.planes, shape.planes() - range.first_plane);
  }
  range.elements = range.planes * range.tokens * shape.head_dim;
  return range;
}

}  // namespace shadowserve
