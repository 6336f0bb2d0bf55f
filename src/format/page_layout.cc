// The PageLayout half of kv_layout.h: addresses in engine memory.
#include <algorithm>
#include <array>
#include <string>

#include "base/check.h"
#include "format/kv_layout.h"

namespace shadowserve {
namespace {

Status InvalidLayout(std::string message) {
  return Status(StatusCode::kInvalidArgument, "page layout: " + std::move(message));
}

Status UnsupportedLayout(std::string message) {
  return Status(StatusCode::kUnsupported, "page layout: " + std::move(message));
}

Status CheckFitsModel(const PageLayout& layout, const ModelShape& shape) {
  if (layout.dtype != shape.dtype) return InvalidLayout("dtype differs from the model's");
  if (layout.head_dim != shape.head_dim) return InvalidLayout("head_dim differs from the model's");
  if (layout.page_tokens == 0 || kChunkTokens % layout.page_tokens != 0) {
    return UnsupportedLayout("page_tokens " + std::to_string(layout.page_tokens) +
                             " does not divide " + std::to_string(kChunkTokens));
  }
  if (layout.page_count == 0) return InvalidLayout("page_count is 0");
  if (layout.layer_offset.empty()) return InvalidLayout("layer_offset is empty");
  if (layout.first_layer > shape.layers ||
      layout.layer_offset.size() > shape.layers - layout.first_layer) {
    return InvalidLayout("layers " + std::to_string(layout.first_layer) + "+" +
                         std::to_string(layout.layer_offset.size()) + " exceed the model's " +
                         std::to_string(shape.layers));
  }
  if (layout.heads == 0) return InvalidLayout("heads is 0");
  if (layout.first_head > shape.kv_heads || layout.heads > shape.kv_heads - layout.first_head) {
    return InvalidLayout("heads " + std::to_string(layout.first_head) + "+" +
                         std::to_string(layout.heads) + " exceed the model's " +
                         std::to_string(shape.kv_heads));
  }
  return OkStatus();
}

Status CheckAligned(const PageLayout& layout) {
  // A dtype is 1 or 2 bytes: or-ing all numbers tells whether one is odd.
  uint64_t bits = layout.page_stride | layout.head_stride;
  for (const PlaneStride& plane : {layout.k, layout.v}) {
    bits |= plane.offset | plane.token_stride | plane.dim_stride;
  }
  for (uint64_t offset : layout.layer_offset) bits |= offset;
  if (bits % DtypeBytes(layout.dtype) != 0) {
    return InvalidLayout("an offset or stride is no multiple of the element size");
  }
  return OkStatus();
}

struct Axis {
  std::string_view name;
  uint64_t count;
  uint64_t stride;
};

// Bytes from the first to one past the last byte of one layer's cells of one plane kind.
// kInvalidArgument when two cells could be the same bytes: each axis must step over all that is
// spanned by the axes of smaller stride, which holds for every order of [page][head][token][dim].
Result<uint64_t> PlaneSpan(const PageLayout& layout, const PlaneStride& plane,
                           std::string_view which) {
  std::array<Axis, 4> axes = {Axis{"page", layout.page_count, layout.page_stride},
                              Axis{"head", layout.heads, layout.head_stride},
                              Axis{"token", layout.page_tokens, plane.token_stride},
                              Axis{"dim", layout.head_dim, plane.dim_stride}};
  std::sort(axes.begin(), axes.end(),
            [](const Axis& a, const Axis& b) { return a.stride < b.stride; });
  uint64_t span = DtypeBytes(layout.dtype);
  for (const Axis& axis : axes) {
    if (axis.count == 1) continue;
    if (axis.stride < span) {
      return InvalidLayout(std::string(which) + ": cells overlap along " + std::string(axis.name));
    }
    uint64_t reach = 0;
    if (__builtin_mul_overflow(axis.count - 1, axis.stride, &reach) ||
        __builtin_add_overflow(span, reach, &span)) {
      return InvalidLayout(std::string(which) + ": " + std::string(axis.name) +
                           " stride overflows");
    }
  }
  return span;
}

Status CheckInRegion(const PageLayout& layout, const PlaneStride& plane, std::string_view which,
                     uint64_t region_bytes) {
  SS_TRY_ASSIGN(const uint64_t span, PlaneSpan(layout, plane, which));
  const uint64_t last_layer =
      *std::max_element(layout.layer_offset.begin(), layout.layer_offset.end());
  uint64_t end = 0;
  if (__builtin_add_overflow(last_layer, plane.offset, &end) ||
      __builtin_add_overflow(end, span, &end) || end > region_bytes) {
    return InvalidLayout(std::string(which) + ": cells leave the region of " +
                         std::to_string(region_bytes) + " bytes");
  }
  return OkStatus();
}

}  // namespace

Status CheckPageLayout(const PageLayout& layout, const ModelShape& shape, uint64_t region_bytes) {
  SS_TRY(CheckModelShape(shape));
  SS_TRY(CheckFitsModel(layout, shape));
  SS_TRY(CheckAligned(layout));
  SS_TRY(CheckInRegion(layout, layout.k, "k", region_bytes));
  SS_TRY(CheckInRegion(layout, layout.v, "v", region_bytes));
  if (layout.k.offset == layout.v.offset) return InvalidLayout("k and v start at the same offset");
  return OkStatus();
}

uint64_t PlaneOffset(const PageLayout& layout, uint64_t page, uint32_t layer, uint32_t head,
                     bool value) {
  SS_CHECK(page < layout.page_count, "page index");
  SS_CHECK(layer >= layout.first_layer && layer - layout.first_layer < layout.layer_offset.size(),
           "layer of another rank");
  SS_CHECK(head >= layout.first_head && head - layout.first_head < layout.heads,
           "head of another rank");
  return layout.layer_offset[layer - layout.first_layer] + page * layout.page_stride +
         (head - layout.first_head) * layout.head_stride +
         (value ? layout.v.offset : layout.k.offset);
}

}  // namespace shadowserve
