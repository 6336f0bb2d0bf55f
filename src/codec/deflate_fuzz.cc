// Input as a Deflate stream of hostile origin, and as symbols that must survive a round trip. The
// first two bytes choose the output size. Buffers end at pages that cannot be touched, since
// sanitizers do not see into the shared library.
#include <algorithm>
#include <vector>

#include "codec/codec_table.h"
#include "mem/guarded_buffer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  static const std::unique_ptr<BlockCodec> codec = MakeBlockCodec(1).value();
  if (size < 2) return 0;
  const size_t out_bytes = size_t{data[0]} | size_t{data[1]} << 8;
  const GuardedBuffer input(std::as_bytes(std::span(data + 2, size - 2)));

  GuardedBuffer hostile(out_bytes);
  (void)codec->Decode(input.bytes(), hostile.bytes()).ok();

  GuardedBuffer coded(input.bytes().size());
  const size_t used = codec->Encode(input.bytes(), coded.bytes());
  if (used == 0) return 0;
  GuardedBuffer decoded(input.bytes().size());
  SS_CHECK(used < input.bytes().size(), "encoded block is not smaller");
  SS_CHECK(codec->Decode(coded.bytes().first(used), decoded.bytes()).ok(), "own stream refused");
  SS_CHECK(std::ranges::equal(decoded.bytes(), input.bytes()), "round trip changed the bytes");
  return 0;
}
