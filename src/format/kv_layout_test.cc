#include "format/kv_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace shadowserve {
namespace {

using ::testing::HasSubstr;

constexpr ModelShape kLlama8B = {.layers = 32, .kv_heads = 8, .head_dim = 128};

// Calls `visit` for many models, groups and ranges.
void ForManySegments(const std::function<void(const ModelShape&, const SegmentShape&)>& visit) {
  for (uint32_t head_dim :
       {16u, 24u, 40u, 64u, 80u, 100u, 128u, 192u, 255u, 256u, 257u, 512u, 576u, 1024u}) {
    for (uint32_t kv_heads : {1u, 2u, 3u, 8u, 12u, 40u}) {
      for (uint32_t layers : {1u, 2u, 7u, 32u, 61u}) {
        for (uint32_t groups : {1u, 2u, 3u, 4u, 8u}) {
          if (kv_heads % groups != 0) continue;
          for (KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp8E4m3}) {
            const ModelShape model = {layers, kv_heads, head_dim, dtype, groups};
            ASSERT_TRUE(CheckModelShape(model).ok());
            for (uint32_t range : {0u, RangeCount(model) - 1}) {
              visit(model, SegmentShapeOf(model, range, groups - 1));
            }
          }
        }
      }
    }
  }
}

TEST(Dtype, RoundTripsItsNamesAndRefusesOthers) {
  for (KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16, KvDtype::kFp8E4m3, KvDtype::kFp8E5m2}) {
    EXPECT_EQ(*ParseDtype(DtypeName(dtype)), dtype);
  }
  EXPECT_EQ(DtypeBytes(KvDtype::kBf16), 2u);
  EXPECT_EQ(DtypeBytes(KvDtype::kFp8E5m2), 1u);
  const Result<KvDtype> refused = ParseDtype("BF16");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kUnsupported);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("BF16"));
}

TEST(ModelShape, NamesTheFieldThatIsOutOfBounds) {
  const auto refusal = [](auto change) {
    ModelShape shape = kLlama8B;
    change(shape);
    return CheckModelShape(shape).ToString();
  };
  EXPECT_TRUE(CheckModelShape(kLlama8B).ok());
  EXPECT_THAT(refusal([](ModelShape& s) { s.layers = 0; }), HasSubstr("invalid_argument: layers"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.layers = kLayersMax + 1; }),
              HasSubstr("unsupported: layers"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.kv_heads = 0; }), HasSubstr("kv_heads"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.kv_heads = kHeadsMax + 1; }), HasSubstr("kv_heads"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.head_dim = 0; }), HasSubstr("head_dim"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.head_dim = kHeadDimMax + 1; }), HasSubstr("head_dim"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.head_groups = 0; }), HasSubstr("head_groups"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.head_groups = 3; }),
              HasSubstr("head_groups 3 does not divide kv_heads 8"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.head_groups = 16; }), HasSubstr("head_groups"));
  EXPECT_THAT(refusal([](ModelShape& s) { s.dtype = static_cast<KvDtype>(9); }),
              HasSubstr("dtype"));
}

TEST(LayerRange, HoldsFourLayersOfAnEightBillionModel) {
  EXPECT_EQ(LayersPerRange(kLlama8B), 4u);
  EXPECT_EQ(RangeCount(kLlama8B), 8u);
  EXPECT_EQ(RangeAt(kLlama8B, 7), (LayerRange{28, 4}));
}

TEST(LayerRange, TilesTheModelAndIsAsLongAsTheLimitAllows) {
  ForManySegments([](const ModelShape& model, const SegmentShape&) {
    uint32_t next = 0;
    const uint64_t layer_bytes =
        uint64_t{2} * kChunkTokens * model.kv_heads * model.head_dim * DtypeBytes(model.dtype);
    for (uint32_t i = 0; i < RangeCount(model); ++i) {
      const LayerRange range = RangeAt(model, i);
      EXPECT_EQ(range.first, next);
      next += range.count;
      EXPECT_TRUE(range.count == 1 || range.count * layer_bytes <= kLayerRangeBytesMax);
      EXPECT_TRUE(next == model.layers || (range.count + 1) * layer_bytes > kLayerRangeBytesMax);
    }
    EXPECT_EQ(next, model.layers);
  });
}

TEST(LayerRange, IsTheSameForEveryHeadGrouping) {
  ModelShape grouped = kLlama8B;
  grouped.head_groups = 8;
  EXPECT_EQ(LayersPerRange(grouped), LayersPerRange(kLlama8B));
}

