// Any text as a key file: it is refused in one line that shows no key, or gives keys that a Seal
// takes.
#include <cstddef>
#include <cstdint>

#include "app/auth_keys.h"
#include "base/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const Result<std::vector<AuthKey>> keys = ParseAuthKeys(text);
  if (keys.ok()) {
    SS_CHECK(Seal::Create(*keys, SealAlgorithm::kGmac).ok(), "keys that no seal takes");
  } else {
    SS_CHECK(keys.status().code() == StatusCode::kInvalidArgument, keys.status().ToString());
    SS_CHECK(keys.status().message().find('\n') == std::string_view::npos, "two lines");
    SS_CHECK(keys.status().message().size() < 128, "an error that repeats its input");
  }
  return 0;
}
