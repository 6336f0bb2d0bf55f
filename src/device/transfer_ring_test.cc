#include "device/transfer_ring.h"

#include <gtest/gtest.h>

#include <vector>

namespace shadowserve {
namespace {

TEST(TransferRing, TakesNoMoreThanItHasRoomFor) {
  TransferRing ring(100);
  const std::vector<Transfer> many(TransferRing::kTransfersMax + 3);
  EXPECT_EQ(ring.Accept(many), TransferRing::kTransfersMax);
  EXPECT_EQ(ring.Accept(many), 0u);
  ring.Complete(StatusCode::kOk);
  EXPECT_EQ(ring.Accept(many), 1u);
}

TEST(TransferRing, CutsRunsAtTheByteBudgetAndGoesOnWhereItStopped) {
  std::vector<std::byte> local(10);
  const TransferRun runs[] = {
      {100, std::span(local).first(4)}, {200, {}}, {300, std::span(local).subspan(4, 6)}};
  TransferRing ring(1000);
  const Transfer transfer{true, runs, 1};
  ASSERT_EQ(ring.Accept({&transfer, 1}), 1u);
  EXPECT_FALSE(ring.started());
  TransferRun pieces[8];
  ASSERT_EQ(ring.TakePieces(pieces, 3), 1u);
  EXPECT_TRUE(ring.started());
  EXPECT_EQ(pieces[0].offset, 100u);
  EXPECT_EQ(pieces[0].local.size(), 3u);
  ASSERT_EQ(ring.TakePieces(pieces, 4), 2u);
  EXPECT_EQ(pieces[0].offset, 103u);
  EXPECT_EQ(pieces[0].local.data(), &local[3]);
  EXPECT_EQ(pieces[1].offset, 300u);
  EXPECT_EQ(pieces[1].local.size(), 3u);
  ASSERT_EQ(ring.TakePieces(pieces, 100), 1u);
  EXPECT_EQ(pieces[0].offset, 303u);
  EXPECT_EQ(pieces[0].local.data(), &local[7]);
  EXPECT_EQ(ring.TakePieces(pieces, 100), 0u);
}

TEST(TransferRing, FillsNoMorePiecesThanGiven) {
  std::vector<std::byte> local(10);
  std::vector<TransferRun> runs;
  for (size_t i = 0; i < 10; ++i) runs.push_back({i, std::span(local).subspan(i, 1)});
  TransferRing ring(1000);
  const Transfer transfer{true, runs, 1};
  ASSERT_EQ(ring.Accept({&transfer, 1}), 1u);
  TransferRun pieces[4];
  EXPECT_EQ(ring.TakePieces(pieces, 100), 4u);
  EXPECT_EQ(ring.TakePieces(pieces, 100), 4u);
  EXPECT_EQ(ring.TakePieces(pieces, 100), 2u);
}

TEST(TransferRing, SeesARunThatLeavesTheRegionAlsoWhereSumsWrap) {
  std::vector<std::byte> local(10);
  for (const uint64_t offset : {uint64_t{91}, uint64_t{100}, UINT64_MAX, UINT64_MAX - 9}) {
    const TransferRun run{offset, local};
    TransferRing ring(100);
    const Transfer transfer{true, {&run, 1}, 1};
    ASSERT_EQ(ring.Accept({&transfer, 1}), 1u);
    EXPECT_FALSE(ring.InBounds()) << offset;
  }
  const TransferRun last{90, local};
  TransferRing ring(100);
  const Transfer transfer{true, {&last, 1}, 1};
  ASSERT_EQ(ring.Accept({&transfer, 1}), 1u);
  EXPECT_TRUE(ring.InBounds());
}

}  // namespace
}  // namespace shadowserve
