#include "base/metrics.h"

#include <limits>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace shadowserve {
namespace {

std::string Series(const MetricRow& row) {
  std::string text(row.name);
  for (const MetricLabel& label : row.labels) {
    if (label.key.empty()) continue;
    text.append(" ").append(label.key).append("=").append(label.value);
  }
  return text;
}

const MetricRow* FindRow(const std::vector<MetricRow>& rows, std::string_view series) {
  for (const MetricRow& row : rows) {
    if (Series(row) == series) return &row;
  }
  return nullptr;
}

TEST(Metrics, ARowReadsTheInstrumentThatItNames) {
  Metrics metrics;
  metrics.lookups[LookupLabel::kPartial].Add(3);
  metrics.stage_busy[StageLabel::kDecode].AddNs(2'500'000'000);
  metrics.slabs[PoolLabel::kSave][SlabStateLabel::kUsed].Set(7);
  metrics.sessions[RoleLabel::kWorker].Add(-2);
  const auto rows = Rows(metrics);
  const MetricRow* row = FindRow(rows, "shadowserve_lookups_total result=partial");
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(row->Value(), 3);
  row = FindRow(rows, "shadowserve_stage_busy_seconds_total stage=decode");
  ASSERT_NE(row, nullptr);
  EXPECT_DOUBLE_EQ(row->Value(), 2.5);
  row = FindRow(rows, "shadowserve_slabs pool=save state=used");
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(row->Value(), 7);
  row = FindRow(rows, "shadowserve_sessions role=worker");
  ASSERT_NE(row, nullptr);
  EXPECT_EQ(row->Value(), -2);
}

TEST(Metrics, NoTwoRowsAreTheSameSeries) {
  const Metrics metrics;
  std::set<std::string> seen;
  for (const MetricRow& row : Rows(metrics)) EXPECT_TRUE(seen.insert(Series(row)).second);
}

TEST(Metrics, RowsOfOneMetricFollowEachOtherAndShareTypeAndHelp) {
  const Metrics metrics;
  const auto rows = Rows(metrics);
  std::set<std::string_view> closed;
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].name == rows[i - 1].name) {
      EXPECT_EQ(rows[i].help, rows[i - 1].help);
      EXPECT_EQ(rows[i].type, rows[i - 1].type);
    } else {
      closed.insert(rows[i - 1].name);
      EXPECT_FALSE(closed.contains(rows[i].name)) << rows[i].name;
    }
  }
}

TEST(Histogram, AValueOnABoundFallsIntoThatBucket) {
  Histogram histogram;
  histogram.Observe(0.001);
  histogram.Observe(0.0011);
  const auto snapshot = histogram.Take();
  EXPECT_EQ(snapshot.counts[0], 1U);
  EXPECT_EQ(snapshot.counts[1], 1U);
  EXPECT_EQ(snapshot.count, 2U);
  EXPECT_NEAR(snapshot.sum_seconds, 0.0021, 1e-8);
}

TEST(Histogram, AValueAboveAllBoundsFallsIntoTheLastBucket) {
  Histogram histogram;
  histogram.Observe(1e300);
  EXPECT_EQ(histogram.Take().counts.back(), 1U);
}

TEST(Histogram, ANegativeOrUndefinedValueCountsAsZeroSeconds) {
  Histogram histogram;
  histogram.Observe(-1);
  histogram.Observe(std::numeric_limits<double>::quiet_NaN());
  const auto snapshot = histogram.Take();
  EXPECT_EQ(snapshot.counts[0], 2U);
  EXPECT_EQ(snapshot.sum_seconds, 0);
}

TEST(BusyTime, ANegativeSpanDoesNotTurnItBack) {
  BusyTime busy;
  busy.AddNs(5);
  busy.AddNs(-3);
  EXPECT_EQ(busy.value_ns(), 5);
}

TEST(Metrics, ALoadIsCountedUnderTheCodeThatItEndedWith) {
  EXPECT_EQ(FetchLabelOf(StatusCode::kOk), FetchLabel::kOk);
  EXPECT_EQ(FetchLabelOf(StatusCode::kCorrupt), FetchLabel::kCorrupt);
  EXPECT_EQ(FetchLabelOf(StatusCode::kInternal), FetchLabel::kOther);
}

}  // namespace
}  // namespace shadowserve
