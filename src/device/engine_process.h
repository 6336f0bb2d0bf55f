// EngineProcess: the one process that a pid named when Watch was called. A pid alone may name
// another process later; what is about to reach into memory by pid asks Alive() first.
#ifndef SHADOWSERVE_DEVICE_ENGINE_PROCESS_H_
#define SHADOWSERVE_DEVICE_ENGINE_PROCESS_H_

#include <fmt/format.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/result.h"
#include "base/unique_fd.h"

namespace shadowserve {

class EngineProcess {
 public:
  // kUnavailable: no such process in this pid namespace.
  static Result<EngineProcess> Watch(pid_t pid) {
    EngineProcess process;
    process.pidfd_.Reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (process.pidfd_.valid()) return process;
    return Status(StatusCode::kUnavailable,
                  fmt::format("engine worker {}: {}", pid, std::strerror(errno)));
  }

  bool Alive() const {
    pollfd entry{pidfd_.get(), POLLIN, 0};
    return ::poll(&entry, 1, 0) == 0;
  }

 private:
  UniqueFd pidfd_;
};

// What cross-memory access to an engine on this host takes; for error texts.
constexpr std::string_view kPtraceRemedy =
    "cross-memory access needs: the same user and a Yama ptrace_scope of 0, or of 1 with the "
    "engine's PR_SET_PTRACER, or CAP_SYS_PTRACE here; and a pid namespace that both share. "
    "`mapped` "
    "needs none of these";

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_ENGINE_PROCESS_H_
