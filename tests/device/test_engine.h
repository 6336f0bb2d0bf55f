// TestEngine: a second process, exec'ed, that does what an engine worker does with its KV memory:
// owns it, exports it, hands it over the side socket, and answers questions about its bytes. The
// program is engine_main.cc.
//
// Owner thread: the test's.
#ifndef SHADOWSERVE_TESTS_DEVICE_TEST_ENGINE_H_
#define SHADOWSERVE_TESTS_DEVICE_TEST_ENGINE_H_

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "device/kv_device.h"
#include "rpc/side_socket.h"

namespace shadowserve {

// What byte `index` of the region holds after Fill(seed).
inline std::byte PatternByte(uint64_t seed, uint64_t index) {
  return static_cast<std::byte>((seed * 131 + index * 7 + (index >> 8) * 3 + (index >> 16)) & 0xff);
}
void FillPattern(std::span<std::byte> bytes, uint64_t seed, uint64_t first_index);

// Messages between the test and the program, one SEQPACKET message each.
enum class EngineOp : uint32_t { kFill, kCheck, kCheckEdges, kDropExporter };
struct EngineCommand {
  EngineOp op;
  uint32_t padding = 0;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t seed = 0;
};
struct EngineHello {  // followed by the worker address and the remote key
  uint32_t status = 0;
  char message[512] = {};
  char kind[16] = {};
  uint8_t token[kSideTokenBytes] = {};
  uint64_t region_bytes = 0, memory_offset = 0, address = 0, probe_value = 0, probe_address = 0;
  uint64_t incarnation = 0;
  uint32_t ucx_worker_address_bytes = 0, ucx_remote_key_bytes = 0;
};
constexpr int kEngineControlFd = 3;
constexpr uint64_t kInitialSeed = 42;  // the region's contents before it is exported

struct TestEngineOptions {
  std::string kind = "mapped";
  uint64_t bytes = 0;
  uid_t uid = 0;  // 0: the test's
  bool new_pid_namespace = false;
};

class TestEngine {
 public:
  // Forks and execs; the process waits for its side socket to be served.
  static Result<std::unique_ptr<TestEngine>> Spawn(const TestEngineOptions& options);
  ~TestEngine();  // kills it

  // Serves the side socket until the engine has exported. What the data plane gets to know.
  Result<KvExport> AwaitExport();

  bool Fill(uint64_t offset, uint64_t bytes, uint64_t seed) {
    return Ask({EngineOp::kFill, 0, offset, bytes, seed});
  }
  // Whether the engine itself sees the pattern there.
  bool Check(uint64_t offset, uint64_t bytes, uint64_t seed) {
    return Ask({EngineOp::kCheck, 0, offset, bytes, seed});
  }
  // Whether what surrounds the region in its edge pages is as it was before the export.
  bool CheckEdges() { return Ask({EngineOp::kCheckEdges}); }
  bool DropExporter() { return Ask({EngineOp::kDropExporter}); }

  // The engine's pid in this pid namespace, after AwaitExport.
  pid_t pid() const { return pid_; }
  void KillAndWait();

 private:
  TestEngine() = default;
  bool Ask(const EngineCommand& command);

  std::string directory_;
  SteadyClock clock_;
  std::unique_ptr<SideServer> server_;
  UniqueFd control_;
  UniqueFd memory_;
  pid_t child_ = 0;  // the engine, or the process that waits for it
  pid_t pid_ = 0;
};

// Runs `body` in a child process of other rights and returns what it returned ("" = fine); how the
// child ended if it did not.
struct ChildOptions {
  uid_t uid = 0;  // 0: the test's
  bool new_pid_namespace = false;
};
std::string RunInChild(const ChildOptions& options, const std::function<std::string()>& body);

}  // namespace shadowserve

#endif  // SHADOWSERVE_TESTS_DEVICE_TEST_ENGINE_H_
