#include "pipeline/segment_decoder.h"

#include <algorithm>
#include <utility>

#include "pipeline/stage_work.h"

namespace shadowserve {

Result<std::unique_ptr<SegmentDecoder>> SegmentDecoder::Create(Metrics* metrics, const Clock* clock,
                                                               Seal* seal,
                                                               const EnginePort::Options& engine) {
  SS_TRY_ASSIGN(Coders coders, Coders::Create());
  auto decoder =
      std::unique_ptr<SegmentDecoder>(new SegmentDecoder(std::move(coders), metrics, clock, seal));
  if (engine.engine != nullptr) {
    Result<std::unique_ptr<EnginePort>> port = EnginePort::Create(engine, metrics);
    if (port.ok()) {
      decoder->engine_ = std::move(port).value();
    } else if (port.status().code() != StatusCode::kExhausted) {
      return port.status();
    }
  }
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

bool SegmentDecoder::CanBegin(const DecodeCursor& cursor, uint64_t arrived) const {
  return cursor.next_arrived(arrived) && (!has_engine() || engine_->has_room());
}

bool SegmentDecoder::CanStep(const DecodeCursor& cursor, uint64_t arrived) const {
  return cursor.done() || cursor.engine.finished != EnginePort::kNoSlot ||
         CanBegin(cursor, arrived);
}

Result<bool> SegmentDecoder::Step(DecodeCursor* cursor, uint64_t arrived, uint32_t blocks) {
  if (seal_ != nullptr) cursor->reader->UseSeal(seal_);
  Status status;
  while (blocks > 0 && status.ok()) {
    if (cursor->engine.finished != EnginePort::kNoSlot) {
      status = FinishBlock(cursor);
      --blocks;
    } else if (CanBegin(*cursor, arrived)) {
      const Result<uint32_t> begun = BeginBlocks(cursor, arrived, blocks);
      if (begun.ok()) {
        blocks -= *begun;
      } else {
        status = begun.status();
      }
    } else {
      break;
    }
  }
  if (!status.ok()) {
    Abandon(cursor);
    return status;
  }
  if (engine_ != nullptr) engine_->Flush();
  if (!cursor->done()) return false;
  StoreFence();
  return true;
}

void SegmentDecoder::Abandon(DecodeCursor* cursor) {
  if (engine_ != nullptr) engine_->Abandon(&cursor->engine);
}

// One block for the engine, or up to `blocks` that are decoded here; returns their number.
// REQUIRES: CanBegin.
Result<uint32_t> SegmentDecoder::BeginBlocks(DecodeCursor* cursor, uint64_t arrived,
                                             uint32_t blocks) {
  batch_.Clear();
  const int64_t start_ns = clock_->NowNs();
  do {
    --cursor->blocks_left;
    const BlockView block = cursor->reader->NextBlock();
    // Checked also where nothing of the block is wanted: a damaged object must not stay.
    SS_TRY(block.Verify());
    if (block.codec != CodecId::kNone && engine_ != nullptr && engine_->Takes(block)) {
      engine_->Submit(&cursor->engine, block);
      CountStage(metrics_, StageLabel::kDecode, start_ns, clock_->NowNs(), cursor->task.name,
                 false);
      return 1;
    }
    batch_.Add(block);
  } while (!has_engine() && batch_.size() < blocks && batch_.has_room() &&
           CanBegin(*cursor, arrived));
  SS_TRY(DecodeAndWrite(cursor, start_ns));
  return batch_.size();
}

// A block that came back from the engine, decoded or not.
Status SegmentDecoder::FinishBlock(DecodeCursor* cursor) {
  const EnginePort::Finished finished = engine_->TakeFinished(&cursor->engine);
  Status status;
  if (!finished.symbols.empty()) {
    WriteBlock(cursor, finished.block, finished.symbols);
  } else {
    batch_.Clear();
    batch_.Add(finished.block);
    status = DecodeAndWrite(cursor, clock_->NowNs());
  }
  engine_->Release(&cursor->engine, finished.slot);
  return status;
}

// The batch, in software. `start_ns`: since when it is worked on.
Status SegmentDecoder::DecodeAndWrite(DecodeCursor* cursor, int64_t start_ns) {
  SS_TRY(batch_.Decode());
  CountStage(metrics_, StageLabel::kDecode, start_ns, clock_->NowNs(), cursor->task.name, false);
  for (uint32_t i = 0; i < batch_.size(); ++i) {
    WriteBlock(cursor, batch_.block(i), batch_.symbols(i));
  }
  return OkStatus();
}

void SegmentDecoder::WriteBlock(DecodeCursor* cursor, const BlockView& block,
                                std::span<const std::byte> symbols) {
  const DecodeTask& task = cursor->task;
  pieces_.clear();
  task.rank->AppendPieces(task.shape, block.range, task.pages, task.first_token, task.target,
                          &pieces_);
  if (pieces_.empty()) return;
  const int64_t start_ns = clock_->NowNs();
  coders_.quantizer(task.name.form())
      .DequantizeBlock(task.shape, block.range, cursor->reader->side(), block.plain(), symbols,
                       pieces_, task.rank->direct());
  CountStage(metrics_, StageLabel::kDequantize, start_ns, clock_->NowNs(), task.name, false);
  CountBytes(cursor, block);
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
