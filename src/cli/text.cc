#include "cli/text.h"

#include <fmt/format.h>

#include <array>

#include "base/units.h"

namespace shadowserve {

std::string OneLine(std::string_view text) {
  std::string line(text);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return line;
}

std::string HumanBytes(uint64_t bytes) {
  constexpr std::array<std::pair<uint64_t, std::string_view>, 4> kUnits = {
      {{kTiB, "TiB"}, {kGiB, "GiB"}, {kMiB, "MiB"}, {kKiB, "KiB"}}};
  for (const auto& [size, name] : kUnits) {
    if (bytes >= size) {
      return fmt::format("{:.1f} {}", static_cast<double>(bytes) / static_cast<double>(size), name);
    }
  }
  return fmt::format("{} B", bytes);
}

std::string Count(uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace shadowserve
