#include "store/object_index.h"

#include <gtest/gtest.h>

#include <random>
#include <unordered_map>

#include "store/allocation_count_test.h"
#include "store/store_test_util.h"

namespace shadowserve {
namespace {

// Cheap names for large numbers of objects: keys are SHA-256 in life, so any spread bits will do.
ObjectName FastName(uint64_t number) {
  ObjectName name;
  const uint64_t mixed = number * 0x9E3779B97F4A7C15u;
  std::memcpy(name.key.data(), &mixed, sizeof(mixed));
  return name;
}

TEST(ObjectIndex, TakesAtMostItsPromisePerSegmentWithItsMarkerAtEverySize) {
  const size_t before = CountAllocations().live_bytes;
  ObjectIndex index;
  for (uint32_t i = 1; i <= 300'000; ++i) {
    ASSERT_NE(index.Insert(FastName(i), 1), ObjectIndex::kNone);
    ASSERT_NE(index.Insert(FastName(i).AsKind(ObjectKind::kMarker), 1), ObjectIndex::kNone);
    if (i < 5000 || i % 1000 != 0) continue;
    ASSERT_LE(index.memory_bytes(), i * ObjectIndex::kBytesPerSegmentMax) << i;
    ASSERT_LE(CountAllocations().live_bytes - before, i * ObjectIndex::kBytesPerSegmentMax) << i;
  }
}

TEST(ObjectIndex, UsesTheEntriesOfErasedObjectsAgain) {
  ObjectIndex index;
  for (uint64_t i = 0; i < 3000; ++i) (void)index.Insert(FastName(i), 1);
  const size_t memory = index.memory_bytes();
  for (uint64_t i = 3000; i < 30'000; ++i) {
    index.Erase(index.oldest());
    (void)index.Insert(FastName(i), 1);
  }
  EXPECT_EQ(index.memory_bytes(), memory);
  EXPECT_EQ(index.object_count(), 3000u);
}

TEST(ObjectIndex, FindsTouchesAndErasesWithoutAllocating) {
  ObjectIndex index;
  for (uint64_t i = 0; i < 3000; ++i) (void)index.Insert(FastName(i), 1);
  const size_t calls = CountAllocations().calls;
  for (uint64_t i = 0; i < 3000; ++i) {
    const uint32_t id = index.Find(FastName(i));
    index.Touch(id);
    index.Erase(id);
  }
  EXPECT_EQ(CountAllocations().calls, calls);
  EXPECT_EQ(index.object_count(), 0u);
}

// Against the obvious implementation, with few names, so that probes collide and holes close.
TEST(ObjectIndex, AgreesWithAMapUnderRandomChanges) {
  std::mt19937_64 random(5);
  ObjectIndex index;
  std::unordered_map<ObjectName, uint64_t, ObjectNameHash> map;
  uint64_t total = 0;
  for (int step = 0; step < 200'000; ++step) {
    const ObjectName name =
        FastName(random() % 300)
            .AsKind(random() % 2 == 0 ? ObjectKind::kSegment : ObjectKind::kMarker);
    const uint32_t id = index.Find(name);
    const auto found = map.find(name);
    ASSERT_EQ(id != ObjectIndex::kNone, found != map.end());
    if (id != ObjectIndex::kNone) {
      ASSERT_EQ(index.bytes(id), found->second);
    }
    if (random() % 2 == 0) {
      const uint64_t bytes = random() % 1000;
      total += bytes - (found == map.end() ? 0 : found->second);
      map[name] = bytes;
      (void)index.Insert(name, bytes);
    } else if (id != ObjectIndex::kNone) {
      total -= found->second;
      map.erase(found);
      index.Erase(id);
    }
    ASSERT_EQ(index.object_count(), map.size());
    ASSERT_EQ(index.total_bytes(), total);
  }
}

TEST(ObjectIndex, ASegmentAndItsMarkerMoveAndLeaveTogetherMarkerFirst) {
  ObjectIndex index;
  const auto marker = [](uint64_t i) { return FastName(i).AsKind(ObjectKind::kMarker); };
  for (uint64_t i = 0; i < 2; ++i) {
    (void)index.Insert(FastName(i), 10);
    index.set_mark(index.Insert(marker(i), 3), 7);
  }
  index.Touch(index.Find(FastName(0)));
  std::vector<ObjectName> order;
  for (uint32_t id = index.oldest(); id != ObjectIndex::kNone; id = index.newer(id)) {
    order.push_back(index.name(id));
  }
  EXPECT_EQ(order, (std::vector{marker(1), FastName(1), marker(0), FastName(0)}));
  EXPECT_EQ(index.mark(index.Find(FastName(0))), 0);
  EXPECT_EQ(index.mark(index.Find(marker(0))), 7);
  const uint32_t segment = index.Find(FastName(0));
  EXPECT_EQ(index.NextVictim(segment), index.Find(marker(0)));
  index.Erase(index.Find(marker(0)));
  EXPECT_EQ(index.NextVictim(segment), segment);
  EXPECT_EQ(index.Find(FastName(0)), segment);
  EXPECT_EQ(index.total_bytes(), 23u);
  EXPECT_EQ(index.Insert(marker(0), UINT32_MAX), ObjectIndex::kNone);
}

TEST(ObjectIndex, KeepsTheOrderOfUse) {
  ObjectIndex index;
  for (uint64_t i = 0; i < 4; ++i) (void)index.Insert(FastName(i), 1);
  index.Touch(index.Find(FastName(1)));
  (void)index.Insert(FastName(0), 2);
  index.Erase(index.Find(FastName(2)));
  std::vector<ObjectName> order;
  for (uint32_t id = index.oldest(); id != ObjectIndex::kNone; id = index.newer(id)) {
    order.push_back(index.name(id));
  }
  EXPECT_EQ(order, (std::vector{FastName(3), FastName(1), FastName(0)}));
}

}  // namespace
}  // namespace shadowserve
