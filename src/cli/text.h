// Small pieces of text for people.
#ifndef SHADOWSERVE_CLI_TEXT_H_
#define SHADOWSERVE_CLI_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace shadowserve {

// Control characters become spaces: what another process sent must not steer a terminal.
std::string OneLine(std::string_view text);
// "0 B", "1.5 MiB": one decimal, for reading only.
std::string HumanBytes(uint64_t bytes);
// "3 objects", "1 object".
std::string Count(uint64_t count, std::string_view noun);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLI_TEXT_H_
