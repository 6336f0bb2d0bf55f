#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "app/config.h"
#include "app/config_arguments.h"
#include "app/config_file.h"
#include "base/version.h"

namespace shadowserve {
namespace {

using Origins = std::map<std::string, std::string, std::less<>>;

constexpr std::string_view kPrefix = "SHADOWSERVE_";

// An error is printed as one line, whatever a library or a value put into it.
Status OneLine(const Status& status) {
  std::string text(status.message());
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return Status(status.code(), std::move(text));
}

Status ApplyFile(const std::string& path, Config& config, Origins& origins) {
  SS_TRY_ASSIGN(const auto values, ReadConfigFile(path));
  for (const FileValue& value : values) {
    SS_TRY(value.key->set(config, value.text).WithContext(path + ": " + value.key->name()));
    origins[value.key->name()] = "file";
  }
  return OkStatus();
}

Status ApplyEnvironment(const Environment& environment, Config& config, Origins& origins) {
  const auto keys = ConfigKeys();
  for (const auto& [variable, text] : environment) {
    if (!variable.starts_with(kPrefix)) continue;
    const auto key = std::find_if(keys.begin(), keys.end(), [&](const ConfigKey& candidate) {
      return candidate.environment() == variable;
    });
    if (key == keys.end()) {
      return Status(
          StatusCode::kInvalidArgument,
          fmt::format("unknown environment variable '{}' (no such config key)", variable));
    }
    SS_TRY(key->set(config, text).WithContext(variable));
    origins[key->name()] = "environment";
  }
  return OkStatus();
}

Status ApplyArguments(const Arguments& arguments, Config& config, Origins& origins) {
  for (const auto& [key, text] : arguments.values) {
    SS_TRY(key->set(config, text).WithContext(key->option));
    origins[key->name()] = "command line";
  }
  return OkStatus();
}

Result<LoadedConfig> Load(std::span<const std::string> arguments, const Environment& environment) {
  SS_TRY_ASSIGN(const Arguments parsed, ParseArguments(arguments));
  LoadedConfig loaded;
  if (parsed.help) {
    loaded.output = HelpText();
    return loaded;
  }
  if (parsed.version) {
    loaded.output = fmt::format("shadowserved {}\n", Version());
    return loaded;
  }
  Origins origins;
  if (parsed.config_file) SS_TRY(ApplyFile(*parsed.config_file, loaded.config, origins));
  SS_TRY(ApplyEnvironment(environment, loaded.config, origins));
  SS_TRY(ApplyArguments(parsed, loaded.config, origins));
  SS_TRY(CheckConfig(loaded.config));
  if (parsed.print_config) loaded.output = PrintConfig(loaded.config, origins);
  return loaded;
}

bool Quoted(ValueType type) {
  return type == ValueType::kText || type == ValueType::kSize || type == ValueType::kMode;
}

// A TOML basic string.
std::string Quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace

Environment ReadEnvironment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

Result<LoadedConfig> LoadConfig(std::span<const std::string> arguments,
                                const Environment& environment) {
  Result<LoadedConfig> loaded = Load(arguments, environment);
  if (!loaded.ok()) return OneLine(loaded.status());
  return loaded;
}

std::string PrintConfig(const Config& config, const Origins& origins) {
  std::string text;
  std::string_view section;
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.section != section) {
      section = key.section;
      text += fmt::format("\n[{}]\n", section);
    }
    const std::string value = key.show(config);
    const auto origin = origins.find(key.name());
    text += fmt::format("{} = {}  # {}{}; {}\n", key.key, Quoted(key.type) ? Quote(value) : value,
                        key.unit, key.unit.empty() ? "no unit" : "",
                        origin == origins.end() ? "default" : origin->second);
  }
  return text;
}

std::string HelpText() {
  std::string text =
      "Usage: shadowserved [options]\n\n"
      "The ShadowServe data plane: brings saved KV cache back into the pages of vLLM engines.\n\n"
      "Options:\n"
      "  --config FILE      settings, as a TOML file\n";
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.option.empty()) continue;
    text += fmt::format("  {:<17}  {}: {}\n", key.option, key.name(), key.help);
  }
  text +=
      "  --print-config     print the settings in force as TOML, with units, and exit\n"
      "  --help             print this and exit\n"
      "  --version          print the version and exit\n\n"
      "Settings, later wins: default, file, environment SHADOWSERVE_<SECTION>_<KEY>, options.\n";
  const Config defaults;
  for (const ConfigKey& key : ConfigKeys()) {
    const std::string value = key.show(defaults);
    text += fmt::format("  {} ({}) = {}\n      {}{}{}\n", key.name(), ValueTypeName(key.type),
                        value.empty() ? "\"\"" : value, key.help,
                        key.unit.empty() ? "" : "; unit: ", key.unit);
  }
  return text;
}

}  // namespace shadowserve
