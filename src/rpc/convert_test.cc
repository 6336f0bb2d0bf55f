#include "rpc/convert.h"

#include <gtest/gtest.h>

#include "rpc/limits.h"

namespace shadowserve {
namespace {

ModelShape SmallShape() {
  return {.layers = 2, .kv_heads = 2, .head_dim = 8, .dtype = KvDtype::kBf16, .head_groups = 1};
}

// Rows of [K|V], blocks outermost within a layer.
PageLayout SmallLayout() {
  PageLayout layout;
  layout.dtype = KvDtype::kBf16;
  layout.page_tokens = 128;
  layout.page_count = 4;
  layout.heads = 2;
  layout.head_dim = 8;
  layout.head_stride = 128 * 32;
  layout.page_stride = 2 * layout.head_stride;
  layout.layer_offset = {0, 4 * layout.page_stride};
  layout.k = {0, 32, 2};
  layout.v = {16, 32, 2};
  return layout;
}
uint64_t SmallRegion() {
  return 8 * SmallLayout().page_stride;
}

v1::Load SmallLoad() {
  v1::Load load;
  load.set_attempt(7);
  load.set_request_id("r");
  load.set_keys(std::string(64, 'k'));
  for (uint32_t page : {3u, 1u, 0u, 2u}) load.add_pages(page);
  return load;
}

TEST(Convert, CarriesAModelShapeThere) {
  const Result<ModelShape> back = FromProto(ToProto(SmallShape()), 1);
  ASSERT_TRUE(back.ok()) << back.status().ToString();
  EXPECT_EQ(*back, SmallShape());
}

TEST(Convert, RefusesAModelShapeOutOfBounds) {
  v1::ModelShape proto = ToProto(SmallShape());
  proto.set_layers(kLayersMax + 1);
  EXPECT_FALSE(FromProto(proto, 1).ok());
  proto = ToProto(SmallShape());
  proto.set_dtype("int4");
  EXPECT_FALSE(FromProto(proto, 1).ok());
}

TEST(Convert, CarriesAPageLayoutThere) {
  const PageLayout layout = SmallLayout();
  const Result<PageLayout> back = FromProto(ToProto(layout), SmallShape(), SmallRegion());
  ASSERT_TRUE(back.ok()) << back.status().ToString();
  EXPECT_EQ(back->layer_offset, layout.layer_offset);
  EXPECT_EQ(back->page_stride, layout.page_stride);
  EXPECT_EQ(back->head_stride, layout.head_stride);
  EXPECT_EQ(back->k, layout.k);
  EXPECT_EQ(back->v, layout.v);
  EXPECT_EQ(back->page_count, layout.page_count);
}

TEST(Convert, RefusesALayoutThatLeavesTheRegion) {
  EXPECT_FALSE(FromProto(ToProto(SmallLayout()), SmallShape(), SmallRegion() / 2).ok());
}

TEST(Convert, RefusesPagesThatDoNotDivideAChunk) {
  v1::PageLayout proto = ToProto(SmallLayout());
  for (const uint32_t tokens : {0u, 1u, 48u, 512u}) {
    proto.set_page_tokens(tokens);
    EXPECT_FALSE(FromProto(proto, SmallShape(), SmallRegion()).ok()) << tokens;
  }
}

TEST(Convert, RefusesMoreLayersThanAnyModelHas) {
  v1::PageLayout proto = ToProto(SmallLayout());
  for (uint32_t i = 0; i <= kLayersMax; ++i) proto.add_layer_offset(0);
  EXPECT_FALSE(FromProto(proto, SmallShape(), SmallRegion()).ok());
}

TEST(Convert, CarriesKeysThere) {
  std::vector<ChunkKey> keys(3);
  keys[1].fill(std::byte{1});
  keys[2].fill(std::byte{2});
  std::vector<ChunkKey> back;
  ASSERT_TRUE(KeysFromBytes(KeysToBytes(keys), 3, &back).ok());
  EXPECT_EQ(back, keys);
}

TEST(Convert, RefusesPartKeysAndTooManyKeys) {
  std::vector<ChunkKey> keys;
  EXPECT_FALSE(KeysFromBytes("", 3, &keys).ok());
  EXPECT_FALSE(KeysFromBytes(std::string(33, 'k'), 3, &keys).ok());
  EXPECT_FALSE(KeysFromBytes(std::string(128, 'k'), 3, &keys).ok());
}

TEST(Convert, TakesAnUnknownCodeAsInternal) {
  EXPECT_EQ(StatusCodeFromProto(1), StatusCode::kNotFound);
  EXPECT_EQ(StatusCodeFromProto(200), StatusCode::kInternal);
  EXPECT_TRUE(StatusFromProto(0, "x").ok());
}

TEST(CheckLoad, TakesAWellFormedOne) {
  EXPECT_TRUE(CheckLoad(SmallLoad(), 128, 4).ok());
}

TEST(CheckLoad, RefusesPagesOutsideTheRegionOrMissing) {
  EXPECT_FALSE(CheckLoad(SmallLoad(), 128, 3).ok());
  v1::Load load = SmallLoad();
  load.mutable_pages()->RemoveLast();
  EXPECT_FALSE(CheckLoad(load, 128, 4).ok());
}

TEST(CheckLoad, RefusesKeysAndOffsetsOutOfBounds) {
  v1::Load load = SmallLoad();
  load.set_first_token(kChunkTokens);
  EXPECT_FALSE(CheckLoad(load, 128, 4).ok());
  load = SmallLoad();
  load.set_keys(std::string(63, 'k'));
  EXPECT_FALSE(CheckLoad(load, 128, 4).ok());
  load = SmallLoad();
  load.clear_keys();
  load.clear_pages();
  EXPECT_FALSE(CheckLoad(load, 128, 4).ok());
}

TEST(CheckSave, RefusesBadKeysPagesAndCounts) {
  v1::Save save;
  v1::SaveItem* item = save.add_items();
  item->set_key(std::string(32, 'k'));
  item->add_pages(0);
  item->add_pages(1);
  EXPECT_TRUE(CheckSave(save, 128, 2).ok());
  EXPECT_FALSE(CheckSave(save, 128, 1).ok());
  EXPECT_FALSE(CheckSave(save, 64, 2).ok());
  save.mutable_items(0)->set_key("short");
  EXPECT_FALSE(CheckSave(save, 128, 2).ok());
  save.mutable_items(0)->set_key(std::string(32, 'k'));
  while (static_cast<size_t>(save.items_size()) <= kMaxItemsPerSave) *save.add_items() = *item;
  EXPECT_FALSE(CheckSave(save, 128, 2).ok());
}

TEST(CheckSave, TakesATenantOfSixteenBytesOrNone) {
  v1::Save save;
  v1::SaveItem* item = save.add_items();
  item->set_key(std::string(32, 'k'));
  item->add_pages(0);
  item->add_pages(1);
  EXPECT_EQ(TenantFromProto(*item), TenantOf(""));
  item->set_tenant(std::string(15, 't'));
  EXPECT_FALSE(CheckSave(save, 128, 2).ok());
  item->set_tenant(std::string(16, 't'));
  ASSERT_TRUE(CheckSave(save, 128, 2).ok());
  TenantId tenant;
  tenant.fill(std::byte{'t'});
  EXPECT_EQ(TenantFromProto(*item), tenant);
}

TEST(CheckHello, RefusesAnotherProtocolNamingBoth) {
  v1::SchedulerHello hello;
  hello.set_protocol(9);
  const Status status = CheckHello(hello);
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("protocol 9"), std::string_view::npos);
}

TEST(CheckHello, RefusesARankOutsideTheWorld) {
  v1::WorkerHello hello;
  hello.set_protocol(kProtocolVersion);
  hello.set_engine_id("e");
  hello.set_world_size(2);
  hello.set_rank(1);
  EXPECT_TRUE(CheckHello(hello).ok());
  hello.set_rank(2);
  EXPECT_FALSE(CheckHello(hello).ok());
  hello.set_world_size(0);
  EXPECT_FALSE(CheckHello(hello).ok());
}

}  // namespace
}  // namespace shadowserve
