#include "quant/quantizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <vector>

#include "format/segment.h"
#include "mem/guarded_buffer.h"
#include "quant/quant_testing.h"

namespace shadowserve {
namespace {

using quant_testing::Form;
using quant_testing::KvLikeValues;
using quant_testing::Pages;
using quant_testing::RandomBytes;

constexpr StoredForm kRaw{Profile::kRaw, CodecId::kNone};
constexpr StoredForm kLossless{Profile::kLossless, CodecId::kZstd};
constexpr StoredForm kQ8{Profile::kQ8, CodecId::kZstd};
constexpr StoredForm kBalanced{Profile::kBalanced, CodecId::kZstd};
constexpr StoredForm kPacked{Profile::kBalanced, CodecId::kNone};

struct Blocks {
  std::vector<std::byte> side;
  std::vector<std::vector<std::byte>> plain;
  std::vector<std::vector<std::byte>> symbols;
};

SegmentShape Shape(uint32_t head_dim, KvDtype dtype = KvDtype::kBf16, uint32_t heads = 2) {
  return {.layers = {.first = 0, .count = 2}, .heads = heads, .head_dim = head_dim, .dtype = dtype};
}

Blocks Quantize(StoredForm form, KernelSet set, const SegmentShape& shape,
                std::span<const std::byte> values) {
  const auto quantizer = MakeQuantizer(form, set).value();
  const ProfileBytes bytes = ProfileBytesOf(form, shape).value();
  Blocks blocks;
  blocks.side.resize(bytes.side);
  quantizer->WriteSide(shape, values, blocks.side);
  for (uint32_t i = 0; i < BlockCount(shape); ++i) {
    const BlockRange range = BlockAt(shape, i);
    blocks.plain.emplace_back(bytes.plain(range.elements));
    blocks.symbols.emplace_back(bytes.symbols(range.elements));
    quantizer->QuantizeBlock(shape, range, values, blocks.side, blocks.plain.back(),
                             blocks.symbols.back());
  }
  return blocks;
}

// Tokens [begin, end) of every block into pages, from buffers that end at guard pages.
void Dequantize(StoredForm form, KernelSet set, const SegmentShape& shape, const Blocks& blocks,
                const Pages& pages, uint32_t begin, uint32_t end, bool streaming,
                std::span<std::byte> memory) {
  const auto quantizer = MakeQuantizer(form, set).value();
  const GuardedBuffer side{std::span<const std::byte>(blocks.side)};
  for (uint32_t i = 0; i < BlockCount(shape); ++i) {
    const BlockRange range = BlockAt(shape, i);
    const GuardedBuffer plain{std::span<const std::byte>(blocks.plain[i])};
    const GuardedBuffer symbols{std::span<const std::byte>(blocks.symbols[i])};
    const uint32_t first = std::max(begin, range.first_token);
    const uint32_t last = std::min(end, range.first_token + range.tokens);
    if (first >= last) continue;
    std::byte* plane_memory =
        memory.data() + (pages.Bytes(shape, range.first_plane) - pages.gap_bytes - pages.misalign);
    const auto pieces =
        pages.Pieces(shape, range.first_plane, range.planes, first, last, plane_memory);
    quantizer->DequantizeBlock(shape, range, side.bytes(), plain.bytes(), symbols.bytes(), pieces,
                               streaming);
  }
  StoreFence();
}

std::vector<std::byte> Gathered(KernelSet set, const SegmentShape& shape, const Pages& pages,
                                uint32_t begin, uint32_t end, std::span<std::byte> memory) {
  std::vector<std::byte> values(shape.raw_bytes(), std::byte{0x5A});
  const auto pieces = pages.Pieces(shape, 0, shape.planes(), begin, end, memory.data());
  GatherPieces(shape, pieces, values, set);
  return values;
}

struct KernelCase {
  StoredForm form;
  KvDtype dtype;
  std::string name;
};

class EveryKernel : public testing::TestWithParam<KernelCase> {
 protected:
  StoredForm stored() const { return GetParam().form; }
  SegmentShape shape(uint32_t head_dim) const { return Shape(head_dim, GetParam().dtype); }

  // Random symbols, plain bytes and, as scales, random bits: what a hostile store could send.
  Blocks RandomBlocks(const SegmentShape& shape, uint32_t seed) const {
    const ProfileBytes bytes = ProfileBytesOf(stored(), shape).value();
    Blocks blocks;
    blocks.side = RandomBytes(bytes.side, seed);
    for (uint32_t i = 0; i < BlockCount(shape); ++i) {
      const uint32_t elements = BlockAt(shape, i).elements;
      blocks.plain.push_back(RandomBytes(bytes.plain(elements), ++seed));
      blocks.symbols.push_back(RandomBytes(bytes.symbols(elements), ++seed));
    }
    return blocks;
  }

