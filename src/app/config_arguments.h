// The command line of shadowserved as the user wrote it, before any value is looked at.
#ifndef SHADOWSERVE_APP_CONFIG_ARGUMENTS_H_
#define SHADOWSERVE_APP_CONFIG_ARGUMENTS_H_

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "app/config.h"
#include "base/result.h"

namespace shadowserve {

struct Arguments {
  bool help = false;
  bool version = false;
  bool print_config = false;
  std::optional<std::string> config_file;
  std::vector<std::pair<const ConfigKey*, std::string>> values;
};

// kInvalidArgument names the argument that is unknown, repeated or lacks its value.
Result<Arguments> ParseArguments(std::span<const std::string> arguments);

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_CONFIG_ARGUMENTS_H_
