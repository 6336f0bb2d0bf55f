#include "pipeline/segment_encoder.h"

#include <algorithm>
#include <utility>

#include "pipeline/stage_work.h"

namespace shadowserve {

Result<std::unique_ptr<SegmentEncoder>> SegmentEncoder::Create(Metrics* metrics, const Clock* clock,
                                                               Seal* seal) {
  SS_TRY_ASSIGN(Coders coders, Coders::Create());
  auto encoder =
      std::unique_ptr<SegmentEncoder>(new SegmentEncoder(std::move(coders), metrics, clock, seal));
  encoder->symbols_.resize(size_t{kBlockSymbolsMax} * 2);
  return encoder;
}

void SegmentEncoder::Begin(const ObjectName& name, const SegmentShape& shape,
                           std::span<const std::byte> values, std::span<std::byte> object) {
  name_ = name;
  shape_ = shape;
  values_ = values;
  bytes_ = ProfileBytesOf(name.form(), shape).value();
  writer_.emplace(object, name, shape, seal_);
  const int64_t start_ns = clock_->NowNs();
  coders_.quantizer(name.form()).WriteSide(shape, values, writer_->side());
  CountStage(metrics_, StageLabel::kQuantize, start_ns, clock_->NowNs(), name, true);
}

std::span<const std::byte> SegmentEncoder::Step() {
  const BlockRange block = writer_->block_range();
  const size_t plain_bytes = bytes_.plain(block.elements);
  const size_t symbol_bytes = bytes_.symbols(block.elements);
  const std::span<std::byte> space = writer_->BlockSpace();
  const std::span<std::byte> coded = space.subspan(plain_bytes, symbol_bytes);
  // Uncoded symbols are quantized straight into the object.
  const bool coding = name_.codec != CodecId::kNone;
  const std::span<std::byte> symbols = coding ? std::span(symbols_).first(symbol_bytes) : coded;

  const int64_t start_ns = clock_->NowNs();
  coders_.quantizer(name_.form())
      .QuantizeBlock(shape_, block, values_, writer_->side(), space.first(plain_bytes), symbols);
  const int64_t quantized_ns = clock_->NowNs();
  CountStage(metrics_, StageLabel::kQuantize, start_ns, quantized_ns, name_, true);
  metrics_->stage_bytes[StageLabel::kQuantize].Add(
      size_t{block.elements} * DtypeBytes(shape_.dtype) + plain_bytes + symbol_bytes);
  size_t coded_bytes = coding ? coders_.codec(name_.codec).Encode(symbols, coded) : 0;
  if (coded_bytes > 0) {
    writer_->FinishBlock(name_.codec, static_cast<uint32_t>(coded_bytes));
  } else {
    if (coding) std::copy(symbols.begin(), symbols.end(), coded.begin());
    writer_->FinishBlock(CodecId::kNone, static_cast<uint32_t>(symbol_bytes));
  }
  const size_t stored_bytes = coded_bytes > 0 ? coded_bytes : symbol_bytes;
  // Read and written by the coder, where there is one, and read again by the checksum.
  metrics_->stage_bytes[StageLabel::kEncode].Add((coding ? symbol_bytes + stored_bytes : 0) +
                                                 plain_bytes + stored_bytes);
  std::span<const std::byte> object;
  if (writer_->done()) object = writer_->Finish();
  CountStage(metrics_, StageLabel::kEncode, quantized_ns, clock_->NowNs(), name_, true);
  return object;
}

}  // namespace shadowserve
