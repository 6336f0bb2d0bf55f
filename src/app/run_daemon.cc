#include "app/run_daemon.h"

#include <pthread.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "app/config.h"
#include "app/wiring.h"
#include "base/log.h"

namespace shadowserve {
namespace {

constexpr int kExitBadConfig = 2;

}  // namespace

int RunDaemon(int argc, char** argv, const RunOptions& options) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const Result<LoadedConfig> loaded = LoadConfig(arguments, ReadEnvironment());
  if (!loaded.ok()) {
    std::fprintf(stderr, "shadowserved: %s\n", std::string(loaded.status().message()).c_str());
    return kExitBadConfig;
  }
  if (!loaded->output.empty()) {
    std::fputs(loaded->output.c_str(), stdout);
    return 0;
  }
  SetLogLevel(loaded->config.log_level);

  // Blocked in every thread; main alone waits for them.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  const Result<std::unique_ptr<Daemon>> daemon =
      Daemon::Start(loaded->config, options.control_path_only);
  if (!daemon.ok()) {
    std::fprintf(stderr, "shadowserved: %s\n", std::string(daemon.status().message()).c_str());
    return kExitBadConfig;
  }
  std::printf("shadowserved ready %s\n", (*daemon)->address().c_str());
  std::fflush(stdout);

  int signal_number = 0;
  sigwait(&signals, &signal_number);
  Log(LogLevel::kInfo, "signal {}: draining", signal_number);
  (*daemon)->Stop();
  return 0;
}

}  // namespace shadowserve
