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

class BlockCodec {
 public:
  virtual ~BlockCodec() = default;
  // Encodes all of `symbols` into `out`, returns the bytes used; 0 when the result would not be
  // smaller than min(symbols.size(), out.size()): the caller then stores the block as it is.
  virtual size_t Encode(std::span<const std::byte> symbols, std::span<std::byte> out) = 0;
  // Decodes into exactly symbols.size() bytes. kCorrupt when the stream is damaged, shorter,
  // longer, or does not end with the input; never writes outside `symbols`.
  virtual Status Decode(std::span<const std::byte> coded, std::span<std::byte> symbols) = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_CODEC_H_
