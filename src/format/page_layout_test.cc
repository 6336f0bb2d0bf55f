#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "format/kv_layout.h"

namespace shadowserve {
namespace {

using ::testing::HasSubstr;

constexpr ModelShape kModel = {.layers = 4, .kv_heads = 4, .head_dim = 32, .head_groups = 2};
constexpr uint64_t kCell = 16 * 32 * 2;  // one plane of a page: 16 tokens, 32 values of 2 bytes

// [layer][page][head][token][K|V row], as vLLM's GPU back ends keep it.
PageLayout Rows() {
  PageLayout layout;
  layout.page_tokens = 16;
  layout.page_count = 40;
  layout.heads = 4;
  layout.head_dim = 32;
  layout.head_stride = 2 * kCell;
  layout.page_stride = 4 * layout.head_stride;
  layout.k = {.offset = 0, .token_stride = 2 * 32 * 2, .dim_stride = 2};
  layout.v = {.offset = 32 * 2, .token_stride = 2 * 32 * 2, .dim_stride = 2};
  for (uint64_t layer = 0; layer < 4; ++layer) {
    layout.layer_offset.push_back(layer * layout.page_count * layout.page_stride);
  }
  return layout;
}

// vLLM's x86 CPU form: per (page, head) a K plane [D][N], then a V plane [N][D].
PageLayout CpuVec() {
  PageLayout layout = Rows();
  layout.k = {.offset = 0, .token_stride = 2, .dim_stride = 16 * 2};
  layout.v = {.offset = kCell, .token_stride = 32 * 2, .dim_stride = 2};
  return layout;
}

// [page][layer][token][head][K|V row]: pages outermost, heads within a token's row.
PageLayout PagesOutermost() {
  PageLayout layout = Rows();
  layout.head_stride = 2 * 32 * 2;
  const uint64_t token_stride = 4 * layout.head_stride;
  layout.k = {.offset = 0, .token_stride = token_stride, .dim_stride = 2};
  layout.v = {.offset = 32 * 2, .token_stride = token_stride, .dim_stride = 2};
  const uint64_t layer_bytes = 16 * token_stride;
  layout.page_stride = 4 * layer_bytes;
  layout.layer_offset = {0, layer_bytes, 2 * layer_bytes, 3 * layer_bytes};
  return layout;
}

constexpr uint64_t kRegion = 4 * 40 * 4 * 2 * kCell;

std::string Check(const PageLayout& layout, uint64_t region = kRegion) {
  return CheckPageLayout(layout, kModel, region).ToString();
}

TEST(PageLayout, TakesTheFormsOfVllm) {
  EXPECT_EQ(Check(Rows()), "ok");
  EXPECT_EQ(Check(CpuVec()), "ok");
  EXPECT_EQ(Check(PagesOutermost()), "ok");
}

TEST(PageLayout, RefusesARegionThatIsOneByteShort) {
  for (const PageLayout& layout : {Rows(), CpuVec(), PagesOutermost()}) {
    EXPECT_THAT(Check(layout, kRegion - 1), HasSubstr("leave the region"));
  }
}

TEST(PageLayout, EveryCellOfACheckedLayoutIsItsOwnAndInTheRegion) {
  for (const PageLayout& layout : {Rows(), CpuVec(), PagesOutermost()}) {
    std::vector<bool> taken(kRegion / 2);
    for (uint64_t page = 0; page < layout.page_count; ++page) {
      for (uint32_t plane = 0; plane < 4 * 4 * 2; ++plane) {
        const bool value = plane % 2 != 0;
        const PlaneStride& stride = value ? layout.v : layout.k;
        const uint64_t base = PlaneOffset(layout, page, plane / 8, plane / 2 % 4, value);
        for (uint64_t cell = 0; cell < 16 * 32; ++cell) {
          const uint64_t at =
              base + cell / 32 * stride.token_stride + cell % 32 * stride.dim_stride;
          ASSERT_LT(at, kRegion);
          ASSERT_FALSE(taken[at / 2]);
          taken[at / 2] = true;
        }
      }
    }
  }
}

TEST(PageLayout, CountsLayersAndHeadsFromTheRanksOwnFirst) {
  PageLayout layout = Rows();
  layout.first_layer = 2;
  layout.layer_offset.resize(2);
  layout.first_head = 2;
  layout.heads = 2;
  ASSERT_EQ(Check(layout), "ok");
  EXPECT_EQ(PlaneOffset(layout, 3, 3, 3, true),
            layout.layer_offset[1] + 3 * layout.page_stride + layout.head_stride + 64);
}

TEST(PageLayout, NamesWhatDoesNotFitTheModel) {
  const auto refusal = [](auto change) {
    PageLayout layout = Rows();
    change(layout);
    return Check(layout);
  };
  EXPECT_THAT(refusal([](PageLayout& l) { l.dtype = KvDtype::kFp16; }), HasSubstr("dtype"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.head_dim = 64; }), HasSubstr("head_dim"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.page_tokens = 0; }),
              HasSubstr("unsupported: page layout: page_tokens 0"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.page_tokens = 48; }), HasSubstr("page_tokens 48"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.page_count = 0; }), HasSubstr("page_count"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.layer_offset.clear(); }), HasSubstr("layer_offset"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.first_layer = 1; }), HasSubstr("layers 1+4"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.first_layer = ~0u; }), HasSubstr("layers"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.heads = 0; }), HasSubstr("heads is 0"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.first_head = 2; }), HasSubstr("heads 2+4"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.first_head = ~0u; }), HasSubstr("heads"));
}

TEST(PageLayout, RefusesCellsThatShareBytesOrOverflow) {
  const auto refusal = [](auto change) {
    PageLayout layout = Rows();
    change(layout);
    return Check(layout, ~uint64_t{0});
  };
  EXPECT_THAT(refusal([](PageLayout& l) { l.page_stride = 0; }), HasSubstr("overlap along page"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.head_stride = 2; }), HasSubstr("overlap"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.v.token_stride = 62; }),
              HasSubstr("v: cells overlap along token"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.k.dim_stride = 0; }), HasSubstr("overlap along dim"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.v.offset = l.k.offset; }), HasSubstr("same offset"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.page_stride = uint64_t{1} << 62; }),
              HasSubstr("page stride overflows"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.layer_offset[1] = ~uint64_t{1}; }),
              HasSubstr("leave the region"));
  EXPECT_THAT(refusal([](PageLayout& l) { l.k.offset = 1; }), HasSubstr("element size"));
}

}  // namespace
}  // namespace shadowserve
