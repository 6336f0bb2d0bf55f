#include "pipeline/block_batch.h"

#include "base/check.h"

namespace shadowserve {

static_assert(kBlockSymbolsMax <= kSymbolStride);

BlockBatch::BlockBatch(const Coders* coders)
    : coders_(coders), buffer_(kBlocksMax * kSymbolStride) {}

void BlockBatch::Clear() {
  size_ = 0;
  coded_ = 0;
  room_ = kBlocksMax;
}

void BlockBatch::Add(const BlockView& block) {
  SS_CHECK(has_room(), "a batch is full");
  blocks_[size_] = block;
  if (block.codec == CodecId::kNone) {
    symbols_of_[size_++] = block.coded();
    return;
  }
  // Only `raw` has larger ones, and its names are without a codec.
  SS_CHECK(block.symbol_bytes <= kSymbolStride, "coded block's size");
  const auto out = std::span(buffer_).subspan(coded_ * kSymbolStride, block.symbol_bytes);
  coded_blocks_[coded_++] = {block.coded(), out, OkStatus()};
  symbols_of_[size_++] = out;
  // Beyond what is decoded side by side a batch only fills the cache.
  if (coded_ == coders_->codec(block.codec).blocks_side_by_side()) room_ = size_;
}

Status BlockBatch::Decode() {
  if (coded_ == 0) return OkStatus();
  // The coded blocks of a segment have one codec (format/segment.h).
  uint32_t i = 0;
  while (blocks_[i].codec == CodecId::kNone) ++i;
  const std::span<CodedBlock> coded = std::span(coded_blocks_).first(coded_);
  coders_->codec(blocks_[i].codec).DecodeEach(coded);
  for (CodedBlock& block : coded) SS_TRY(std::move(block.status));
  return OkStatus();
}

}  // namespace shadowserve
