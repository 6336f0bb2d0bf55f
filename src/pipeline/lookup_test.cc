// Lookups over stores with and without an index must give the same answers.
#include <gtest/gtest.h>

#include "pipeline/pipeline_testing.h"

namespace shadowserve::testing::lookup_test {
namespace {

constexpr ModelShape kShape{5, 16, 128, KvDtype::kBf16, 2};  // 3 ranges x 2 groups
constexpr StoredForm kForm{Profile::kRaw, CodecId::kNone};
constexpr uint32_t kUnits = 6;

struct Answer {
  uint32_t count = 0;
  StatusCode code = StatusCode::kInternal;
  uint32_t chunks = 0;
};

class Lookups : public ::testing::TestWithParam<bool> {
 protected:
  Lookups() : bench_({.indexed = GetParam()}) {}

  UnindexedStore& store() { return static_cast<UnindexedStore&>(*bench_.store); }
  ObjectName Marker(uint32_t chunk, uint32_t unit) const {
    const LayerRange layers = RangeAt(kShape, unit / kShape.head_groups);
    ObjectName name;
    name.key = KeyOf(chunk);
    name.profile = kForm.profile;
    name.codec = kForm.codec;
    name.kind = ObjectKind::kMarker;
    name.first_layer = static_cast<uint16_t>(layers.first);
    name.layer_count = static_cast<uint16_t>(layers.count);
    name.head_group = static_cast<uint16_t>(unit % kShape.head_groups);
    name.head_groups = static_cast<uint16_t>(kShape.head_groups);
    return name;
  }
  void Store(uint32_t chunks) {
    std::vector<std::byte> bytes(8);
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      for (uint32_t unit = 0; unit < kUnits; ++unit) {
        const StoreRequest put{StoreOp::kPut, Marker(chunk, unit), bytes, 0};
        StoreCompletion done;
        ASSERT_EQ(bench_.store->Submit(std::span(&put, 1)), 1u);
        ASSERT_EQ(bench_.store->Poll(std::span(&done, 1)), 1u);
      }
    }
  }
  void Start(uint32_t chunks, Answer* answer) {
    LookupPipeline::Spec spec{kShape, kForm, {}};
    for (uint32_t i = 0; i < chunks; ++i) spec.keys.push_back(KeyOf(i));
    bench_.lookup.Start(std::move(spec), [answer](StatusCode code, uint32_t present) {
      *answer = {answer->count + 1, code, present};
    });
  }
  Answer Ask(uint32_t chunks) {
    Answer answer;
    Start(chunks, &answer);
    bench_.Settle();
    EXPECT_EQ(answer.count, 1u);
    EXPECT_TRUE(bench_.lookup.idle());
    return answer;
  }

  PipelineBench bench_;
};

INSTANTIATE_TEST_SUITE_P(Stores, Lookups, ::testing::Bool(), [](const auto& test) {
  return std::string(test.param ? "indexed" : "unindexed");
});

TEST_P(Lookups, CountLeadingChunksThatAreWhole) {
  Store(40);
  EXPECT_EQ(Ask(40).chunks, 40u);
  EXPECT_EQ(Ask(512).chunks, 40u);
  for (const uint32_t chunk : {39u, 21u, 0u}) {
    bench_.Delete(Marker(chunk, chunk % kUnits));
    const Answer answer = Ask(40);
    EXPECT_EQ(answer.code, StatusCode::kOk);
    EXPECT_EQ(answer.chunks, chunk);
  }
}

TEST_P(Lookups, OfNothingFindNothing) {
  EXPECT_EQ(Ask(0).code, StatusCode::kOk);
  EXPECT_EQ(Ask(0).chunks, 0u);
}

TEST_P(Lookups, SideBySideAreEachRight) {
  Store(64);
  std::array<Answer, 100> answers;
  for (uint32_t i = 0; i < answers.size(); ++i) Start(i, &answers[i]);
  bench_.Settle();
  for (uint32_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].count, 1u);
    EXPECT_EQ(answers[i].chunks, std::min(i, 64u)) << i;
  }
}

class UnindexedLookups : public Lookups {};
INSTANTIATE_TEST_SUITE_P(Stores, UnindexedLookups, ::testing::Values(false));

TEST_P(UnindexedLookups, AskNoMoreThanAWindowBeyondAMiss) {
  EXPECT_EQ(Ask(4096).chunks, 0u);
  EXPECT_LE(store().asked, LookupPipeline::kAsksPerLookupMax);
}

TEST_P(UnindexedLookups, GoOnWhenTheStoreTakesNoMoreForAWhile) {
  Store(50);
  Answer answer;
  store().accept_max = 0;
  Start(50, &answer);
  bench_.Settle();
  EXPECT_EQ(answer.count, 0u);
  store().accept_max = SIZE_MAX;
  bench_.Settle();
  EXPECT_EQ(answer.chunks, 50u);
}

TEST_P(UnindexedLookups, OfAStoreThatIsGoneSaySo) {
  store().fail_from = 0;
  EXPECT_EQ(Ask(40).code, StatusCode::kUnavailable);
}

TEST_P(UnindexedLookups, KeepWhatTheyLearnedBeforeTheStoreWent) {
  Store(40);
  store().fail_from = 10 * kUnits + 1;
  const Answer answer = Ask(40);
  EXPECT_EQ(answer.code, StatusCode::kOk);
  EXPECT_EQ(answer.chunks, 10u);
}

TEST_P(UnindexedLookups, PastTheirBoundAreRefusedAtOnce) {
  Store(2);
  std::vector<Answer> answers(LookupPipeline::kLookupsMax + 10);
  for (Answer& answer : answers) Start(2, &answer);
  for (size_t i = LookupPipeline::kLookupsMax; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].code, StatusCode::kExhausted);
  }
  bench_.Settle();
  for (const Answer& answer : answers) EXPECT_EQ(answer.count, 1u);
  EXPECT_EQ(answers[LookupPipeline::kLookupsMax - 1].chunks, 2u);
}

}  // namespace
}  // namespace shadowserve::testing::lookup_test
