#include "codec/compressdev/eal_process.h"

#include <pthread.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <sched.h>
#include <signal.h>

#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <utility>
#include <vector>

namespace shadowserve::compressdev {
namespace {

// EAL's heap without huge pages, in MiB: queue pairs and pools take a few.
constexpr const char* kHeapMiB = "32";

// What EAL and drivers said last: they tell reasons to their log only.
class LastLine {
 public:
  FILE* Open() {
    const cookie_io_functions_t functions = {nullptr, &Write, nullptr, nullptr};
    FILE* stream = fopencookie(this, "w", functions);
    if (stream != nullptr) std::setvbuf(stream, nullptr, _IOLBF, 512);
    return stream;
  }
  std::string Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(text_, {});
  }

 private:
  static ssize_t Write(void* self, const char* text, size_t bytes) {
    auto* line = static_cast<LastLine*>(self);
    std::string_view view(text, bytes);
    while (!view.empty() && view.back() == '\n') view.remove_suffix(1);
    const std::lock_guard lock(line->mutex_);
    line->text_ = view.substr(0, 200);
    return static_cast<ssize_t>(bytes);
  }

  std::mutex mutex_;
  std::string text_;
};
LastLine last_line;

// The calling thread's affinity and the process's signal handlers, as they were.
class ProcessState {
 public:
  ProcessState() {
    CPU_ZERO(&cpus_);
    (void)pthread_getaffinity_np(pthread_self(), sizeof(cpus_), &cpus_);
    (void)pthread_sigmask(SIG_SETMASK, nullptr, &blocked_);
    for (size_t i = 1; i < actions_.size(); ++i) {
      known_[i] = sigaction(static_cast<int>(i), nullptr, &actions_[i]) == 0;
    }
  }
  ~ProcessState() {
    (void)pthread_setaffinity_np(pthread_self(), sizeof(cpus_), &cpus_);
    (void)pthread_sigmask(SIG_SETMASK, &blocked_, nullptr);
    for (size_t i = 1; i < actions_.size(); ++i) {
      struct sigaction now = {};
      if (!known_[i] || sigaction(static_cast<int>(i), nullptr, &now) != 0) continue;
      if (now.sa_handler != actions_[i].sa_handler) {
        (void)sigaction(static_cast<int>(i), &actions_[i], nullptr);
      }
    }
  }
  ProcessState(const ProcessState&) = delete;
  ProcessState& operator=(const ProcessState&) = delete;

  int first_cpu() const {
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(static_cast<size_t>(cpu), &cpus_)) return cpu;
    }
    return 0;
  }

 private:
  cpu_set_t cpus_;
  sigset_t blocked_ = {};
  std::array<struct sigaction, 65> actions_ = {};
  std::array<bool, 65> known_ = {};
};

}  // namespace

std::mutex eal_mutex;
Eal eal;

int Refuse(char* error, size_t error_bytes, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(error, error_bytes, format, arguments);
  va_end(arguments);
  return -1;
}

std::string Because() {
  const std::string line = last_line.Take();
  return line.empty() ? std::string() : " (" + line + ")";
}

bool IsSoftware(const std::string& device) {
  return device.rfind("compress_", 0) == 0;
}

int StartEal(const std::string& device, char* error, size_t error_bytes) {
  const bool software = IsSoftware(device);
  if (eal.tried) {
    if (!eal.failure.empty()) return Refuse(error, error_bytes, "%s", eal.failure.c_str());
    if (!software) {
      return Refuse(error, error_bytes, "DPDK runs in this process already, for another device");
    }
    return 0;
  }
  eal.tried = true;
  const ProcessState state;
  if (FILE* stream = last_line.Open(); stream != nullptr) (void)rte_openlog_stream(stream);
  std::vector<std::string> words = {
      "shadowserve",    "--no-huge",         "-m",
      kHeapMiB,         "--iova-mode=va",    "--no-shconf",
      "--no-telemetry", "--log-level=error", "--lcores=0@" + std::to_string(state.first_cpu())};
  if (software) {
    words.emplace_back("--no-pci");
  } else {
    words.emplace_back("-a");
    words.push_back(device);
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  if (rte_eal_init(static_cast<int>(words.size()), arguments.data()) < 0) {
    eal.failure = std::string("DPDK does not start: ") + rte_strerror(rte_errno) + Because();
    return Refuse(error, error_bytes, "%s", eal.failure.c_str());
  }
  if (rte_eal_iova_mode() != RTE_IOVA_VA) {
    eal.failure = "DPDK does not address memory by virtual addresses here";
    return Refuse(error, error_bytes, "%s", eal.failure.c_str());
  }
  return 0;
}

}  // namespace shadowserve::compressdev
