#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/completion_table.h"
#include "client/key_chain.h"
#include "client/load_table.h"
#include "client/lookup_table.h"
#include "client/page_quarantine.h"
#include "client/save_queue.h"
#include "client/step_metadata.h"
#include "format/kv_layout.h"

namespace shadowserve {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::vector<uint32_t> Tokens(size_t count) {
  std::vector<uint32_t> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<uint32_t>(i * 7);
  return tokens;
}

std::vector<ChunkKey> KeysOf(const std::vector<uint32_t>& tokens, std::vector<KeyExtra> extras) {
  KeyChain chain = *KeyChain::Make(Digest{}, std::move(extras));
  chain.Extend(tokens);
  return chain.keys();
}

TEST(KeyChain, GrowsToTheSameKeysAsAtOnce) {
  const std::vector<uint32_t> tokens = Tokens(1000);
  KeyChain chain = *KeyChain::Make(Digest{}, {});
  for (size_t count : {100, 300, 511, 512, 1000}) chain.Extend(std::span(tokens).first(count));
  EXPECT_EQ(chain.keys(), KeysOf(tokens, {}));
  EXPECT_EQ(chain.keys().size(), 3U);
}

TEST(KeyChain, AnExtraChangesItsChunkAndAllLaterOnes) {
  const std::vector<uint32_t> tokens = Tokens(768);
  const std::vector<ChunkKey> plain = KeysOf(tokens, {});
  const std::vector<ChunkKey> extra = KeysOf(tokens, {{300, "picture"}});
  EXPECT_EQ(extra[0], plain[0]);
  EXPECT_NE(extra[1], plain[1]);
  EXPECT_NE(extra[2], plain[2]);
  EXPECT_NE(extra, KeysOf(tokens, {{301, "picture"}}));
}

TEST(KeyChain, TakesExtrasInAnyOrder) {
  const std::vector<uint32_t> tokens = Tokens(512);
  EXPECT_EQ(KeysOf(tokens, {{10, "a"}, {400, "b"}}), KeysOf(tokens, {{400, "b"}, {10, "a"}}));
}

TEST(KeyChain, RefusesExtrasWithoutBound) {
  EXPECT_FALSE(KeyChain::Make(Digest{}, std::vector<KeyExtra>(kMaxExtras + 1)).ok());
  EXPECT_FALSE(KeyChain::Make(Digest{}, {{0, std::string(kMaxExtraBytes + 1, 'x')}}).ok());
}

TEST(RequestRoot, TellsPartsAndNamespacesApart) {
  const std::vector<std::string> parts = {"ab", "c"};
  const std::vector<std::string> moved = {"a", "bc"};
  EXPECT_NE(RequestRoot(Digest{}, "", parts), RequestRoot(Digest{}, "", moved));
  EXPECT_NE(RequestRoot(Digest{}, "", parts), RequestRoot(Digest{}, "n", parts));
}

TEST(StepMetadata, CarriesAStepThere) {
  StepMetadata step;
  step.epoch = 0x0123456789abcdef;
  step.grant = true;
  step.loads = {{5, "r5"}, {6, ""}};
  step.failed = {5, 9};
  const Result<StepMetadata> back = DecodeStep(EncodeStep(step));
  ASSERT_TRUE(back.ok());
  EXPECT_EQ(*back, step);
}

TEST(StepMetadata, IsNoBytesWhenThereIsNothingToTell) {
  EXPECT_EQ(EncodeStep(StepMetadata{}), "");
  EXPECT_TRUE(DecodeStep("").ok());
}

TEST(StepMetadata, RefusesEveryTruncationAndTrailingBytes) {
  StepMetadata step;
  step.loads = {{5, "request"}};
  step.failed = {1, 2};
  const std::string bytes = EncodeStep(step);
  for (size_t length = 1; length < bytes.size(); ++length) {
    EXPECT_FALSE(DecodeStep(bytes.substr(0, length)).ok()) << length;
  }
  EXPECT_FALSE(DecodeStep(bytes + "x").ok());
  EXPECT_FALSE(DecodeStep("not such bytes at all").ok());
}

TEST(LookupTable, BelievesNoAnswerLargerThanTheQuestion) {
  LookupTable table;
  const uint64_t id = table.Add(4, 0);
  EXPECT_TRUE(table.Answer(id, 5));
  EXPECT_EQ(table.Get(id).phase, LookupTable::Phase::kAnswered);
  EXPECT_EQ(table.Get(id).chunks, 0U);
}

TEST(LookupTable, IgnoresASecondAnswer) {
  LookupTable table;
  const uint64_t id = table.Add(4, 0);
  EXPECT_TRUE(table.Answer(id, 3));
  EXPECT_FALSE(table.Answer(id, 4));
  EXPECT_EQ(table.Get(id).chunks, 3U);
}

TEST(LookupTable, FailsOnlyWhatIsPending) {
  LookupTable table;
  const uint64_t answered = table.Add(4, 0);
  const uint64_t pending = table.Add(4, 0);
  table.Answer(answered, 2);
  table.FailPending();
  EXPECT_EQ(table.Get(answered).chunks, 2U);
  EXPECT_EQ(table.Get(pending).phase, LookupTable::Phase::kGone);
  EXPECT_EQ(table.pending(), 0U);
}

TEST(LookupTable, TakesNoMoreThanItsBound) {
  LookupTable table;
  for (size_t i = 0; i < LookupTable::kLookupsMax; ++i) ASSERT_NE(table.Add(1, 0), 0U);
  EXPECT_EQ(table.Add(1, 0), 0U);
}

PlaneProcessPtr Process(uint64_t incarnation) {
  auto process = std::make_shared<PlaneProcess>();
  process->incarnation = incarnation;
  return process;
}

TEST(PageQuarantine, FreesOnADrainReportOfTheSameProcess) {
  PageQuarantine quarantine;
  std::vector<uint32_t> freed;
  quarantine.Hold(1, {10, 11}, Process(7));
  quarantine.Drained(1, 7, &freed);
  EXPECT_THAT(freed, ElementsAre(10, 11));
  EXPECT_EQ(quarantine.page_count(), 0U);
}

TEST(PageQuarantine, FreesNothingOnTheWordOfAnotherProcess) {
  PageQuarantine quarantine;
  std::vector<uint32_t> freed;
  quarantine.Hold(1, {10, 11}, Process(7));
  quarantine.Drained(1, 8, &freed);
  quarantine.ReapExited(&freed);
  EXPECT_THAT(freed, IsEmpty());
  EXPECT_EQ(quarantine.page_count(), 2U);
  EXPECT_EQ(quarantine.stranded_page_count(8), 2U);
}

TEST(PageQuarantine, AsksOnlyTheProcessThatWasGivenTheAttempt) {
  PageQuarantine quarantine;
  quarantine.Hold(1, {10}, Process(7));
  quarantine.Hold(2, {20}, Process(8));
  std::vector<uint64_t> attempts;
  quarantine.AddUndrained(8, &attempts);
  EXPECT_THAT(attempts, ElementsAre(2));
}

std::vector<uint32_t> TwoPages(uint32_t first) {
  return {first, first + 1};
}

TEST(SaveQueue, SaysHeldExactlyWhileThePagesAreHeld) {
  SaveQueue saves(8);
  std::vector<uint32_t> freed;
  ASSERT_TRUE(saves.Add(ChunkKey{}, TenantId{}, TwoPages(4), 100));
  const uint64_t id = saves.TakeQueued(8).at(0).save_id;
  EXPECT_TRUE(saves.Confirm(id, false, &freed));
  EXPECT_THAT(freed, IsEmpty());
  EXPECT_TRUE(saves.Confirm(id, true, &freed));
  EXPECT_THAT(freed, ElementsAre(4, 5));
  EXPECT_FALSE(saves.Confirm(id, true, &freed));
  EXPECT_EQ(saves.page_count(), 0U);
}

TEST(SaveQueue, SaysRevokedAfterTheDeadlineForEver) {
  SaveQueue saves(8);
  std::vector<uint32_t> freed;
  ASSERT_TRUE(saves.Add(ChunkKey{}, TenantId{}, TwoPages(4), 100));
  const uint64_t id = saves.TakeQueued(8).at(0).save_id;
  EXPECT_EQ(saves.RevokeExpired(99, &freed), 0U);
  EXPECT_EQ(saves.RevokeExpired(100, &freed), 1U);
  EXPECT_THAT(freed, ElementsAre(4, 5));
  EXPECT_FALSE(saves.Confirm(id, true, &freed));
  EXPECT_FALSE(saves.Done(id, &freed));
  EXPECT_EQ(freed.size(), 2U);
}

TEST(SaveQueue, NeverSendsWhatItRevoked) {
  SaveQueue saves(8);
  std::vector<uint32_t> freed;
  ASSERT_TRUE(saves.Add(ChunkKey{}, TenantId{}, TwoPages(4), 100));
  saves.RevokeExpired(100, &freed);
  EXPECT_THAT(saves.TakeQueued(8), IsEmpty());
}

TEST(SaveQueue, TakesNoMoreThanItsBound) {
  SaveQueue saves(1);
  std::vector<uint32_t> freed;
  EXPECT_TRUE(saves.Add(ChunkKey{}, TenantId{}, TwoPages(4), 100));
  EXPECT_FALSE(saves.Add(ChunkKey{}, TenantId{}, TwoPages(6), 100));
  saves.RevokeAll(&freed);
  EXPECT_TRUE(saves.Add(ChunkKey{}, TenantId{}, TwoPages(6), 100));
}

TEST(LoadTable, TellsTheWorkersOfEveryLoadAndFailureOnce) {
  LoadTable loads;
  Load load;
  load.attempt = loads.NextAttempt();
  load.request_id = "r";
  load.tokens = 256;
  Load& kept = loads.Add(std::move(load));
  loads.Fail(kept);
  loads.Fail(kept);
  StepMetadata step;
  loads.TakeStep(&step);
  EXPECT_THAT(step.loads, ElementsAre(StepMetadata::NewLoad{1, "r"}));
  EXPECT_THAT(step.failed, ElementsAre(1));
  loads.FailAll();
  loads.TakeStep(&step);
  EXPECT_TRUE(step.empty());
  EXPECT_EQ(loads.tokens(), 256U);
  EXPECT_TRUE(loads.Take("r").has_value());
  EXPECT_EQ(loads.tokens(), 0U);
}

TEST(CompletionTable, KeepsACompletionThatComesBeforeItsStep) {
  CompletionTable loads;
  loads.Complete({1, 1}, true);
  loads.Complete({1, 2}, false);
  EXPECT_FALSE(loads.has_finished());
  loads.Expect({1, 1}, "a", 100);
  loads.Expect({1, 2}, "b", 100);
  const CompletionTable::Finished finished = loads.Take();
  EXPECT_THAT(finished.received, ElementsAre("a"));
  EXPECT_THAT(finished.failed, ElementsAre("b"));
}

TEST(CompletionTable, ReportsEveryAttemptOnce) {
  CompletionTable loads;
  loads.Expect({1, 1}, "a", 100);
  EXPECT_EQ(loads.Expire(100).size(), 1U);
  loads.Complete({1, 1}, true);
  loads.Fail({1, 1});
  loads.FailAll();
  loads.Expect({1, 1}, "a", 100);
  const CompletionTable::Finished finished = loads.Take();
  EXPECT_THAT(finished.received, IsEmpty());
  EXPECT_THAT(finished.failed, ElementsAre("a"));
  EXPECT_TRUE(loads.Take().empty());
  EXPECT_EQ(loads.pending(), 0U);
}

TEST(CompletionTable, ForgetsTheOldestEarlyCompletionsBeyondItsBound) {
  CompletionTable loads;
  for (uint64_t attempt = 1; attempt <= CompletionTable::kEarlyMax + 1; ++attempt) {
    loads.Complete({1, attempt}, true);
  }
  loads.Expect({1, 1}, "pushed out", 100);
  loads.Expect({1, 2}, "kept", 100);
  EXPECT_THAT(loads.Take().received, UnorderedElementsAre("kept"));
  EXPECT_EQ(loads.pending(), 1U);
}

}  // namespace
}  // namespace shadowserve
