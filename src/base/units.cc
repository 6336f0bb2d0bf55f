#include "base/units.h"

#include <array>
#include <charconv>
#include <limits>
#include <utility>

namespace shadowserve {
namespace {

constexpr std::array<std::pair<std::string_view, uint64_t>, 6> kUnits = {
    {{"TiB", kTiB}, {"GiB", kGiB}, {"MiB", kMiB}, {"KiB", kKiB}, {"B", 1}, {"", 1}}};

}  // namespace

Result<uint64_t> ParseByteSize(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view suffix(end, static_cast<size_t>(text.data() + text.size() - end));
  if (error == std::errc() && end != text.data()) {
    for (const auto& [name, factor] : kUnits) {
      if (suffix != name) continue;
      if (number > std::numeric_limits<uint64_t>::max() / factor) break;
      return number * factor;
    }
  }
  return Status(StatusCode::kInvalidArgument,
                "'" + std::string(text) + "' is no size (examples: 4096, 512MiB, 10GiB)");
}

std::string FormatByteSize(uint64_t bytes) {
  for (const auto& [name, factor] : kUnits) {
    if (bytes != 0 && bytes % factor == 0)
      return std::to_string(bytes / factor) + std::string(name);
  }
  return "0B";
}

}  // namespace shadowserve
