// Any text: the URL parser and every back end's option reader either accept it or say why not.
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "store/store_table.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const shadowserve::Status status = shadowserve::CheckStoreUrl(text);
  SS_CHECK(status.ok() || status.code() == shadowserve::StatusCode::kInvalidArgument,
           status.ToString());
  return 0;
}
