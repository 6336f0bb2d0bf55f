#include "codec/codec_table.h"

#include <string>

#include "codec/deflate_codec.h"
#include "codec/zstd_codec.h"

namespace shadowserve {
namespace {

struct CodecRow {
  uint8_t id;
  Result<std::unique_ptr<BlockCodec>> (*make)();
};

constexpr CodecRow kCodecs[] = {
    {1, [] { return Result<std::unique_ptr<BlockCodec>>(MakeDeflateCodec()); }},
    {2, MakeZstdCodec},
};

}  // namespace

Result<std::unique_ptr<BlockCodec>> MakeBlockCodec(uint8_t id) {
  for (const CodecRow& row : kCodecs) {
    if (row.id == id) return row.make();
  }
  return Status(StatusCode::kUnsupported, "block codec number " + std::to_string(id));
}

}  // namespace shadowserve
