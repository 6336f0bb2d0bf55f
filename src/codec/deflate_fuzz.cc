// Input as a Deflate stream of hostile origin, and as symbols that must survive a round trip. The
// first two bytes choose the output size. Buffers end at pages that cannot be touched, since
// sanitizers do not see into the shared library.
//
// Two streams side by side are decoded by code of ours (literal_inflate.h), one alone by ISA-L:
// they must agree.
#include <algorithm>
#include <array>
#include <vector>

#include "codec/codec_table.h"
#include "mem/guarded_buffer.h"

namespace shadowserve {
namespace {

void Check(BlockCodec& codec, std::span<const std::byte> coded, size_t out_bytes) {
  GuardedBuffer alone(out_bytes);
  const bool good = codec.Decode(coded, alone.bytes()).ok();
  GuardedBuffer out(kSymbolStride + out_bytes);
  std::array<CodedBlock, 2> blocks = {
      CodedBlock{coded, out.bytes().first(out_bytes), OkStatus()},
      CodedBlock{coded, out.bytes().subspan(kSymbolStride), OkStatus()}};
  codec.DecodeEach(blocks);
  for (const CodedBlock& block : blocks) {
    SS_CHECK(block.status.ok() == good, "side by side and alone differ in their answer");
    SS_CHECK(!good || std::ranges::equal(block.symbols, alone.bytes()), "and in their symbols");
  }
}

}  // namespace
}  // namespace shadowserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  static const std::unique_ptr<BlockCodec> codec = MakeBlockCodec(1).value();
  if (size < 2) return 0;
  const size_t out_bytes = size_t{data[0]} | size_t{data[1]} << 8;
  const GuardedBuffer input(std::as_bytes(std::span(data + 2, size - 2)));
  Check(*codec, input.bytes(), out_bytes);

  GuardedBuffer coded(input.bytes().size());
  const size_t used = codec->Encode(input.bytes(), coded.bytes());
  if (used == 0) return 0;
  GuardedBuffer decoded(input.bytes().size());
  SS_CHECK(used < input.bytes().size(), "encoded block is not smaller");
  SS_CHECK(codec->Decode(coded.bytes().first(used), decoded.bytes()).ok(), "own stream refused");
  SS_CHECK(std::ranges::equal(decoded.bytes(), input.bytes()), "round trip changed the bytes");
  if (input.bytes().size() > kSymbolStride) return 0;
  Check(*codec, coded.bytes().first(used), input.bytes().size());
  return 0;
}
