#include "pipeline/segment_decoder.h"

#include <algorithm>
#include <utility>

namespace shadowserve {

Result<std::unique_ptr<SegmentDecoder>> SegmentDecoder::Create(Metrics* metrics,
                                                               const Clock* clock) {
  SS_TRY_ASSIGN(Coders coders, Coders::Create());
  auto decoder =
      std::unique_ptr<SegmentDecoder>(new SegmentDecoder(std::move(coders), metrics, clock));
  // Blocks of raw fp16/bf16 have two bytes of symbols per element; they are never decoded into
  // here.
  decoder->symbols_.resize(size_t{kBlockSymbolsMax} * 2);
  return decoder;
}

Status SegmentDecoder::Begin(const DecodeTask& task) {
  task_ = task;
  kv_bytes_ = 0;
  reader_.reset();
  SS_TRY_ASSIGN(reader_, SegmentReader::Open(task.object, task.name, task.shape));
  blocks_left_ = reader_->block_count();
  pieces_.reserve(task.rank->pieces_max());
  return OkStatus();
}

Result<bool> SegmentDecoder::Step(uint32_t blocks) {
  for (uint32_t i = std::min(blocks, blocks_left_); i > 0; --i) {
    --blocks_left_;
    SS_TRY(DecodeBlock());
  }
  if (blocks_left_ > 0) return false;
  StoreFence();
  return true;
}

Status SegmentDecoder::DecodeBlock() {
  const BlockView block = reader_->NextBlock();
  pieces_.clear();
  task_.rank->AppendPieces(task_.shape, block.range, task_.pages, task_.first_token, task_.target,
                           &pieces_);
  const int64_t start_ns = clock_->NowNs();
  // Checked also where nothing of the block is wanted: a damaged object must not stay.
  SS_TRY(block.Verify());
  std::span<const std::byte> symbols = block.coded();
  if (block.codec != CodecId::kNone) {
    const std::span<std::byte> out = std::span(symbols_).first(block.symbol_bytes);
    SS_TRY(coders_.codec(block.codec).Decode(symbols, out));
    symbols = out;
  }
  const int64_t decoded_ns = clock_->NowNs();
  metrics_->stage_busy[StageLabel::kDecode].AddNs(decoded_ns - start_ns);
  if (pieces_.empty()) return OkStatus();
  coders_.quantizer(task_.name.profile)
      .DequantizeBlock(task_.shape, block.range, reader_->side(), block.plain(), symbols, pieces_,
                       task_.rank->direct());
  metrics_->stage_busy[StageLabel::kDequantize].AddNs(clock_->NowNs() - decoded_ns);
  CountBytes(block);
  return OkStatus();
}

void SegmentDecoder::CountBytes(const BlockView& block) {
  const uint64_t decoded =
      block.codec == CodecId::kNone ? 0 : block.coded().size() + block.symbol_bytes;
  metrics_->stage_bytes[StageLabel::kDecode].Add(block.stored.size() + decoded);
  const uint64_t written = PieceBytes(pieces_, task_.shape);
  const uint64_t block_bytes = uint64_t{block.range.elements} * DtypeBytes(task_.shape.dtype);
  const uint64_t read = (block.plain_bytes + block.symbol_bytes) * written / block_bytes;
  // A staging slab is written here, pages by their transfer.
  const bool direct = task_.rank->direct();
  metrics_->stage_bytes[StageLabel::kDequantize].Add(direct ? read : read + written);
  if (direct) metrics_->stage_bytes[StageLabel::kWrite].Add(written);
  kv_bytes_ += written;
}

}  // namespace shadowserve
