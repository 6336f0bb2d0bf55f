// Standard zstd frames (RFC 8878) without matches: the fastest decoder in software.
#ifndef SHADOWSERVE_CODEC_ZSTD_CODEC_H_
#define SHADOWSERVE_CODEC_ZSTD_CODEC_H_

#include <memory>

#include "base/result.h"
#include "codec/codec.h"

namespace shadowserve {

// Encodes a single-segment frame with content size and no checksum (segments carry their own);
// decodes exactly one frame of any window. All memory is taken here: blocks above 2 MiB are not
// encoded (Encode returns 0). kUnsupported when the linked libzstd refuses the parameters.
Result<std::unique_ptr<BlockCodec>> MakeZstdCodec();

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_ZSTD_CODEC_H_
