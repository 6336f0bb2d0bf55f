#include "mem/slab_pool.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>

namespace shadowserve {
namespace {

std::unique_ptr<SlabPool> MakePool(uint32_t slabs) {
  return std::move(SlabPool::Create("fetch", 8192, slabs)).value();
}

TEST(SlabPool, RefusesALeaseWhenEverySlabIsOut) {
  const auto pool = MakePool(2);
  SlabLease first = pool->TryTake();
  const SlabLease second = pool->TryTake();
  EXPECT_FALSE(pool->TryTake().valid());
  first.Reset();
  EXPECT_TRUE(pool->TryTake().valid());
}

TEST(SlabPool, TakesAllOrNothing) {
  const auto pool = MakePool(3);
  const SlabLease held = pool->TryTake();
  std::array<SlabLease, 3> too_many;
  EXPECT_FALSE(pool->TryTakeAll(too_many));
  EXPECT_FALSE(too_many[0].valid());
  EXPECT_EQ(pool->free_count(), 2u);
  EXPECT_TRUE(pool->TryTakeAll(std::span(too_many).first(2)));
  EXPECT_EQ(pool->free_count(), 0u);
}

TEST(SlabPool, HandsOutTheWarmestSlabFirst) {
  const auto pool = MakePool(4);
  SlabLease lease = pool->TryTake();
  const std::byte* const warm = lease.bytes().data();
  lease.Reset();
  EXPECT_EQ(pool->TryTake().bytes().data(), warm);
}

TEST(SlabPool, SlabsAreDisjointAndPageAligned) {
  const auto pool = MakePool(2);
  const SlabLease a = pool->TryTake();
  const SlabLease b = pool->TryTake();
  EXPECT_EQ(reinterpret_cast<uintptr_t>(a.bytes().data()) % 4096, 0u);
  EXPECT_EQ(std::abs(a.bytes().data() - b.bytes().data()), 8192);
}

TEST(SlabPool, AbortsWhenALeaseOutlivesIt) {
  EXPECT_DEATH(
      {
        SlabLease lease;
        const auto pool = MakePool(1);
        lease = pool->TryTake();
      },
      "outlived its pool");
}

}  // namespace
}  // namespace shadowserve
