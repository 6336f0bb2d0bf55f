// Raw Deflate (RFC 1951), written Huffman-only: what BlueField-3, QAT and nvCOMP decode in
// hardware. Decoded here several blocks side by side (literal_inflate.h); any other stream through
// ISA-L.
#ifndef SHADOWSERVE_CODEC_DEFLATE_CODEC_H_
#define SHADOWSERVE_CODEC_DEFLATE_CODEC_H_

#include <memory>

#include "codec/codec.h"

namespace shadowserve {

// Encodes one final dynamic-Huffman block of literals only (quantized KV has no matches worth their
// cost); decodes any raw Deflate stream.
std::unique_ptr<BlockCodec> MakeDeflateCodec();

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_DEFLATE_CODEC_H_
