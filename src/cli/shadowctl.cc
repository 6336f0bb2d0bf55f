#include <ostream>

#include "cli/commands.h"

namespace shadowserve {

int RunShadowctl(std::span<const std::string> arguments, std::ostream& out, std::ostream& err,
                 BenchRunner bench) {
  const Result<CommandLine> line = ParseCommandLine(arguments);
  if (!line.ok()) {
    err << "shadowctl: " << line.status().message() << "\n";
    return kExitUsage;
  }
  if (!line->output.empty()) {
    out << line->output;
    return kExitDone;
  }
  switch (line->verb) {
    case Verb::kStatus:
      return RunStatus(*line, out, err);
    case Verb::kLookup:
      return RunLookup(*line, out, err);
    case Verb::kVerify:
      return RunVerify(*line, out, err);
    case Verb::kTrace:
      return RunTrace(*line, out, err);
    case Verb::kBench:
      return bench(line->bench, line->format == OutputFormat::kJson, out, err);
    case Verb::kEvict:
      break;
  }
  return RunEvict(*line, out, err);
}

}  // namespace shadowserve
