// Any bytes as a server's replies, in two ways of cutting them: the reader neither writes outside
// the target nor disagrees with itself.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "store/resp_reader.h"

namespace shadowserve {
namespace {

struct Seen {
  RespToken token;
  std::string text;  // or the body
  bool operator==(const Seen& other) const {
    return token.type == other.token.type && token.number == other.token.number &&
           token.stored == other.token.stored && text == other.text;
  }
};

// Feeds `stream` in pieces of at most `piece` bytes into targets of `target_bytes`.
std::vector<Seen> Read(std::span<const uint8_t> stream, size_t target_bytes, size_t piece,
                       size_t read_ahead, bool* bad) {
  RespReader reader;
  const auto memory = std::make_unique<std::byte[]>(target_bytes);  // its edges are ASan's
  const std::span target(memory.get(), target_bytes);
  std::vector<Seen> seen;
  while (true) {
    Seen next;
    const RespReader::Step step = reader.Next(target, &next.token);
    *bad = step == RespReader::Step::kBad;
    if (*bad) return seen;
    if (step == RespReader::Step::kToken) {
      next.text = next.token.text;
      if (next.token.type == RespType::kBulk && next.token.stored) {
        SS_CHECK(static_cast<uint64_t>(next.token.number) <= target_bytes, "outside the target");
        next.text.assign(reinterpret_cast<const char*>(target.data()),
                         static_cast<size_t>(next.token.number));
      }
      seen.push_back(std::move(next));
      continue;
    }
    iovec places[2];
    const size_t count = reader.Places(read_ahead, piece, places);
    size_t received = 0;
    for (const iovec& place : std::span(places).first(count)) {
      SS_CHECK(place.iov_len > 0, "nowhere to receive");
      const size_t bytes = std::min(place.iov_len, stream.size());
      std::memcpy(place.iov_base, stream.data(), bytes);
      stream = stream.subspan(bytes);
      received += bytes;
    }
    SS_CHECK(received <= piece, "more than allowed");
    if (received == 0) return seen;
    reader.Received(received);
  }
}

}  // namespace
}  // namespace shadowserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const size_t target = data[0] * size_t{4};
  const std::span<const uint8_t> stream(data + 3, size - 3);
  bool bad = false;
  bool bad_too = false;
  const auto whole = shadowserve::Read(stream, target, size_t{1} << 20, 16384, &bad);
  const auto pieces =
      shadowserve::Read(stream, target, data[1] + size_t{1}, data[2] + size_t{1}, &bad_too);
  SS_CHECK(bad == bad_too && whole == pieces, "the way of cutting matters");
  return 0;
}
