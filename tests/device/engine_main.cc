// The program behind TestEngine: engine <kind> <bytes> <side socket>.
//
// Its KV memory is malloc'ed, starts 64 bytes past a page boundary and ends inside a page, as
// torch's does; the rest of both edge pages holds bytes of its own, which nobody may change.
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "client/kv_export.h"
#include "test_engine.h"

namespace shadowserve {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kEdgeSeed = 99;

class Engine {
 public:
  explicit Engine(uint64_t bytes) {
    void* memory = nullptr;
    const uint64_t all_bytes = (64 + bytes + 2 * kPage - 1) / kPage * kPage;
    if (::posix_memalign(&memory, kPage, all_bytes) != 0) std::abort();
    all_ = std::span(static_cast<std::byte*>(memory), all_bytes);
    region_ = all_.subspan(64, bytes);
    FillPattern(all_, kEdgeSeed, 0);
    FillPattern(region_, kInitialSeed, 0);
  }

  Result<SideAnswer> Export(const std::string& kind, const std::string& side_path,
                            const SideToken& token) {
    KvExportOptions options;
    options.kinds = {kind};
    if (const size_t colon = kind.find(':'); colon != std::string::npos) {  // ucx:<transports>
      options.kinds = {kind.substr(0, colon)};
      options.ucx_transports = kind.substr(colon + 1);
    }
    SS_TRY_ASSIGN(exporter_, KvExporter::Create(region_, options));
    SS_TRY_ASSIGN(SideAnswer answer, ExchangeSide(side_path, token, exporter_->memory_fd(), 20000));
    SS_TRY(exporter_->AllowDataPlane(answer.data_plane_pid));
    info_ = exporter_->info();
    return answer;
  }

  bool Do(const EngineCommand& command) {
    const auto at = [&] { return region_.subspan(command.offset, command.bytes); };
    switch (command.op) {
      case EngineOp::kFill:
        FillPattern(at(), command.seed, command.offset);
        return true;
      case EngineOp::kCheck: {
        std::vector<std::byte> expected(command.bytes);
        FillPattern(expected, command.seed, command.offset);
        return std::ranges::equal(at(), expected);
      }
      case EngineOp::kCheckEdges: {
        std::vector<std::byte> expected(all_.size());
        FillPattern(expected, kEdgeSeed, 0);
        const size_t end = 64 + region_.size();
        return std::equal(all_.begin(), all_.begin() + 64, expected.begin()) &&
               std::equal(all_.begin() + static_cast<ptrdiff_t>(end), all_.end(),
                          expected.begin() + static_cast<ptrdiff_t>(end));
      }
      case EngineOp::kDropExporter:
        exporter_.reset();
        return true;
    }
    return false;
  }

  const KvExportInfo& info() const { return info_; }

 private:
  std::span<std::byte> all_;
  std::span<std::byte> region_;
  std::unique_ptr<KvExporter> exporter_;
  KvExportInfo info_;
};

int Run(const std::string& kind, uint64_t bytes, const std::string& side_path) {
  Engine engine(bytes);
  const SideToken token = MakeSideToken();
  const Result<SideAnswer> answer = engine.Export(kind, side_path, token);
  EngineHello hello;
  hello.status = static_cast<uint32_t>(answer.status().code());
  const std::string text(answer.status().message().substr(0, sizeof(hello.message) - 1));
  std::memcpy(hello.message, text.data(), text.size());
  const KvExportInfo& info = engine.info();
  std::memcpy(hello.kind, info.kind.data(), info.kind.size());
  std::memcpy(hello.token, token.data(), token.size());
  hello.region_bytes = info.region_bytes;
  hello.memory_offset = info.memory_offset;
  hello.address = info.address;
  hello.probe_value = info.probe_value;
  hello.probe_address = info.probe_address;
  hello.incarnation = answer.ok() ? answer->incarnation : 0;
  hello.ucx_worker_address_bytes = static_cast<uint32_t>(info.ucx_worker_address.size());
  hello.ucx_remote_key_bytes = static_cast<uint32_t>(info.ucx_remote_key.size());
  std::string message(reinterpret_cast<const char*>(&hello), sizeof(hello));
  message += info.ucx_worker_address + info.ucx_remote_key;
  if (::send(kEngineControlFd, message.data(), message.size(), MSG_NOSIGNAL) < 0) return 1;

  EngineCommand command;
  while (::recv(kEngineControlFd, &command, sizeof(command), 0) == sizeof(command)) {
    const uint32_t result = engine.Do(command) ? 1 : 0;
    if (::send(kEngineControlFd, &result, sizeof(result), MSG_NOSIGNAL) < 0) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace shadowserve

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  return shadowserve::Run(argv[1], std::strtoull(argv[2], nullptr, 10), argv[3]);
}
