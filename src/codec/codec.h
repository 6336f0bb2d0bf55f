// Lossless codecs of blocks. One BlockCodec is one thread's context: calls are synchronous,
// allocate nothing and touch nothing outside the spans. Raw Deflate is what hardware engines
// decode; zstd is fastest in software (docs/benchmarks.md).
#ifndef SHADOWSERVE_CODEC_CODEC_H_
#define SHADOWSERVE_CODEC_CODEC_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"

namespace shadowserve {

// DecodeEach is made for this many blocks whose symbols lie this far apart: not a multiple of a
// page, so that they do not compete for the same lines of a cache.
constexpr uint32_t kBlocksSideBySideMax = 8;
constexpr size_t kSymbolStride = 64 * 1024 + 21 * 64;

struct CodedBlock {
  std::span<const std::byte> coded;
  std::span<std::byte> symbols;
  Status status;  // as of Decode
};

class BlockCodec {
 public:
  virtual ~BlockCodec() = default;
  // Encodes all of `symbols` into `out`, returns the bytes used; 0 when the result would not be
  // smaller than min(symbols.size(), out.size()): the caller then stores the block as it is.
  virtual size_t Encode(std::span<const std::byte> symbols, std::span<std::byte> out) = 0;
  // Decodes into exactly symbols.size() bytes. kCorrupt when the stream is damaged, shorter,
  // longer, or does not end with the input; never writes outside `symbols`.
  virtual Status Decode(std::span<const std::byte> coded, std::span<std::byte> symbols) = 0;
  // Decodes every block, as Decode. Faster than one after the other where blocks of one size have
  // their symbols kSymbolStride apart, in order.
  virtual void DecodeEach(std::span<CodedBlock> blocks) {
    for (CodedBlock& block : blocks) block.status = Decode(block.coded, block.symbols);
  }
  // How many of them at a time, at most kBlocksSideBySideMax.
  virtual uint32_t blocks_side_by_side() const { return 1; }
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_CODEC_H_