  void ExpectSameBytes(const SegmentShape& shape, const Pages& pages, uint32_t begin, uint32_t end,
                       const Blocks& blocks) const {
    const std::vector<std::byte> before = RandomBytes(pages.Bytes(shape, shape.planes()), 99);
    std::vector<std::byte> scalar = before;
    Dequantize(stored(), KernelSet::kScalar, shape, blocks, pages, begin, end, false, scalar);
    for (const bool streaming : {false, true}) {
      GuardedBuffer best{std::span<const std::byte>(before)};
      Dequantize(stored(), KernelSet::kBest, shape, blocks, pages, begin, end, streaming,
                 best.bytes());
      ASSERT_TRUE(std::ranges::equal(scalar, best.bytes()))
          << "dim " << shape.head_dim << " page " << pages.page_tokens << " form "
          << static_cast<int>(pages.form) << " tokens " << begin << ".." << end << " streaming "
          << streaming;
      ASSERT_EQ(Gathered(KernelSet::kScalar, shape, pages, begin, end, scalar),
                Gathered(KernelSet::kBest, shape, pages, begin, end, best.bytes()));
    }
  }
};

TEST_P(EveryKernel, GivesTheBytesOfTheScalarReferenceForEveryForm) {
  for (const uint32_t head_dim : {1U, 7U, 16U, 40U, 64U, 80U, 128U, 256U}) {
    const SegmentShape segment = shape(head_dim);
    const Blocks blocks = RandomBlocks(segment, head_dim);
    for (const Form form : {Form::kRows, Form::kTransposed, Form::kStrided}) {
      for (const uint32_t page_tokens : {16U, 32U, 128U}) {
        const Pages pages{.form = form, .page_tokens = page_tokens, .gap_bytes = 64};
        ExpectSameBytes(segment, pages, 0, kChunkTokens, blocks);
      }
    }
  }
}

// Random bits hold scales so small that they go another way.
TEST_P(EveryKernel, GivesTheBytesOfTheScalarReferenceForScalesAsWritersMakeThem) {
  if (DtypeBytes(GetParam().dtype) == 1) GTEST_SKIP() << "no values of 8 bits to quantize";
  for (const uint32_t head_dim : {16U, 48U, 80U, 128U}) {
    const SegmentShape segment = shape(head_dim);
    const Blocks blocks =
        Quantize(stored(), KernelSet::kScalar, segment, KvLikeValues(segment, head_dim));
    for (const Form form : {Form::kRows, Form::kTransposed}) {
      for (const uint32_t page_tokens : {16U, 64U}) {
        const Pages pages{.form = form, .page_tokens = page_tokens, .gap_bytes = 64};
        ExpectSameBytes(segment, pages, 0, kChunkTokens, blocks);
        ExpectSameBytes(segment, pages, 5, 104, blocks);
      }
    }
  }
}

// What is the same for a plane is prepared once for all of its pieces, whatever their form.
TEST_P(EveryKernel, TakesPiecesOfAllFormsAndPlanesInAnyOrder) {
  const SegmentShape segment = shape(64);
  const Blocks blocks = RandomBlocks(segment, 12);
  const BlockRange range = BlockAt(segment, 0);
  ASSERT_GT(range.planes, 1U);
  std::vector<std::byte> scalar;
  for (const KernelSet set : {KernelSet::kScalar, KernelSet::kBest}) {
    std::vector<std::byte> memory(size_t{3} * segment.raw_bytes());
    std::vector<PlanePiece> pieces;
    const std::array forms = {Form::kStrided, Form::kRows, Form::kTransposed, Form::kRows};
    for (size_t i = 0; i < kChunkTokens / 16; ++i) {
      Pages pages{.form = forms[i % forms.size()], .page_tokens = 16};
      const Pages widest{.form = Form::kStrided, .page_tokens = 16};
      pages.gap_bytes = widest.PlaneBytes(segment) - pages.PlaneBytes(segment);
      for (const uint32_t plane : {1U, 0U}) {
        const auto begin = static_cast<uint32_t>(i * 16);
        std::byte* const first = memory.data() + plane * memory.size() / segment.planes();
        for (const PlanePiece& piece :
             pages.Pieces(segment, range.first_plane + plane, 1, begin, begin + 16, first)) {
          pieces.push_back(piece);
        }
      }
      // Two planes in turn, then one after the other.
      if (i >= 8) std::swap(pieces[pieces.size() - 1], pieces[pieces.size() - 2]);
    }
    MakeQuantizer(stored(), set)
        .value()
        ->DequantizeBlock(segment, range, blocks.side, blocks.plain[0], blocks.symbols[0], pieces,
                          true);
    StoreFence();
    if (set == KernelSet::kScalar) {
      scalar = memory;
    } else {
      EXPECT_EQ(scalar, memory);
    }
  }
}

TEST_P(EveryKernel, GivesTheSameBytesForPartialPiecesAndUnalignedPages) {
  for (const uint32_t head_dim : {17U, 24U, 128U}) {
    const SegmentShape segment = shape(head_dim);
    const Blocks blocks = RandomBlocks(segment, head_dim + 1);
    for (const Form form : {Form::kRows, Form::kTransposed}) {
      for (const uint32_t begin : {0U, 1U, 13U, 130U}) {
        for (const uint32_t tokens : {1U, 8U, 21U, 100U}) {
          const Pages pages{.form = form, .page_tokens = 64, .gap_bytes = 6, .misalign = 2};
          ExpectSameBytes(segment, pages, begin, begin + tokens, blocks);
        }
      }
    }
  }
}

TEST_P(EveryKernel, GivesTheSameBytesWhereAPlaneIsSplitIntoBlocks) {
  const SegmentShape segment = {
      .layers = {.first = 0, .count = 1}, .heads = 1, .head_dim = 512, .dtype = GetParam().dtype};
  ASSERT_GT(CutOf(segment).splits, 1U);
  const Pages pages{.form = Form::kTransposed, .page_tokens = 128, .gap_bytes = 64};
  ExpectSameBytes(segment, pages, 16, kChunkTokens, RandomBlocks(segment, 4));
}

TEST_P(EveryKernel, TouchesNothingButTheCellsOfItsPieces) {
  for (const Form form : {Form::kRows, Form::kTransposed}) {
    const SegmentShape segment = shape(80);
    const Pages pages{.form = form, .page_tokens = 32, .gap_bytes = 128};
    const auto size = pages.Bytes(segment, segment.planes());
    // Twice over opposite fills: a cell that differs from its fill in neither was not written.
    std::vector<std::byte> zeros(size, std::byte{0});
    std::vector<std::byte> ones(size, std::byte{0xFF});
    const Blocks blocks = RandomBlocks(segment, 8);
    constexpr uint32_t kBegin = 37;
    constexpr uint32_t kEnd = 201;
    for (auto* memory : {&zeros, &ones}) {
      Dequantize(stored(), KernelSet::kBest, segment, blocks, pages, kBegin, kEnd, true, *memory);
    }
    std::vector<bool> owned(size);
    const size_t element = DtypeBytes(segment.dtype);
    for (const PlanePiece& piece :
         pages.Pieces(segment, 0, segment.planes(), kBegin, kEnd, zeros.data())) {
      for (size_t t = 0; t < piece.tokens; ++t) {
        for (size_t d = 0; d < segment.head_dim; ++d) {
          const auto at = piece.base - zeros.data() +
                          static_cast<ptrdiff_t>(t * piece.token_stride + d * piece.dim_stride);
          std::fill_n(owned.begin() + at, element, true);
        }
      }
    }
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(zeros[i] == ones[i], owned[i]) << "byte " << i;
    }
  }
}

TEST_P(EveryKernel, QuantizesToTheBytesOfTheScalarReference) {
  for (const uint32_t head_dim : {1U, 7U, 16U, 17U, 40U, 128U, 512U}) {
    const SegmentShape segment = shape(head_dim);
    for (const bool random_bits : {false, true}) {
      if (!random_bits && DtypeBytes(segment.dtype) == 1) continue;
      const GuardedBuffer values{std::span<const std::byte>(
          random_bits ? RandomBytes(segment.raw_bytes(), 3) : KvLikeValues(segment, 3))};
      const Blocks scalar = Quantize(stored(), KernelSet::kScalar, segment, values.bytes());
      const Blocks best = Quantize(stored(), KernelSet::kBest, segment, values.bytes());
      EXPECT_EQ(scalar.side, best.side);
      EXPECT_EQ(scalar.plain, best.plain);
      EXPECT_EQ(scalar.symbols, best.symbols);
    }
  }
}

TEST_P(EveryKernel, KeepsEveryBitWhereTheProfileIsLossless) {
  if (!IsExact(stored().profile)) GTEST_SKIP() << "lossy by design";
  // All 65536 bit patterns (NaN payloads, -0, denormals), in each form.
  const SegmentShape segment = shape(128);
  std::vector<std::byte> values(segment.raw_bytes());
  for (size_t i = 0; i + 1 < values.size(); i += 2) {
    values[i] = static_cast<std::byte>(i / 2);
    values[i + 1] = static_cast<std::byte>(i / 512);
  }
  const Blocks blocks = Quantize(stored(), KernelSet::kBest, segment, values);
  for (const Form form : {Form::kRows, Form::kTransposed, Form::kStrided}) {
    const Pages pages{.form = form, .page_tokens = 128};
    std::vector<std::byte> memory(pages.Bytes(segment, segment.planes()));
    Dequantize(stored(), KernelSet::kBest, segment, blocks, pages, 0, kChunkTokens, true, memory);
    EXPECT_EQ(Gathered(KernelSet::kBest, segment, pages, 0, kChunkTokens, memory), values);
  }
}

INSTANTIATE_TEST_SUITE_P(Quant, EveryKernel,
                         testing::Values(KernelCase{kRaw, KvDtype::kBf16, "RawBf16"},
                                         KernelCase{kRaw, KvDtype::kFp8E4m3, "RawFp8"},
                                         KernelCase{kLossless, KvDtype::kBf16, "LosslessBf16"},
                                         KernelCase{kLossless, KvDtype::kFp16, "LosslessFp16"},
                                         KernelCase{kQ8, KvDtype::kBf16, "Q8Bf16"},
                                         KernelCase{kQ8, KvDtype::kFp16, "Q8Fp16"},
                                         KernelCase{kBalanced, KvDtype::kBf16, "BalancedBf16"},
                                         KernelCase{kBalanced, KvDtype::kFp16, "BalancedFp16"},
                                         KernelCase{kPacked, KvDtype::kBf16, "PackedBf16"},
                                         KernelCase{kPacked, KvDtype::kFp16, "PackedFp16"}),
                         [](const auto& row) { return row.param.name; });

TEST(Lossless, SymbolsOfBf16AreTheExponents) {
  const SegmentShape segment = Shape(16);
  const std::vector<std::byte> values = KvLikeValues(segment, 1);
  const Blocks blocks = Quantize(kLossless, KernelSet::kBest, segment, values);
  uint16_t bits;
  std::memcpy(&bits, values.data() + 2 * 1234, 2);
  EXPECT_EQ(std::to_integer<int>(blocks.symbols[0][1234]), bits >> 7 & 0xFF);
  EXPECT_EQ(std::to_integer<int>(blocks.plain[0][1234]), (bits << 1 & 0xFE) | bits >> 15);
}

float ValueAt(const SegmentShape& shape, std::span<const std::byte> values, size_t index) {
  uint16_t bits;
  std::memcpy(&bits, values.data() + index * 2, 2);
  return shape.dtype == KvDtype::kBf16 ? F32FromBf16(bits) : F32FromFp16(bits);
}

void SetBits(std::span<std::byte> values, size_t index, uint16_t bits) {
  std::memcpy(values.data() + index * 2, &bits, 2);
}

float ScaleAt(const Blocks& blocks, size_t index) {
  float scale;
  std::memcpy(&scale, blocks.side.data() + index * 4, 4);
  return scale;
}

std::vector<std::byte> RoundTrip(const SegmentShape& segment, std::span<const std::byte> values,
                                 StoredForm form = kQ8) {
  const Blocks blocks = Quantize(form, KernelSet::kBest, segment, values);
  const Pages pages{.form = Form::kRows, .page_tokens = 16};
  std::vector<std::byte> memory(pages.Bytes(segment, segment.planes()));
  Dequantize(form, KernelSet::kBest, segment, blocks, pages, 0, kChunkTokens, false, memory);
  return Gathered(KernelSet::kBest, segment, pages, 0, kChunkTokens, memory);
}

TEST(Q8, StaysWithinHalfAStepOfEveryTokensLargestMagnitude) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16}) {
    const SegmentShape segment = Shape(64, dtype);
    const std::vector<std::byte> values = KvLikeValues(segment, 17);
    const std::vector<std::byte> out = RoundTrip(segment, values);
    const Blocks blocks = Quantize(kQ8, KernelSet::kBest, segment, values);
    const float half_ulp = dtype == KvDtype::kBf16 ? 0x1p-8F : 0x1p-11F;  // relative
    for (size_t i = 0; i < segment.elements(); ++i) {
      const PlaneIndex plane =
          PlaneAt(segment, static_cast<uint32_t>(i / segment.plane_elements()));
      const size_t token = i % segment.plane_elements() / segment.head_dim;
      const float scale =
          ScaleAt(blocks, (plane.layer * 2 + (plane.value ? 1 : 0)) * kChunkTokens + token);
      const float was = ValueAt(segment, values, i);
      const float is = ValueAt(segment, out, i);
      ASSERT_LE(std::abs(was - is), scale * 0.501F + std::abs(is) * half_ulp) << i;
    }
  }
}

