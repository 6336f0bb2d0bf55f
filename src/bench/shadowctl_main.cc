// shadowctl: looks into a running data plane, or measures one of its own (bench). It lies here
// because the verbs that talk to a daemon must not link what the bench needs.
#include <iostream>
#include <string>
#include <vector>

#include "base/log.h"
#include "bench/bench_command.h"
#include "cli/commands.h"

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  shadowserve::SetLogLevel(shadowserve::LogLevel::kWarn);
  return shadowserve::RunShadowctl(arguments, std::cout, std::cerr, shadowserve::RunBench);
}
