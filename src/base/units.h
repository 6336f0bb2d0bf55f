// Sizes as people write them: "10GiB", "512MiB", "4096". Powers of two only (KiB MiB GiB TiB), plus
// plain bytes ("B" or nothing).
#ifndef SHADOWSERVE_BASE_UNITS_H_
#define SHADOWSERVE_BASE_UNITS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace shadowserve {

constexpr uint64_t kKiB = uint64_t{1} << 10;
constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint64_t kTiB = uint64_t{1} << 40;

// kInvalidArgument names the text when it is no size or does not fit 64 bits.
Result<uint64_t> ParseByteSize(std::string_view text);
// The largest unit that divides the size: "10GiB", "1536MiB", "17B".
std::string FormatByteSize(uint64_t bytes);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_UNITS_H_