TEST(Q8, SharesOneScalePerLayerKindAndTokenOverTheHeads) {
  const SegmentShape segment = Shape(32, KvDtype::kBf16, 3);
  std::vector<std::byte> values(segment.raw_bytes());
  // Layer 1, V, token 9: the largest magnitude is in head 2.
  const auto element = [&](uint32_t head, uint32_t dim) {
    const size_t plane = (size_t{1} * 3 + head) * 2 + 1;
    return plane * segment.plane_elements() + 9 * segment.head_dim + dim;
  };
  SetBits(values, element(0, 3), Bf16FromF32(1.0F));
  SetBits(values, element(2, 31), Bf16FromF32(-254.0F));
  const Blocks blocks = Quantize(kQ8, KernelSet::kBest, segment, values);
  for (size_t i = 0; i < blocks.side.size() / 4; ++i) {
    EXPECT_EQ(ScaleAt(blocks, i), i == (1 * 2 + 1) * kChunkTokens + 9 ? 2.0F : 0.0F);
  }
}

TEST(Q8, GivesZeroRowsAZeroScaleAndZerosBack) {
  const SegmentShape segment = Shape(64);
  const std::vector<std::byte> zeros(segment.raw_bytes());
  EXPECT_EQ(RoundTrip(segment, zeros), zeros);
}

