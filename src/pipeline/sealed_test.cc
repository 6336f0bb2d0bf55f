// The pipelines with keys: what is saved is sealed, and nothing is decoded or written to pages that
// the keys do not vouch for.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>

#include "pipeline/pipeline_testing.h"
#include "store/allocation_count_test.h"

namespace shadowserve::testing::sealed_test {
namespace {

constexpr ModelShape kShape{6, 4, 64, KvDtype::kBf16, 1};  // one segment to a chunk
constexpr ModelShape kGrouped{6, 4, 64, KvDtype::kBf16, 2};
constexpr StoredForm kForm{Profile::kLossless, CodecId::kZstd};
const AuthKey kOld = KeyOfByte(1, 0x11);
const AuthKey kNew = KeyOfByte(2, 0x22);
using Bytes = std::vector<std::byte>;

// A chunk saved under kOld, and an engine to load it into.
struct Kept {
  PipelineBench bench;
  EngineMemory from{kShape, 128, 4, Form::kCpuVec, true};
  EngineMemory to{kShape, 128, 4, Form::kCpuVec, true};
  StoredForm form = kForm;
  uint64_t id = 100;

  explicit Kept(BenchOptions options = {.keys = {kOld}}, StoredForm stored = kForm)
      : bench(options), form(stored) {
    from.Fill(3);
    EXPECT_EQ(Save(KeyOf(0)), SaveOutcome::kStored);
  }
  SaveOutcome Save(const ChunkKey& key) {
    bench.SaveChunk(++id, from, key, {0, 1}, form);
    bench.Settle();
    return bench.events.saves.at(id).outcome;
  }
  LoadResult Load() {
    bench.LoadChunks(++id, to, {KeyOf(0)}, {2, 3}, form);
    bench.Settle();
    return bench.events.loads.at(id);
  }
  ObjectName NameOf(uint32_t key, ObjectKind kind) {
    for (const ObjectName& name : bench.Objects()) {
      if (name.key == KeyOf(key) && name.kind == kind) return name;
    }
    ADD_FAILURE() << "no such object";
    return {};
  }
  Bytes Read(const ObjectName& name) {
    Bytes copy;
    bench.Tamper(name, [&](Bytes& bytes) { copy = bytes; });
    return copy;
  }
  void Replace(const ObjectName& name, const Bytes& with) {
    bench.Tamper(name, [&](Bytes& bytes) { bytes = with; });
  }
  uint64_t refused() { return bench.metrics.corrupt[CorruptLabel::kAuth].value(); }
  uint64_t decoded() { return bench.metrics.stage_bytes[StageLabel::kDecode].value(); }
  bool pages_clean() const {
    for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
      for (const uint64_t page : {2, 3}) {
        for (uint32_t token = 0; token < 128; ++token) {
          if (to.Value(page, layer, 0, false, token, 0) != 0) return false;
        }
      }
    }
    return true;
  }
  // One miss, one count, nothing decoded, nothing in the pages, and the next save repairs it.
  void ExpectMissAndRepair() {
    const uint64_t before = refused();
    const uint64_t decoded_before = decoded();
    EXPECT_EQ(Load().status.code(), StatusCode::kCorrupt);
    EXPECT_EQ(refused(), before + 1);
    EXPECT_EQ(decoded(), decoded_before);
    EXPECT_EQ(Save(KeyOf(0)), SaveOutcome::kStored);
    EXPECT_TRUE(Load().status.ok());
    EXPECT_TRUE(SameTokens(from, {0, 1}, to, {2, 3}, 0, 256));
  }
};

struct FormCase {
  StoredForm form;
  SealAlgorithm cipher;
  bool direct;
};

class SealedRoundTrip : public ::testing::TestWithParam<FormCase> {};

TEST_P(SealedRoundTrip, GivesThePagesThatAnUnsealedOneGives) {
  const FormCase& c = GetParam();
  EngineMemory from(kGrouped, 64, 8, Form::kRows, c.direct);
  EngineMemory plain(kGrouped, 64, 8, Form::kRows, c.direct);
  EngineMemory sealed(kGrouped, 64, 8, Form::kRows, c.direct);
  from.Fill(5);
  const std::vector<uint32_t> pages = {7, 0, 3, 2};
  for (EngineMemory* to : {&plain, &sealed}) {
    PipelineBench bench;
    if (to == &sealed) bench.Rekey({kOld, kNew}, c.cipher);
    bench.SaveChunk(1, from, KeyOf(0), pages, c.form);
    bench.Settle();
    ASSERT_EQ(bench.events.saves.at(1).outcome, SaveOutcome::kStored);
    bench.LoadChunks(2, *to, {KeyOf(0)}, pages, c.form);
    bench.Settle();
    ASSERT_TRUE(bench.events.loads.at(2).status.ok()) << bench.events.loads.at(2).status.ToString();
  }
  EXPECT_EQ(plain.bytes, sealed.bytes);
  EXPECT_EQ(SameTokens(from, pages, sealed, pages, 0, 256), IsExact(c.form.profile));
}

std::vector<FormCase> FormCases() {
  std::vector<FormCase> cases;
  for (const Profile profile : kProfiles) {
    for (const CodecId codec : {CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}) {
      for (const SealAlgorithm cipher : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
        cases.push_back({{profile, codec}, cipher, codec != CodecId::kDeflate});
      }
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(AllForms, SealedRoundTrip, ::testing::ValuesIn(FormCases()));

TEST(SealedPipeline, AnObjectOfNobodysKeyIsAMissThatIsCountedOnceAndRepaired) {
  Kept kept;
  // Saved by a foreign writer: no key at all, and another key under the same id.
  for (const std::vector<AuthKey>& foreign :
       {std::vector<AuthKey>{}, {KeyOfByte(1, 0x99)}, {KeyOfByte(9, 0x11)}}) {
    Kept writer({.keys = foreign});
    const ObjectName segment = kept.NameOf(0, ObjectKind::kSegment);
    const ObjectName marker = kept.NameOf(0, ObjectKind::kMarker);
    kept.Replace(marker, writer.Read(marker));
    kept.ExpectMissAndRepair();
    kept.Replace(segment, writer.Read(segment));
    kept.Replace(marker, writer.Read(marker));
    kept.ExpectMissAndRepair();
    if (foreign.empty()) continue;  // its segment's size differs from what the marker says
    kept.Replace(segment, writer.Read(segment));
    kept.ExpectMissAndRepair();
  }
}

TEST(SealedPipeline, NothingOfAForeignStoreIsDecodedOrWritten) {
  Kept kept({.keys = {KeyOfByte(1, 0x99)}});
  kept.bench.Rekey({kOld});
  EXPECT_EQ(kept.Load().status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(kept.refused(), 1u);
  EXPECT_EQ(kept.decoded(), 0u);
  EXPECT_TRUE(kept.pages_clean());
}

TEST(SealedPipeline, ObjectsOfAnotherChunkDoNotTakeItsPlace) {
  Kept kept;
  kept.from.Fill(99);
  ASSERT_EQ(kept.Save(KeyOf(1)), SaveOutcome::kStored);
  for (const ObjectKind kind : {ObjectKind::kSegment, ObjectKind::kMarker}) {
    const Bytes other = kept.Read(kept.NameOf(1, kind));
    kept.Replace(kept.NameOf(0, kind), other);
    EXPECT_EQ(kept.Load().status.code(), StatusCode::kCorrupt);
    ASSERT_EQ(kept.Save(KeyOf(0)), SaveOutcome::kStored);
  }
}

TEST(SealedPipeline, AnOldObjectOfTheSameNameStillHits) {
  Kept kept;
  const Bytes segment = kept.Read(kept.NameOf(0, ObjectKind::kSegment));
  const Bytes marker = kept.Read(kept.NameOf(0, ObjectKind::kMarker));
  for (const ObjectName& name : kept.bench.Objects()) kept.bench.Delete(name);
  ASSERT_EQ(kept.Save(KeyOf(0)), SaveOutcome::kStored);
  EXPECT_NE(kept.Read(kept.NameOf(0, ObjectKind::kSegment)), segment);
  kept.Replace(kept.NameOf(0, ObjectKind::kSegment), segment);
  kept.Replace(kept.NameOf(0, ObjectKind::kMarker), marker);
  EXPECT_TRUE(kept.Load().status.ok());
  EXPECT_TRUE(SameTokens(kept.from, {0, 1}, kept.to, {2, 3}, 0, 256));
}

TEST(SealedPipeline, KeysRotateWithoutAMiss) {
  Kept kept;
  kept.bench.Rekey({kOld, kNew});  // every host learns the new key first
  EXPECT_TRUE(kept.Load().status.ok());
  kept.bench.Rekey({kNew, kOld});  // then it signs
  EXPECT_TRUE(kept.Load().status.ok());
  ASSERT_EQ(kept.Save(KeyOf(1)), SaveOutcome::kStored);
  kept.bench.Rekey({kNew});  // then the old one goes
  EXPECT_EQ(kept.refused(), 0u);
  EXPECT_EQ(kept.Load().status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(kept.refused(), 1u);
  EXPECT_EQ(kept.Save(KeyOf(1)), SaveOutcome::kPresent);
  EXPECT_EQ(kept.Save(KeyOf(0)), SaveOutcome::kStored);
  EXPECT_TRUE(kept.Load().status.ok());
}

TEST(SealedPipeline, WithoutKeysSealedObjectsAreMisses) {
  Kept kept;
  kept.bench.Rekey({});
  EXPECT_EQ(kept.Load().status.code(), StatusCode::kCorrupt);
  EXPECT_EQ(kept.decoded(), 0u);
  EXPECT_TRUE(kept.pages_clean());
  EXPECT_EQ(kept.Save(KeyOf(0)), SaveOutcome::kStored);
  EXPECT_TRUE(kept.Load().status.ok());
}

TEST(SealedPipeline, TheCipherMayChangeOverAFullStore) {
  Kept kept;
  kept.bench.Rekey({kOld}, SealAlgorithm::kAes256Gcm);
  EXPECT_TRUE(kept.Load().status.ok());
  for (const ObjectName& name : kept.bench.Objects()) kept.bench.Delete(name);
  ASSERT_EQ(kept.Save(KeyOf(0)), SaveOutcome::kStored);
  kept.bench.Rekey({kOld});
  EXPECT_TRUE(kept.Load().status.ok());
  EXPECT_TRUE(SameTokens(kept.from, {0, 1}, kept.to, {2, 3}, 0, 256));
}

// Blocks are decoded while the rest of the segment is on its way, each only after its own tag.
TEST(SealedPipeline, VerifiesBlockByBlockAheadOfTheRest) {
  for (const SealAlgorithm cipher : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
    for (const bool damaged : {false, true}) {
      PipelineBench bench({.by_hand = true, .keys = {kOld}, .cipher = cipher});
      EngineMemory from(kShape, 128, 4, Form::kCpuVec, true);
      EngineMemory to(kShape, 128, 4, Form::kCpuVec, true);
      from.Fill(3);
      bench.SaveChunk(1, from, KeyOf(0), {0, 1}, kForm);
      bench.Settle();
      bench.stepped().stepping = true;
      bench.LoadChunks(2, to, {KeyOf(0)}, {2, 3}, kForm);
      const auto turns = [&] {
        for (int i = 0; i < 100; ++i) bench.Turn();
        return bench.metrics.stage_bytes[StageLabel::kDecode].value();
      };
      turns();
      ASSERT_TRUE(bench.stepped().waiting());
      Bytes& object = bench.stepped().object();
      // Where the first block begins.
      const SegmentShape shape = SegmentShapeOf(kShape, 0, 0);
      const size_t first = SegmentSideEnd(kForm, shape, true);
      bench.stepped().Arrive(first - 1);
      EXPECT_EQ(turns(), 0u) << "the head is not there";
      if (damaged) object[first + 8] ^= std::byte{1};
      bench.stepped().Arrive(object.size() / 2);
      EXPECT_EQ(turns() > 0, !damaged);
      bench.stepped().Arrive(object.size());
      turns();
      bench.stepped().End(StatusCode::kOk, object.size());
      bench.Settle();
      EXPECT_EQ(bench.events.loads.at(2).status.ok(), !damaged);
      EXPECT_EQ(SameTokens(from, {0, 1}, to, {2, 3}, 0, 256), !damaged);
    }
  }
}

TEST(SealedPipeline, SteadyStateAllocatesNothingForASegment) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  std::puts("not checked under a sanitizer, which has its own allocator");
#else
  for (const SealAlgorithm cipher : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
    Kept kept({.keys = {kNew, kOld}, .cipher = cipher});
    const auto count = [&](size_t chunks) {
      std::vector<uint32_t> pages;
      for (size_t i = 0; i < chunks; ++i) pages.insert(pages.end(), {2, 3});
      kept.bench.LoadChunks(++kept.id, kept.to, std::vector<ChunkKey>(chunks, KeyOf(0)), pages,
                            kForm);
      const size_t started = CountAllocations().calls;
      kept.bench.Settle();
      EXPECT_TRUE(kept.bench.events.loads.at(kept.id).status.ok());
      return CountAllocations().calls - started;
    };
    (void)count(8);  // every join of the pool is used once
    EXPECT_EQ(count(1), count(4));
  }
#endif
}

}  // namespace
}  // namespace shadowserve::testing::sealed_test
