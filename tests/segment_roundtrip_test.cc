// What the pipeline does to a segment, without its threads: pages -> values -> quantize -> encode
// -> object -> verify -> decode -> dequantize -> pages, for every profile behind every codec.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "codec/codec_table.h"
#include "format/segment.h"
#include "quant/quant_testing.h"
#include "quant/quantizer.h"

namespace shadowserve {
namespace {

using quant_testing::Form;
using quant_testing::KvLikeValues;
using quant_testing::Pages;

struct Route {
  Profile profile;
  CodecId codec;
};

std::string RouteName(const testing::TestParamInfo<Route>& row) {
  return std::string(ProfileName(row.param.profile)) + "_" +
         std::string(CodecName(row.param.codec));
}

class SegmentRoundTrip : public testing::TestWithParam<Route> {
 protected:
  SegmentRoundTrip() {
    name_.profile = GetParam().profile;
    name_.codec = GetParam().codec;
    name_.layer_count = static_cast<uint16_t>(shape_.layers.count);
    if (name_.codec != CodecId::kNone) {
      codec_ = MakeBlockCodec(static_cast<uint8_t>(name_.codec)).value();
    }
  }

  std::vector<std::byte> Save(std::span<const std::byte> values) {
    const ProfileBytes bytes = ProfileBytesOf(name_.form(), shape_).value();
    std::vector<std::byte> object(SegmentBytesMax(name_.form(), shape_));
    SegmentWriter writer(object, name_, shape_);
    quantizer_->WriteSide(shape_, values, writer.side());
    while (!writer.done()) {
      const BlockRange block = writer.block_range();
      const std::span<std::byte> space = writer.BlockSpace();
      const auto plain = space.first(bytes.plain(block.elements));
      std::vector<std::byte> symbols(bytes.symbols(block.elements));
      quantizer_->QuantizeBlock(shape_, block, values, writer.side(), plain, symbols);
      const auto coded = space.subspan(plain.size(), symbols.size());
      const size_t used = codec_ ? codec_->Encode(symbols, coded) : 0;
      if (used == 0) std::ranges::copy(symbols, coded.begin());
      writer.FinishBlock(used == 0 ? CodecId::kNone : name_.codec,
                         static_cast<uint32_t>(used == 0 ? symbols.size() : used));
    }
    object.resize(writer.Finish().size());
    return object;
  }

  Status Fetch(std::span<const std::byte> object, const Pages& pages, std::byte* memory) {
    SS_TRY_ASSIGN(SegmentReader reader, SegmentReader::Open(object, name_, shape_));
    for (uint32_t i = 0; i < reader.block_count(); ++i) {
      const BlockView block = reader.NextBlock();
      SS_TRY(block.Verify());
      std::vector<std::byte> decoded(block.symbol_bytes);
      std::span<const std::byte> symbols = block.coded();
      if (block.codec != CodecId::kNone) {
        SS_TRY(codec_->Decode(symbols, decoded));
        symbols = decoded;
      }
      const BlockRange& range = block.range;
      const auto pieces = pages.Pieces(shape_, range.first_plane, range.planes, range.first_token,
                                       range.first_token + range.tokens,
                                       memory + range.first_plane * pages.PlaneBytes(shape_) *
                                                    (kChunkTokens / pages.page_tokens));
      quantizer_->DequantizeBlock(shape_, range, reader.side(), block.plain(), symbols, pieces,
                                  true);
    }
    StoreFence();
    return OkStatus();
  }

  // Values through an object and pages of one form, back to canonical order.
  std::vector<std::byte> Through(std::span<const std::byte> values, Form form) {
    const Pages pages{.form = form, .page_tokens = 32};
    std::vector<std::byte> memory(pages.Bytes(shape_, shape_.planes()));
    const Status status = Fetch(Save(values), pages, memory.data());
    EXPECT_TRUE(status.ok()) << status.ToString();
    std::vector<std::byte> back(values.size());
    const auto pieces = pages.Pieces(shape_, 0, shape_.planes(), 0, kChunkTokens, memory.data());
    GatherPieces(shape_, pieces, back);
    return back;
  }

  const SegmentShape shape_ = {
      .layers = {.first = 0, .count = 2}, .heads = 3, .head_dim = 64, .dtype = KvDtype::kBf16};
  ObjectName name_;
  std::unique_ptr<const Quantizer> quantizer_ =
      MakeQuantizer({GetParam().profile, GetParam().codec}).value();
  std::unique_ptr<BlockCodec> codec_;
};

TEST_P(SegmentRoundTrip, GivesTheSameValuesInEveryPageForm) {
  const std::vector<std::byte> values = KvLikeValues(shape_, 11);
  const std::vector<std::byte> rows = Through(values, Form::kRows);
  EXPECT_EQ(Through(values, Form::kTransposed), rows);
  if (IsExact(name_.profile)) {
    EXPECT_EQ(rows, values);
  }
}

TEST_P(SegmentRoundTrip, IsStableOnceQuantized) {
  if (name_.profile == Profile::kBalanced) GTEST_SKIP() << "its steps follow the values' spread";
  const std::vector<std::byte> once = Through(KvLikeValues(shape_, 12), Form::kRows);
  EXPECT_EQ(Through(once, Form::kRows), once);
}

TEST_P(SegmentRoundTrip, StoresNoMoreThanTheBound) {
  const std::vector<std::byte> object = Save(KvLikeValues(shape_, 13));
  EXPECT_LE(object.size(), SegmentBytesMax(name_.form(), shape_));
  EXPECT_TRUE(VerifySegment(object, name_).ok());
  if (name_.profile != Profile::kRaw && name_.codec != CodecId::kNone) {
    EXPECT_LT(object.size(), SegmentBytesMax(name_.form(), shape_) * 9 / 10);
  }
}

TEST_P(SegmentRoundTrip, RefusesAnObjectWithAnyDamagedRegion) {
  const std::vector<std::byte> object = Save(KvLikeValues(shape_, 14));
  const Pages pages{.form = Form::kRows, .page_tokens = 32};
  std::vector<std::byte> memory(pages.Bytes(shape_, shape_.planes()));
  std::vector<std::byte> damaged = object;
  for (size_t i = 0; i < object.size(); i += object.size() / 61) {
    damaged[i] ^= std::byte{0x10};
    EXPECT_EQ(Fetch(damaged, pages, memory.data()).code(), StatusCode::kCorrupt) << i;
    damaged[i] = object[i];
  }
}

INSTANTIATE_TEST_SUITE_P(
    Routes, SegmentRoundTrip,
    testing::Values(Route{Profile::kRaw, CodecId::kNone}, Route{Profile::kRaw, CodecId::kDeflate},
                    Route{Profile::kRaw, CodecId::kZstd}, Route{Profile::kLossless, CodecId::kNone},
                    Route{Profile::kLossless, CodecId::kDeflate},
                    Route{Profile::kLossless, CodecId::kZstd}, Route{Profile::kQ8, CodecId::kNone},
                    Route{Profile::kQ8, CodecId::kDeflate}, Route{Profile::kQ8, CodecId::kZstd},
                    Route{Profile::kBalanced, CodecId::kNone},
                    Route{Profile::kBalanced, CodecId::kDeflate},
                    Route{Profile::kBalanced, CodecId::kZstd}),
    RouteName);

}  // namespace
}  // namespace shadowserve