TEST(Q8, KeepsNanAndInfinityFromTheirNeighbours) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16}) {
    const SegmentShape segment = Shape(64, dtype);
    const std::vector<std::byte> clean = KvLikeValues(segment, 23);
    std::vector<std::byte> values = clean;
    const uint16_t infinity = dtype == KvDtype::kBf16 ? kBf16Infinity : kFp16Infinity;
    // Small values of token 0, so that its scale does not depend on them.
    SetBits(values, 1, infinity);
    SetBits(values, 2, infinity | 0x8000);
    SetBits(values, 3, infinity | 1);
    SetBits(values, 4, 0xFFFF);
    std::vector<std::byte> expected = clean;
    for (size_t i = 1; i <= 4; ++i) SetBits(expected, i, 0);
    const Blocks blocks = Quantize(kQ8, KernelSet::kBest, segment, values);
    EXPECT_EQ(blocks.side, Quantize(kQ8, KernelSet::kBest, segment, expected).side);
    const std::vector<std::byte> out = RoundTrip(segment, values);
    const std::vector<std::byte> neighbours = RoundTrip(segment, expected);
    EXPECT_TRUE(std::equal(out.begin() + 10, out.end(), neighbours.begin() + 10));
    const float end = 127 * ScaleAt(blocks, 0);
    EXPECT_NEAR(ValueAt(segment, out, 1), end, end * 0x1p-8F);
    EXPECT_NEAR(ValueAt(segment, out, 2), -end, end * 0x1p-8F);
    EXPECT_EQ(ValueAt(segment, out, 3), 0.0F);
    EXPECT_EQ(ValueAt(segment, out, 4), 0.0F);
  }
}

