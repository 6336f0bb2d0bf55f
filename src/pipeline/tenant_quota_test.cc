#include "pipeline/tenant_quota.h"

#include <gtest/gtest.h>

#include "pipeline/pipeline_testing.h"

namespace shadowserve::testing::tenant_quota_test {
namespace {

constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};
constexpr StoredForm kRaw{Profile::kRaw, CodecId::kNone};
constexpr int64_t kWindowNs = 60 * kNsPerSecond;

const TenantId kAda = TenantOf("ada");
const TenantId kBob = TenantOf("bob");

TEST(TenantQuota, EachTenantHasItsOwnAndANewWindowBeginsAnew) {
  ManualClock clock;
  TenantQuota quota({100, kWindowNs}, &clock);
  EXPECT_TRUE(quota.Take(kAda, 60));
  EXPECT_TRUE(quota.Take(kAda, 40));
  EXPECT_TRUE(quota.Full(kAda));
  EXPECT_FALSE(quota.Full(kBob));
  EXPECT_TRUE(quota.Take(kBob, 100));
  clock.AdvanceNs(kWindowNs);
  EXPECT_TRUE(quota.Take(kAda, 100));
}

TEST(TenantQuota, WhatDoesNotFitEndsTheTenantsWindow) {
  ManualClock clock;
  TenantQuota quota({100, kWindowNs}, &clock);
  EXPECT_TRUE(quota.Take(kAda, 60));
  EXPECT_FALSE(quota.Take(kAda, 41));
  EXPECT_FALSE(quota.Take(kAda, 1));
  EXPECT_TRUE(quota.Full(kAda));
}

TEST(TenantQuota, WhatWasNotStoredIsGivenBackOnce) {
  ManualClock clock;
  TenantQuota quota({100, kWindowNs}, &clock);
  EXPECT_TRUE(quota.Take(kAda, 100));
  quota.GiveBack(kAda, 30);
  EXPECT_TRUE(quota.Take(kAda, 30));
  clock.AdvanceNs(kWindowNs);
  quota.GiveBack(kAda, 100);  // of the window before: no credit
  EXPECT_FALSE(quota.Take(kAda, 101));
}

TEST(TenantQuota, TenantsBeyondItsTableShareOneQuota) {
  ManualClock clock;
  TenantQuota quota({100, kWindowNs}, &clock);
  for (size_t i = 0; i < TenantQuota::kTenantsMax; ++i) {
    ASSERT_TRUE(quota.Take(TenantOf(std::to_string(i)), 100));
  }
  EXPECT_TRUE(quota.Take(kAda, 60));
  EXPECT_FALSE(quota.Take(kBob, 60));
}

TEST(TenantQuota, NoneIsNoBound) {
  ManualClock clock;
  TenantQuota quota({0, kWindowNs}, &clock);
  EXPECT_TRUE(quota.Take(kAda, UINT64_MAX));
  EXPECT_TRUE(quota.Take(kAda, UINT64_MAX));
  EXPECT_FALSE(quota.Full(kAda));
}

// Saves of one tenant and then of another, through the pipeline.
class QuotaOfSaves : public ::testing::Test {
 protected:
  static constexpr uint64_t kChunkBytes = uint64_t{6} * 4 * 64 * 2 * 256 * 2;  // raw: all of its KV

  void Bound(uint64_t bytes) { bench_.LimitTenants({bytes, kWindowNs}); }
  const SaveResult& Save(const TenantId& tenant, uint32_t key) {
    const uint64_t id = ++saves_;
    SaveSpec spec;
    spec.save_id = id;
    spec.rank = engine_.rank.get();
    spec.form = kRaw;
    spec.key = KeyOf(key);
    spec.tenant = tenant;
    spec.pages = {0, 1, 2, 3};
    EXPECT_TRUE(bench_.save->Start(std::move(spec)).ok());
    bench_.Settle();
    return bench_.events.saves.at(id);
  }

  PipelineBench bench_;
  EngineMemory engine_{kShape, 64, 4, Form::kRows, true};
  uint64_t saves_ = 0;
};

TEST_F(QuotaOfSaves, BeyondItATenantsChunksAreDroppedAndOthersAreStored) {
  engine_.Fill(1);
  Bound(2 * kChunkBytes + kChunkBytes / 2);
  EXPECT_EQ(Save(kAda, 0).outcome, SaveOutcome::kStored);
  EXPECT_EQ(Save(kAda, 1).outcome, SaveOutcome::kStored);
  for (const uint32_t key : {2u, 3u}) {
    EXPECT_EQ(Save(kAda, key).outcome, SaveOutcome::kDropped);
    EXPECT_EQ(bench_.events.saves.at(saves_).reason, DropLabel::kQuota);
  }
  EXPECT_EQ(bench_.metrics.saves_dropped[DropLabel::kQuota].value(), 2u);
  EXPECT_EQ(bench_.events.reads.size(), 3u);  // the last one's pages were not even read
  EXPECT_EQ(Save(kBob, 2).outcome, SaveOutcome::kStored);
  EXPECT_EQ(Save(kAda, 2).outcome, SaveOutcome::kPresent);  // Bob's: it costs nothing
  bench_.clock.AdvanceNs(kWindowNs);
  EXPECT_EQ(Save(kAda, 3).outcome, SaveOutcome::kStored);
  EXPECT_EQ(bench_.save_slabs->free_count(), bench_.save_slabs->slab_count());
}

TEST_F(QuotaOfSaves, WhatTheEngineDidNotHoldIsNotCounted) {
  engine_.Fill(1);
  Bound(kChunkBytes + kChunkBytes / 2);
  bench_.held = false;
  EXPECT_EQ(Save(kAda, 0).reason, DropLabel::kNotHeld);
  EXPECT_EQ(Save(kAda, 1).reason, DropLabel::kNotHeld);
  bench_.held = true;
  EXPECT_EQ(Save(kAda, 0).outcome, SaveOutcome::kStored);
}

}  // namespace
}  // namespace shadowserve::testing::tenant_quota_test
