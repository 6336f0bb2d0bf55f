// Reads a TOML config file into (key, text) pairs, for ConfigKey::set.
#ifndef SHADOWSERVE_APP_CONFIG_FILE_H_
#define SHADOWSERVE_APP_CONFIG_FILE_H_

#include <string>
#include <string_view>
#include <vector>

#include "app/config.h"
#include "base/result.h"

namespace shadowserve {

struct FileValue {
  const ConfigKey* key = nullptr;
  std::string text;
};

// `source` names the text in errors. kInvalidArgument names the line of a syntax error, the unknown
// section or key, or the key whose value has the wrong TOML type.
Result<std::vector<FileValue>> ParseConfigText(std::string_view toml, std::string_view source);
// The same for a file of at most 1 MiB; kInvalidArgument also when it cannot be read.
Result<std::vector<FileValue>> ReadConfigFile(const std::string& path);

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_CONFIG_FILE_H_
