// DigestFromHex on any text, and ToHex on any digest: each is the other's inverse.
#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/check.h"
#include "format/chunk_key.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Result<Digest> parsed = DigestFromHex(text);
  const bool valid = text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
                       return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                     });
  SS_CHECK(parsed.ok() == valid, "accepted set differs");
  if (parsed.ok()) {
    SS_CHECK(ToHex(*parsed) == text, "print(parse(text)) differs");
  }
  Digest digest = {};
  std::copy_n(reinterpret_cast<const std::byte*>(data), std::min(size, digest.size()),
              digest.begin());
  SS_CHECK(*DigestFromHex(ToHex(digest)) == digest, "parse(print(digest)) differs");
  return 0;
}
