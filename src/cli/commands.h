// The verbs of shadowctl: one call to the data plane each, its answer as text or as one JSON
// object.
//
// Exit codes: 0 done; 1 damage found, nothing found, or the data plane refused; 2 bad command line;
// 3 data plane not reachable. Every error is one line on `err`. Single-threaded.
#ifndef SHADOWSERVE_CLI_COMMANDS_H_
#define SHADOWSERVE_CLI_COMMANDS_H_

#include <iosfwd>
#include <span>
#include <string>

#include "cli/command_line.h"

namespace shadowserve {

constexpr int kExitDone = 0;
constexpr int kExitFound = 1;
constexpr int kExitUsage = 2;
constexpr int kExitUnreachable = 3;

int RunStatus(const CommandLine& line, std::ostream& out, std::ostream& err);
int RunLookup(const CommandLine& line, std::ostream& out, std::ostream& err);
int RunVerify(const CommandLine& line, std::ostream& out, std::ostream& err);
// Writes Chrome's trace event format: one lane per stage, one for segments on their way.
int RunTrace(const CommandLine& line, std::ostream& out, std::ostream& err);
int RunEvict(const CommandLine& line, std::ostream& out, std::ostream& err);

// What runs the verb bench: bench/bench_command.h.
using BenchRunner = int (*)(std::span<const std::string> arguments, bool json, std::ostream& out,
                            std::ostream& err);

// The whole program. `arguments`: without the program's name.
int RunShadowctl(std::span<const std::string> arguments, std::ostream& out, std::ostream& err,
                 BenchRunner bench);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLI_COMMANDS_H_
