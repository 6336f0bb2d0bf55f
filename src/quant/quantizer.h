// Quantizers: canonical values <-> (side bytes, plain bytes, symbols) of segment blocks, and the
// scatter into pages on the way out / the gather out of pages on the way in.
//
// A quantizer is stateless and thread-safe. Symbols of a block are in canonical order
// ([plane][token][dim]), two to a byte in packed forms. Kernels are picked once per process by CPU
// (Highway dynamic dispatch); every one is bit-exact with the scalar reference, which
// KernelSet::kScalar forces.
//
// Page addresses: a PlanePiece is the part of one plane that lies in one page, value (t, d) at
//   base + t * token_stride + d * dim_stride.
// Forms with dim_stride == element bytes (rows) and with token_stride == element bytes (vLLM's CPU
// K plane, transposed) have vector kernels; other strides run in scalar code.
#ifndef SHADOWSERVE_QUANT_QUANTIZER_H_
#define SHADOWSERVE_QUANT_QUANTIZER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/result.h"
#include "format/kv_layout.h"
#include "format/object_name.h"

namespace shadowserve {

struct PlanePiece {
  std::byte* base = nullptr;  // of this piece's first token
  size_t token_stride = 0;    // bytes
  size_t dim_stride = 0;      // bytes
  uint32_t first_token = 0;   // within the chunk
  uint32_t tokens = 0;
  uint32_t plane = 0;  // within the segment
};

enum class KernelSet : uint8_t { kBest, kScalar };

class Quantizer {
 public:
  virtual ~Quantizer() = default;

  // Save path. `values`: the segment's canonical elements, shape.raw_bytes() long.
  // Fills `side` (ProfileBytes::side long), e.g. with scales.
  virtual void WriteSide(const SegmentShape& shape, std::span<const std::byte> values,
                         std::span<std::byte> side) const = 0;
  // One block: `values` is the whole segment; writes the block's plain bytes and symbols.
  virtual void QuantizeBlock(const SegmentShape& shape, const BlockRange& block,
                             std::span<const std::byte> values, std::span<const std::byte> side,
                             std::span<std::byte> plain, std::span<std::byte> symbols) const = 0;

  // Fetch path. Writes the block's values into the pages: every piece lies within `block`'s planes
  // and tokens; tokens of the block that no piece covers are skipped. `streaming`: use non-temporal
  // stores (the target is not read again soon); the caller fences (StoreFence) before it reports
  // completion.
  virtual void DequantizeBlock(const SegmentShape& shape, const BlockRange& block,
                               std::span<const std::byte> side, std::span<const std::byte> plain,
                               std::span<const std::byte> symbols,
                               std::span<const PlanePiece> pieces, bool streaming) const = 0;
};

// The quantizer of a profile, packed if IsPacked(form). kUnsupported names a profile that this
// build does not have.
Result<std::unique_ptr<const Quantizer>> MakeQuantizer(StoredForm form,
                                                       KernelSet kernels = KernelSet::kBest);

// Copies pages into canonical order: for each piece, its values go to their place in `values` (the
// segment's canonical elements). The save path's read.
void GatherPieces(const SegmentShape& shape, std::span<const PlanePiece> pieces,
                  std::span<std::byte> values, KernelSet kernels = KernelSet::kBest);

// Makes earlier non-temporal stores of this thread visible before later stores.
void StoreFence();

}  // namespace shadowserve

#endif  // SHADOWSERVE_QUANT_QUANTIZER_H_
