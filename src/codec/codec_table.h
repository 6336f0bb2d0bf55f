// The codecs of this build, one row each. Ids are those of segment format v1
// (format/object_name.h); this module does not see `format`, so the caller passes the number.
#ifndef SHADOWSERVE_CODEC_CODEC_TABLE_H_
#define SHADOWSERVE_CODEC_CODEC_TABLE_H_

#include <cstdint>
#include <memory>

#include "base/result.h"
#include "codec/codec.h"

namespace shadowserve {

// id: 1 raw Deflate (encodes Huffman-only; decodes that side by side, anything else by ISA-L), 2
// zstd (standard frames, literals only). kUnsupported names any other id.
Result<std::unique_ptr<BlockCodec>> MakeBlockCodec(uint8_t id);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_CODEC_TABLE_H_
