#include "pipeline/segment_decoder.h"

#include <algorithm>
#include <utility>

#include "pipeline/stage_work.h"

namespace shadowserve {

Result<std::unique_ptr<SegmentDecoder>> SegmentDecoder::Create(Metrics* metrics, const Clock* clock,
                                                               Seal* seal) {
  SS_TRY_ASSIGN(Coders coders, Coders::Create());
  auto decoder =
      std::unique_ptr<SegmentDecoder>(new SegmentDecoder(std::move(coders), metrics, clock, seal));
  // Blocks of raw fp16/bf16 have two bytes of symbols per element; they are never decoded into
  // here.
  decoder->symbols_.resize(size_t{kBlockSymbolsMax} * 2);
  return decoder;
}

Status SegmentDecoder::Begin(const DecodeTask& task, DecodeCursor* cursor) {
  cursor->task = task;
  cursor->kv_bytes = 0;
  cursor->reader.reset();
  Result<SegmentReader> reader =
      seal_ == nullptr ? SegmentReader::Open(task.object, task.name, task.shape)
                       : SegmentReader::OpenSealed(task.object, task.name, task.shape, seal_);
  SS_TRY_ASSIGN(cursor->reader, std::move(reader));
  cursor->blocks_left = cursor->reader->block_count();
  pieces_.reserve(task.rank->pieces_max());
  return OkStatus();
}

Result<bool> SegmentDecoder::Step(DecodeCursor* cursor, uint64_t arrived, uint32_t blocks) {
  if (seal_ != nullptr) cursor->reader->UseSeal(seal_);
  for (; blocks > 0 && cursor->blocks_left > 0 && cursor->CanStep(arrived); --blocks) {
    --cursor->blocks_left;
    SS_TRY(DecodeBlock(cursor));
  }
  if (cursor->blocks_left > 0) return false;
  StoreFence();
  return true;
}

Status SegmentDecoder::DecodeBlock(DecodeCursor* cursor) {
  const DecodeTask& task = cursor->task;
  const BlockView block = cursor->reader->NextBlock();
  pieces_.clear();
  task.rank->AppendPieces(task.shape, block.range, task.pages, task.first_token, task.target,
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
  CountStage(metrics_, StageLabel::kDecode, start_ns, decoded_ns, task.name, false);
  if (pieces_.empty()) return OkStatus();
  coders_.quantizer(task.name.form())
      .DequantizeBlock(task.shape, block.range, cursor->reader->side(), block.plain(), symbols,
                       pieces_, task.rank->direct());
  CountStage(metrics_, StageLabel::kDequantize, decoded_ns, clock_->NowNs(), task.name, false);
  CountBytes(cursor, block);
  return OkStatus();
}

void SegmentDecoder::CountBytes(DecodeCursor* cursor, const BlockView& block) {
  const DecodeTask& task = cursor->task;
  const uint64_t decoded =
      block.codec == CodecId::kNone ? 0 : block.coded().size() + block.symbol_bytes;
  metrics_->stage_bytes[StageLabel::kDecode].Add(block.stored.size() + decoded);
  const uint64_t written = PieceBytes(pieces_, task.shape);
  const uint64_t block_bytes = uint64_t{block.range.elements} * DtypeBytes(task.shape.dtype);
  const uint64_t read = (block.plain_bytes + block.symbol_bytes) * written / block_bytes;
  // A staging slab is written here, pages by their transfer.
  const bool direct = task.rank->direct();
  metrics_->stage_bytes[StageLabel::kDequantize].Add(direct ? read : read + written);
  if (direct) metrics_->stage_bytes[StageLabel::kWrite].Add(written);
  cursor->kv_bytes += written;
}

}  // namespace shadowserve