TEST(SegmentShape, OfAModelPassesItsOwnCheck) {
  ForManySegments([](const ModelShape& model, const SegmentShape& shape) {
    EXPECT_TRUE(CheckSegmentShape(shape).ok()) << CheckSegmentShape(shape).ToString();
    EXPECT_EQ(shape.first_head + shape.heads, model.kv_heads);  // the last group
    EXPECT_EQ(shape.raw_bytes(), uint64_t{shape.layers.count} * shape.heads * 2 * kChunkTokens *
                                     shape.head_dim * DtypeBytes(shape.dtype));
  });
}

TEST(SegmentShape, NamesTheFieldThatIsOutOfBounds) {
  const auto refusal = [](auto change) {
    SegmentShape shape = SegmentShapeOf(kLlama8B, 1, 0);
    change(shape);
    return CheckSegmentShape(shape).ToString();
  };
  EXPECT_THAT(refusal([](SegmentShape& s) { s.layers.count = 0; }), HasSubstr("layer range"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.layers.first = kLayersMax; }),
              HasSubstr("layer range"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.layers.count = 32; }), HasSubstr("layer range"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.layers.first = ~0u; }), HasSubstr("layer range"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.heads = 0; }), HasSubstr("heads"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.heads = kHeadsMax + 1; }), HasSubstr("heads"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.first_head = 1; }), HasSubstr("first_head"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.head_group = ~0u; }), HasSubstr("first_head"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.head_dim = 0; }), HasSubstr("head_dim"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.head_dim = kHeadDimMax + 1; }),
              HasSubstr("head_dim"));
  EXPECT_THAT(refusal([](SegmentShape& s) { s.dtype = static_cast<KvDtype>(0); }),
              HasSubstr("dtype"));
}

TEST(Plane, RunsOverLayerThenHeadThenKAndV) {
  ForManySegments([](const ModelShape&, const SegmentShape& shape) {
    uint32_t plane = 0;
    for (uint32_t layer = 0; layer < shape.layers.count; ++layer) {
      for (uint32_t head = 0; head < shape.heads; ++head) {
        for (bool value : {false, true}) {
          const PlaneIndex at = PlaneAt(shape, plane++);
          ASSERT_TRUE(at.layer == layer && at.head == head && at.value == value);
        }
      }
    }
    EXPECT_EQ(plane, shape.planes());
  });
}

TEST(BlockCut, FollowsTheRuleForKnownHeadSizes) {
  const auto cut = [](uint32_t head_dim, uint32_t heads) {
    return CutOf({.layers = {0, 1}, .heads = heads, .head_dim = head_dim});
  };
  EXPECT_EQ(cut(16, 8).planes, 8u);
  EXPECT_EQ(cut(16, 1).planes, 2u);  // not more than the segment has
  EXPECT_EQ(cut(64, 8).planes, 2u);
  EXPECT_EQ(cut(80, 8).planes, 1u);
  EXPECT_EQ(cut(128, 8).planes, 1u);
  EXPECT_EQ(cut(255, 8).splits, 1u);
  EXPECT_EQ(cut(256, 8).splits, 2u);  // 65,536 symbols: one above the maximum
  EXPECT_EQ(cut(512, 8).splits, 4u);
  EXPECT_EQ(cut(576, 8).splits, 4u);
  EXPECT_EQ(cut(1024, 8).splits, 8u);
}

TEST(BlockCut, TilesEverySegmentExactlyAndInOrder) {
  ForManySegments([](const ModelShape&, const SegmentShape& shape) {
    uint64_t next = 0;
    for (uint32_t block = 0; block < BlockCount(shape); ++block) {
      const BlockRange range = BlockAt(shape, block);
      ASSERT_EQ(uint64_t{range.first_plane} * shape.plane_elements() +
                    uint64_t{range.first_token} * shape.head_dim,
                next);
      ASSERT_EQ(range.elements, range.planes * range.tokens * shape.head_dim);
      ASSERT_TRUE(range.planes == 1 || range.tokens == kChunkTokens);
      ASSERT_GT(range.elements, 0u);
      ASSERT_LE(range.elements, kBlockSymbolsMax);
      next += range.elements;
    }
    ASSERT_EQ(next, shape.elements());
  });
}

TEST(BlockCut, IsTheSameForEveryDtypeOfAShape) {
  ForManySegments([](const ModelShape&, const SegmentShape& shape) {
    SegmentShape other = shape;
    other.dtype = shape.dtype == KvDtype::kBf16 ? KvDtype::kFp8E5m2 : KvDtype::kFp16;
    EXPECT_EQ(BlockCount(shape), BlockCount(other));
  });
}

}  // namespace
}  // namespace shadowserve
