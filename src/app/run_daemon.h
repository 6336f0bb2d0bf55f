// The data plane as a program: arguments and environment in, exit status out.
//
// main() of shadowserved, and of shadowserved_control_path (tests/e2e), which answers and completes
// everything but moves no byte: what is left of the interference then is the control path's. It is
// a program of its own, never a config key, because the engine's pages then hold anything.
#ifndef SHADOWSERVE_APP_RUN_DAEMON_H_
#define SHADOWSERVE_APP_RUN_DAEMON_H_

namespace shadowserve {

struct RunOptions {
  bool control_path_only = false;
};

// 0 after SIGTERM or SIGINT, 2 when config, address or store is no good. Call once, from main().
int RunDaemon(int argc, char** argv, const RunOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_RUN_DAEMON_H_
