// Input as a Zstd stream of hostile origin, and as symbols that must survive a round trip, also
// with a byte of the stream changed. The first two bytes choose the output size, the next three the
// change. Buffers end at pages that cannot be touched, since sanitizers do not see into the shared
// library.
//
// What our own decoder (literal_zstd.h) makes of a frame must be what libzstd makes of it.
#include <zstd.h>

#include <algorithm>
#include <vector>

#include "codec/codec_table.h"
#include "codec/literal_zstd.h"
#include "mem/guarded_buffer.h"

namespace shadowserve {
namespace {

void Check(BlockCodec& codec, std::span<const std::byte> coded, size_t out_bytes) {
  static LiteralZstd literals;
  GuardedBuffer out(out_bytes);
  (void)codec.Decode(coded, out.bytes()).ok();
  if (!literals.Decode(coded, out.bytes())) return;
  std::vector<std::byte> reference(out_bytes);
  const size_t size =
      ZSTD_decompress(reference.data(), reference.size(), coded.data(), coded.size());
  SS_CHECK(size == out_bytes, "decoded what libzstd refuses");
  SS_CHECK(std::ranges::equal(out.bytes(), reference), "and libzstd differ in their symbols");
}

}  // namespace
}  // namespace shadowserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  static const std::unique_ptr<BlockCodec> codec = MakeBlockCodec(2).value();
  if (size < 5) return 0;
  const size_t out_bytes = size_t{data[0]} | size_t{data[1]} << 8;
  const GuardedBuffer input(std::as_bytes(std::span(data + 5, size - 5)));
  Check(*codec, input.bytes(), out_bytes);

  // Short inputs are repeated: only then do frames get four streams.
  std::vector<std::byte> symbols(input.bytes().begin(), input.bytes().end());
  while (!symbols.empty() && symbols.size() < 600) {
    symbols.insert(symbols.end(), input.bytes().begin(), input.bytes().end());
  }
  std::vector<std::byte> coded(symbols.size());
  coded.resize(codec->Encode(symbols, coded));
  if (coded.empty()) return 0;
  GuardedBuffer decoded(symbols.size());
  SS_CHECK(coded.size() < symbols.size(), "encoded block is not smaller");
  const GuardedBuffer stream{std::span<const std::byte>(coded)};
  SS_CHECK(codec->Decode(stream.bytes(), decoded.bytes()).ok(), "own stream refused");
  SS_CHECK(std::ranges::equal(decoded.bytes(), symbols), "round trip changed the bytes");
  coded[(size_t{data[2]} | size_t{data[3]} << 8) % coded.size()] ^= std::byte{data[4]};
  const GuardedBuffer changed{std::span<const std::byte>(coded)};
  Check(*codec, changed.bytes(), symbols.size());
  return 0;
}
