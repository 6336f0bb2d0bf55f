// `shadowctl bench`: measures on this machine, without a daemon. Exit codes as in cli/commands.h:
// 0 done; 1 the measurement failed; 2 bad command line. Every error is one line on `err`.
#ifndef SHADOWSERVE_BENCH_BENCH_COMMAND_H_
#define SHADOWSERVE_BENCH_BENCH_COMMAND_H_

#include <iosfwd>
#include <span>
#include <string>

namespace shadowserve {

// `arguments`: what follows "bench"; `json`: the format asked for before it.
int RunBench(std::span<const std::string> arguments, bool json, std::ostream& out,
             std::ostream& err);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_BENCH_COMMAND_H_
