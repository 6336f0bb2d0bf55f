#include "app/config_arguments.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

namespace shadowserve {

Result<Arguments> ParseArguments(std::span<const std::string> arguments) {
  Arguments parsed;
  CLI::App app("", "shadowserved");
  app.set_help_flag();  // the help text is our own: HelpText()
  app.add_flag("-h,--help", parsed.help);
  app.add_flag("--version", parsed.version);
  app.add_flag("--print-config", parsed.print_config);
  std::string config_file;
  const CLI::Option* config_option = app.add_option("--config", config_file);

  const std::span<const ConfigKey> keys = ConfigKeys();
  std::vector<std::string> texts(keys.size());
  std::vector<const CLI::Option*> options(keys.size());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!keys[i].option.empty()) options[i] = app.add_option(std::string(keys[i].option), texts[i]);
  }
  try {
    // CLI11 takes the arguments last first.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::ParseError& error) {
    return Status(StatusCode::kInvalidArgument, std::string(error.what()) + " (see --help)");
  }
  if (config_option->count() > 0) parsed.config_file = config_file;
  for (size_t i = 0; i < keys.size(); ++i) {
    if (options[i] != nullptr && options[i]->count() > 0) {
      parsed.values.emplace_back(&keys[i], texts[i]);
    }
  }
  return parsed;
}

}  // namespace shadowserve
