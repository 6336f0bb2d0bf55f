// ParseObjectName on any text: what it accepts prints as the same text, and parses to the same
// name.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "format/object_name.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto check = [](std::string_view candidate) {
    const Result<ObjectName> name = ParseObjectName(candidate);
    if (!name.ok()) {
      SS_CHECK(name.status().code() == StatusCode::kInvalidArgument, name.status().ToString());
      return;
    }
    SS_CHECK(ToString(*name) == candidate, "print(parse(text)) differs");
    SS_CHECK(*ParseObjectName(ToString(*name)) == *name, "parse(print(name)) differs");
  };
  check(text);
  check("ss1:{" + std::string(64, 'a') + "}" + std::string(text));
  return 0;
}