TEST(Q8, WritesNoNanWhateverTheScalesAre) {
  const SegmentShape segment = Shape(16);
  Blocks blocks = Quantize(kQ8, KernelSet::kBest, segment, KvLikeValues(segment, 2));
  const std::array<uint32_t, 7> hostile = {0x7F80'0000, 0xFF80'0000, 0x7FC0'0000, 0xFFFF'FFFF,
                                           0x7F7F'FFFF, 0x8000'0000, 0x0000'0001};
  for (size_t i = 0; i < blocks.side.size() / 4; ++i) {
    std::memcpy(blocks.side.data() + i * 4, &hostile[i % hostile.size()], 4);
  }
  const Pages pages{.form = Form::kTransposed, .page_tokens = 32};
  std::vector<std::byte> memory(pages.Bytes(segment, segment.planes()));
  Dequantize(kQ8, KernelSet::kBest, segment, blocks, pages, 0, kChunkTokens, true, memory);
  for (size_t i = 0; i < memory.size() / 2; ++i) {
    ASSERT_FALSE(std::isnan(ValueAt(segment, memory, i))) << i;
  }
}

TEST(Q8, RoundsToNearestEven) {
  EXPECT_EQ(Bf16FromF32(std::bit_cast<float>(0x3F80'8000U)), 0x3F80);  // ties to even: down
  EXPECT_EQ(Bf16FromF32(std::bit_cast<float>(0x3F81'8000U)), 0x3F82);  // up
  EXPECT_EQ(Bf16FromF32(std::bit_cast<float>(0x3F80'8001U)), 0x3F81);
  EXPECT_EQ(Bf16FromF32(std::numeric_limits<float>::max()), kBf16Infinity);
  EXPECT_EQ(Fp16FromF32(1.0F + 0x1p-11F), 0x3C00);
  EXPECT_EQ(Fp16FromF32(1.0F + 3 * 0x1p-11F), 0x3C02);
  EXPECT_EQ(Fp16FromF32(65519.0F), 0x7BFF);
  EXPECT_EQ(Fp16FromF32(65520.0F), kFp16Infinity);
  EXPECT_EQ(Fp16FromF32(-1e9F), kFp16Infinity | 0x8000);
  EXPECT_EQ(Fp16FromF32(0x1p-24F), 0x0001);
  EXPECT_EQ(Fp16FromF32(0x1p-25F), 0x0000);
  EXPECT_EQ(Fp16FromF32(3 * 0x1p-25F), 0x0002);
}

TEST(Q8, ReadsBackEveryFiniteFp16) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if ((bits & kMagnitudeMask) >= kFp16Infinity) continue;
    ASSERT_EQ(Fp16FromF32(F32FromFp16(static_cast<uint16_t>(bits))), bits);
  }
}

// What the side bytes of balanced say, read without src/quant's help.
struct Steps {
  const SegmentShape& shape;
  const Blocks& blocks;
  bool packed;

  float Half(size_t index) const {
    uint16_t bits;
    std::memcpy(&bits, blocks.side.data() + index * 2, 2);
    return F32FromFp16(bits);
  }
  size_t means() const { return size_t{shape.layers.count} * shape.heads * shape.head_dim; }
  size_t steps_of_k() const {
    return size_t{shape.layers.count} * shape.heads * (packed ? shape.head_dim : 1);
  }
  float Mean(size_t layer, size_t head, size_t dim) const {
    return Half((layer * shape.heads + head) * shape.head_dim + dim);
  }
  float StepOfK(size_t layer, size_t head, size_t dim) const {
    const size_t at = layer * shape.heads + head;
    return Half(means() + (packed ? at * shape.head_dim + dim : at));
  }
  float StepOfV(size_t layer, size_t token) const {
    return Half(means() + steps_of_k() + layer * kChunkTokens + token);
  }
  float StepAt(size_t element) const {
    const PlaneIndex plane =
        PlaneAt(shape, static_cast<uint32_t>(element / shape.plane_elements()));
    const size_t token = element % shape.plane_elements() / shape.head_dim;
    if (plane.value) return StepOfV(plane.layer, token);
    return StepOfK(plane.layer, plane.head, element % shape.head_dim);
  }
};

class Balanced : public testing::TestWithParam<StoredForm> {
 protected:
  bool packed() const { return IsPacked(GetParam()); }
  float reach() const { return packed() ? 7.49F : 127.0F; }
  Blocks Quantized(const SegmentShape& segment, std::span<const std::byte> values) const {
    return Quantize(GetParam(), KernelSet::kBest, segment, values);
  }
  std::vector<std::byte> Back(const SegmentShape& segment,
                              std::span<const std::byte> values) const {
    return RoundTrip(segment, values, GetParam());
  }
};

TEST_P(Balanced, StaysWithinHalfAStepOfEveryValue) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16}) {
    for (const uint32_t head_dim : {7U, 64U, 128U}) {
      const SegmentShape segment = Shape(head_dim, dtype);
      const std::vector<std::byte> values = KvLikeValues(segment, 17);
      const std::vector<std::byte> out = Back(segment, values);
      const Blocks blocks = Quantized(segment, values);
      const Steps steps{segment, blocks, packed()};
      const float half_ulp = dtype == KvDtype::kBf16 ? 0x1p-8F : 0x1p-11F;  // relative
      for (size_t i = 0; i < segment.elements(); ++i) {
        const float was = ValueAt(segment, values, i);
        const float is = ValueAt(segment, out, i);
        ASSERT_LE(std::abs(was - is), steps.StepAt(i) * 0.501F + std::abs(is) * half_ulp) << i;
      }
    }
  }
}

TEST_P(Balanced, TakesItsStepsFromTheSpreadAndRaisesThemToReachTheFarthestValue) {
  const SegmentShape segment = Shape(64, KvDtype::kBf16, 3);
  const std::vector<std::byte> values = KvLikeValues(segment, 5);
  const Blocks blocks = Quantized(segment, values);
  const Steps steps{segment, blocks, packed()};
  const auto value = [&](size_t layer, size_t head, size_t kv, size_t token, size_t dim) {
    const size_t plane = (layer * segment.heads + head) * 2 + kv;
    return double{ValueAt(segment, values,
                          plane * segment.plane_elements() + token * segment.head_dim + dim)};
  };
  for (size_t layer = 0; layer < 2; ++layer) {
    for (size_t head = 0; head < 3; ++head) {
      double square = 0;
      std::vector<double> farthest(segment.head_dim);
      for (size_t d = 0; d < segment.head_dim; ++d) {
        double sum = 0;
        for (size_t t = 0; t < kChunkTokens; ++t) sum += value(layer, head, 0, t, d);
        ASSERT_NEAR(steps.Mean(layer, head, d), sum / 256, std::abs(sum / 256) * 0x1p-10 + 1e-5);
        for (size_t t = 0; t < kChunkTokens; ++t) {
          const double off = value(layer, head, 0, t, d) - double{steps.Mean(layer, head, d)};
          square += off * off;
          farthest[d] = std::max(farthest[d], std::abs(off));
        }
      }
      const double least = 0.25 * std::sqrt(square / segment.plane_elements());
      for (size_t d = 0; d < segment.head_dim; ++d) {
        const double far = packed() ? farthest[d] : *std::ranges::max_element(farthest);
        const double expected = std::max(least, far / double{reach()});
        ASSERT_NEAR(steps.StepOfK(layer, head, d), expected, expected * 0x1p-9);
      }
    }
    for (size_t t = 0; t < kChunkTokens; ++t) {
      double square = 0;
      double farthest = 0;
      for (size_t head = 0; head < 3; ++head) {
        for (size_t d = 0; d < segment.head_dim; ++d) {
          square += value(layer, head, 1, t, d) * value(layer, head, 1, t, d);
          farthest = std::max(farthest, std::abs(value(layer, head, 1, t, d)));
        }
      }
      const double expected =
          std::max(0.5 * std::sqrt(square / (3 * segment.head_dim)), farthest / double{reach()});
      ASSERT_NEAR(steps.StepOfV(layer, t), expected, expected * 0x1p-9);
    }
  }
}

TEST_P(Balanced, KeepsAnOutlierOfOneValueInFullAndItsNeighboursHeadsUntouched) {
  const SegmentShape segment = Shape(64);
  std::vector<std::byte> values = KvLikeValues(segment, 6);
  const std::vector<std::byte> clean = Back(segment, values);
  SetBits(values, 5, Bf16FromF32(3000.0F));  // K of layer 0, head 0, token 0, dim 5
  const std::vector<std::byte> out = Back(segment, values);
  const Blocks blocks = Quantized(segment, values);
  const Steps steps{segment, blocks, packed()};
  EXPECT_NEAR(ValueAt(segment, out, 5), 3000.0F, steps.StepOfK(0, 0, 5) * 0.501F + 12.0F);
  const size_t other_head = size_t{2} * segment.plane_elements();
  EXPECT_TRUE(std::equal(out.begin() + static_cast<ptrdiff_t>(other_head * 2), out.end(),
                         clean.begin() + static_cast<ptrdiff_t>(other_head * 2)));
}

TEST_P(Balanced, GivesZerosBackAsZerosWithStepsOfZero) {
  const SegmentShape segment = Shape(64);
  const std::vector<std::byte> zeros(segment.raw_bytes());
  EXPECT_EQ(Back(segment, zeros), zeros);
  EXPECT_TRUE(std::ranges::all_of(Quantized(segment, zeros).side,
                                  [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST_P(Balanced, KeepsConstantChannelsExactly) {
  const SegmentShape segment = Shape(32, KvDtype::kFp16);
  std::vector<std::byte> values(segment.raw_bytes());
  for (size_t i = 0; i < segment.elements(); ++i) {
    const bool is_value = i / segment.plane_elements() % 2 != 0;
    SetBits(values, i, is_value ? 0 : Fp16FromF32(static_cast<float>(i % 32) - 9.5F));
  }
  EXPECT_EQ(Back(segment, values), values);
}

TEST_P(Balanced, KeepsNanAndInfinityFromTheirNeighbours) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16}) {
    const SegmentShape segment = Shape(64, dtype);
    std::vector<std::byte> values = KvLikeValues(segment, 23);
    const uint16_t infinity = dtype == KvDtype::kBf16 ? kBf16Infinity : kFp16Infinity;
    for (const size_t plane : {0U, 1U}) {  // K and V
      const size_t at = plane * segment.plane_elements();
      SetBits(values, at + 1, infinity);
      SetBits(values, at + 2, infinity | 0x8000);
      SetBits(values, at + 3, infinity | 1);
      SetBits(values, at + 4, 0xFFFF);
    }
    const std::vector<std::byte> out = Back(segment, values);
    const Blocks blocks = Quantized(segment, values);
    const Steps steps{segment, blocks, packed()};
    const float levels = packed() ? 7.0F : 127.0F;
    for (size_t i = 0; i < segment.elements(); ++i) {
      const float was = ValueAt(segment, values, i);
      const float is = ValueAt(segment, out, i);
      ASSERT_TRUE(std::isfinite(is)) << i;
      const bool is_k = i < segment.plane_elements();
      const float mean = is_k && i < 8 ? steps.Mean(0, 0, i) : 0.0F;
      const bool odd_one = i % segment.plane_elements() >= 1 && i % segment.plane_elements() <= 4 &&
                           i < 2 * segment.plane_elements();
      if (!odd_one) {
        ASSERT_LE(std::abs(was - is), steps.StepAt(i) * 0.501F + std::abs(is) * 0x1p-8F) << i;
        continue;
      }
      const size_t kind = i % segment.plane_elements();
      const float level = kind == 1 ? levels : kind == 2 ? -levels : 0.0F;
      const float expected = mean + level * steps.StepAt(i);
      EXPECT_NEAR(is, expected, std::abs(expected) * 0x1p-8F) << i;
    }
  }
}

TEST_P(Balanced, WritesSoundStepsAndNoNanForAnyBitsAtAll) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16}) {
    const SegmentShape segment = Shape(40, dtype);
    const std::vector<std::byte> values = RandomBytes(segment.raw_bytes(), 77);
    const Blocks blocks = Quantized(segment, values);
    for (size_t i = 0; i < blocks.side.size() / 2; ++i) {
      uint16_t bits;
      std::memcpy(&bits, blocks.side.data() + i * 2, 2);
      ASSERT_LT(bits & kMagnitudeMask, kFp16Infinity) << i;
    }
    const std::vector<std::byte> out = Back(segment, values);
    for (size_t i = 0; i < segment.elements(); ++i) {
      ASSERT_FALSE(std::isnan(ValueAt(segment, out, i))) << i;
    }
  }
}

TEST_P(Balanced, WritesNoNanWhateverTheStepsAndMeansAre) {
  for (const KvDtype dtype : {KvDtype::kBf16, KvDtype::kFp16}) {
    const SegmentShape segment = Shape(16, dtype);
    Blocks blocks = Quantized(segment, KvLikeValues(segment, 2));
    const std::array<uint16_t, 9> hostile = {0x7C00, 0xFC00, 0x7E00, 0xFFFF, 0x7BFF,
                                             0xFBFF, 0x8000, 0x0001, 0x7C01};
    for (size_t i = 0; i < blocks.side.size() / 2; ++i) {
      std::memcpy(blocks.side.data() + i * 2, &hostile[i % hostile.size()], 2);
    }
    const Pages pages{.form = Form::kTransposed, .page_tokens = 32};
    std::vector<std::byte> memory(pages.Bytes(segment, segment.planes()));
    Dequantize(GetParam(), KernelSet::kBest, segment, blocks, pages, 0, kChunkTokens, true, memory);
    for (size_t i = 0; i < memory.size() / 2; ++i) {
      ASSERT_FALSE(std::isnan(ValueAt(segment, memory, i))) << i;
    }
  }
}

TEST_P(Balanced, CountsAnUnsoundStepOrMeanAsZero) {
  const SegmentShape segment = Shape(16);
  const std::array<uint16_t, 5> unsound = {0x7C00, 0xFC00, 0x7E00, 0x8001, 0xC000};
  for (const uint16_t bits : unsound) {
    Blocks blocks = Quantized(segment, KvLikeValues(segment, 2));
    for (size_t i = 0; i < blocks.side.size() / 2; ++i) {
      const bool is_mean = i < Steps{segment, blocks, packed()}.means();
      const bool sound_mean = is_mean && (bits & kMagnitudeMask) < kFp16Infinity;
      const auto put = static_cast<uint16_t>(sound_mean ? 0x7E00 : bits);
      std::memcpy(blocks.side.data() + i * 2, &put, 2);
    }
    const Pages pages{.form = Form::kRows, .page_tokens = 32};
    for (const KernelSet set : {KernelSet::kBest, KernelSet::kScalar}) {
      std::vector<std::byte> memory(pages.Bytes(segment, segment.planes()), std::byte{1});
      Dequantize(GetParam(), set, segment, blocks, pages, 0, kChunkTokens, false, memory);
      for (size_t i = 0; i < memory.size() / 2; ++i) {
        ASSERT_EQ(ValueAt(segment, memory, i), 0.0F) << bits;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Quant, Balanced, testing::Values(kBalanced, kPacked),
                         [](const auto& row) { return IsPacked(row.param) ? "Packed" : "Bytes"; });

TEST(Packed, PutsSymbol2iIntoTheLowHalfOfByteI) {
  const SegmentShape segment = Shape(16);
  const std::vector<std::byte> values = KvLikeValues(segment, 9);
  const Blocks blocks = Quantize(kPacked, KernelSet::kBest, segment, values);
  const Steps steps{segment, blocks, true};
  for (size_t i = 0; i < segment.plane_elements(); ++i) {  // K of layer 0, head 0
    const size_t dim = i % segment.head_dim;
    const float level =
        (ValueAt(segment, values, i) - steps.Mean(0, 0, dim)) / steps.StepOfK(0, 0, dim);
    const auto byte = std::to_integer<uint8_t>(blocks.symbols[0][i / 2]);
    const int nibble = i % 2 == 0 ? byte & 0xF : byte >> 4;
    ASSERT_EQ(nibble >= 8 ? nibble - 16 : nibble, static_cast<int>(std::nearbyint(level))) << i;
    ASSERT_NE(nibble, 8) << i;
  }
}

// Why packed K has a step per channel: what the kinder side bytes would cost in error.
TEST(Packed, AStepPerChannelHalvesTheErrorOfAStepPerHead) {
  const SegmentShape segment = Shape(128);
  const std::vector<std::byte> values = KvLikeValues(segment, 31);
  const Blocks blocks = Quantize(kPacked, KernelSet::kBest, segment, values);
  const Steps steps{segment, blocks, true};
  double per_channel = 0;
  float widest = 0;
  for (size_t d = 0; d < segment.head_dim; ++d) {
    const float step = steps.StepOfK(0, 0, d);
    per_channel += double{step} * double{step} / 12;
    widest = std::max(widest, step);
  }
  const double per_head = double{widest} * double{widest} / 12 * segment.head_dim;
  EXPECT_LT(per_channel, per_head / 2);
}

TEST(StepBits, AreNeverBelowTheStepAndZeroOnlyForZero) {
  for (const float step : {0.0F, 1e-45F, 1e-30F, 0x1p-25F, 0x1p-24F, 1.4e-5F, 0.1F, 1.0F, 1.0001F,
                           4097.0F, 65503.0F, 65504.0F}) {
    const uint16_t bits = StepBits(step);
    EXPECT_GE(F32FromFp16(bits), step);
    EXPECT_EQ(bits == 0, step == 0.0F);
    EXPECT_LE(F32FromFp16(bits), step * (1 + 0x1p-10F) + 0x1p-24F);
  }
  EXPECT_EQ(StepBits(std::numeric_limits<float>::infinity()), kFp16Max);
  EXPECT_EQ(StepBits(1e30F), kFp16Max);
  EXPECT_EQ(SafeMean(MeanBits(-1e30F)), -65504.0F);
}

TEST(MakeQuantizer, NamesAProfileThatItDoesNotHave) {
  const auto quantizer = MakeQuantizer({static_cast<Profile>(42), CodecId::kNone});
  EXPECT_EQ(quantizer.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(quantizer.status().message().find("42"), std::string_view::npos);
}

TEST(DequantizeBlockDeathTest, RefusesAPieceOutsideItsBlock) {
  const SegmentShape segment = Shape(256);
  const Blocks blocks = Quantize(kRaw, KernelSet::kBest, segment, KvLikeValues(segment, 2));
  const auto quantizer = MakeQuantizer(kRaw).value();
  std::vector<std::byte> memory(segment.raw_bytes());
  const BlockRange range = BlockAt(segment, 1);
  PlanePiece piece{.base = memory.data(),
                   .token_stride = 512,
                   .dim_stride = 2,
                   .first_token = range.first_token,
                   .tokens = range.tokens,
                   .plane = range.first_plane};
  const auto scatter = [&] {
    quantizer->DequantizeBlock(segment, range, {}, {}, blocks.symbols[1], std::span(&piece, 1),
                               false);
  };
  piece.plane = range.first_plane - 1;
  EXPECT_DEATH(scatter(), "plane");
  piece.plane = range.first_plane;
  ++piece.first_token;
  EXPECT_DEATH(scatter(), "tokens");
}

}  // namespace
}  // namespace shadowserve
