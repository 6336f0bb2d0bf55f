// The blocks of a segment that are decoded together: as many as their codec takes side by side.
//
// Owner thread: one. Allocates nothing after its construction.
#ifndef SHADOWSERVE_PIPELINE_BLOCK_BATCH_H_
#define SHADOWSERVE_PIPELINE_BLOCK_BATCH_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "format/segment.h"
#include "pipeline/coders.h"

namespace shadowserve {

class BlockBatch {
 public:
  static constexpr uint32_t kBlocksMax = kBlocksSideBySideMax;

  // `coders` outlives the batch.
  explicit BlockBatch(const Coders* coders);

  void Clear();
  bool has_room() const { return size_ < room_; }
  // A verified block; its bytes stay where they are until the batch is cleared.
  // REQUIRES: has_room().
  void Add(const BlockView& block);
  // Decodes what was added since the last Clear. kCorrupt: one of the blocks is damaged.
  Status Decode();

  uint32_t size() const { return size_; }
  const BlockView& block(uint32_t i) const { return blocks_[i]; }
  // After Decode.
  std::span<const std::byte> symbols(uint32_t i) const { return symbols_of_[i]; }

 private:
  const Coders* coders_;
  std::vector<std::byte> buffer_;  // kSymbolStride for each coded block
  std::array<BlockView, kBlocksMax> blocks_;
  std::array<std::span<const std::byte>, kBlocksMax> symbols_of_;
  std::array<CodedBlock, kBlocksMax> coded_blocks_;
  uint32_t size_ = 0;
  uint32_t coded_ = 0;  // of them; the others are stored as they are
  uint32_t room_ = kBlocksMax;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_BLOCK_BATCH_H_
