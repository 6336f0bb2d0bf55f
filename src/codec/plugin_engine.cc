#include "codec/plugin_engine.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <limits>
#include <system_error>
#include <utility>

#include "codec/engine_abi.h"

namespace shadowserve {
namespace {

constexpr const char* kEntry = "shadowserve_codec_engine";
constexpr size_t kBurst = 32;
constexpr uint32_t kDepthMax = 4096;

// Room for the one line in which a plug-in says what is wrong.
struct ErrorLine {
  std::array<char, 512> text = {};
  std::string Take() {
    text.back() = 0;
    std::string line(text.data());
    std::replace(line.begin(), line.end(), '\n', ' ');
    return line.empty() ? "it does not say why" : line;
  }
};

class PluginQueue final : public EngineQueue {
 public:
  PluginQueue(const EngineAbiTable& table, void* queue) : table_(table), queue_(queue) {}
  ~PluginQueue() override { table_.close_queue(queue_); }

  size_t Submit(std::span<const EngineOp> ops) override {
    std::array<EngineAbiOp, kBurst> burst;
    size_t taken = 0;
    while (taken < ops.size()) {
      const size_t count = std::min(ops.size() - taken, kBurst);
      for (size_t i = 0; i < count; ++i) {
        const EngineOp& op = ops[taken + i];
        burst[i] = {op.coded.data(), op.symbols.data(), static_cast<uint32_t>(op.coded.size()),
                    static_cast<uint32_t>(op.symbols.size()), op.tag};
      }
      const size_t accepted = std::min<size_t>(
          table_.submit(queue_, burst.data(), static_cast<uint32_t>(count)), count);
      taken += accepted;
      if (accepted < count) break;
    }
    return taken;
  }

  size_t Poll(std::span<EngineDone> done) override {
    std::array<EngineAbiDone, kBurst> burst;
    const size_t wanted = std::min(done.size(), kBurst);
    const size_t count =
        std::min<size_t>(table_.poll(queue_, burst.data(), static_cast<uint32_t>(wanted)), wanted);
    for (size_t i = 0; i < count; ++i) done[i] = {burst[i].tag, CodeOf(burst[i].status)};
    return count;
  }

 private:
  static StatusCode CodeOf(uint32_t status) {
    if (status == kEngineAbiOk) return StatusCode::kOk;
    return status == kEngineAbiCorrupt ? StatusCode::kCorrupt : StatusCode::kUnavailable;
  }

  const EngineAbiTable& table_;
  void* queue_;
};

class PluginEngine final : public BlockEngine {
 public:
  PluginEngine(const EngineAbiTable& table, void* engine, std::string device, EngineLimits limits)
      : table_(table), engine_(engine), device_(std::move(device)), limits_(limits) {}
  ~PluginEngine() override {
    // One that cannot be stopped keeps what it has.
    if (Stop()) table_.close(engine_);
  }

  std::string Describe() const override { return device_; }
  EngineLimits limits() const override { return limits_; }

  Status AddMemory(std::span<std::byte> memory) override {
    ErrorLine error;
    if (table_.add_memory(engine_, memory.data(), memory.size(), error.text.data(),
                          error.text.size()) != 0) {
      return Status(StatusCode::kUnavailable, "codec engine " + device_ + ": " + error.Take());
    }
    return OkStatus();
  }
  void RemoveMemory(std::span<std::byte> memory) override {
    table_.remove_memory(engine_, memory.data(), memory.size());
  }

  Result<std::unique_ptr<EngineQueue>> OpenQueue() override {
    void* queue = table_.open_queue(engine_);
    if (queue == nullptr) {
      return Status(StatusCode::kExhausted, "codec engine " + device_ + ": no queue is left");
    }
    return std::unique_ptr<EngineQueue>(std::make_unique<PluginQueue>(table_, queue));
  }

  bool Stop() override { return table_.stop(engine_) == 1; }

 private:
  const EngineAbiTable& table_;
  void* engine_;
  std::string device_;
  EngineLimits limits_;
};

// Where the program lies, so that a plug-in is never taken from the working directory.
std::string BesideTheProgram() {
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string() : (program.parent_path() / kCompressdevPlugin).string();
}

Result<const EngineAbiTable*> LoadTable(const std::string& path) {
  const auto fail = [](std::string why) {
    return Status(StatusCode::kUnsupported, "codec.engine: " + std::move(why));
  };
  if (path.empty() || ::access(path.c_str(), R_OK) != 0) {
    return fail("there is no plug-in " + path +
                "; install libdpdk-dev and build again (scripts/setup.sh, scripts/build.sh), or "
                "set codec.engine = \"software\"");
  }
  // Never unloaded: DPDK leaves threads and exit handlers behind.
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    return fail(std::string("the plug-in cannot be loaded: ") + ::dlerror() +
                "; install the DPDK that it was built with, or set codec.engine = \"software\"");
  }
  const auto entry = reinterpret_cast<EngineAbiEntry>(::dlsym(handle, kEntry));
  ::dlclose(handle);
  const EngineAbiTable* table = entry == nullptr ? nullptr : entry();
  if (table == nullptr) return fail(path + " is no plug-in: it exports no " + kEntry);
  if (table->version != kEngineAbiVersion || table->table_bytes != sizeof(EngineAbiTable)) {
    return fail(path + " has version " + std::to_string(table->version) + ", version " +
                std::to_string(int{kEngineAbiVersion}) +
                " is needed; build both from the same sources");
  }
  return table;
}

}  // namespace

Result<std::unique_ptr<BlockEngine>> OpenPluginEngine(const PluginEngineOptions& options) {
  SS_TRY_ASSIGN(const EngineAbiTable* table,
                LoadTable(options.library.empty() ? BesideTheProgram() : options.library));
  const EngineAbiConfig config{options.device.c_str(), options.queues, options.depth};
  EngineAbiLimits told = {};
  ErrorLine error;
  void* engine = table->open(&config, &told, error.text.data(), error.text.size());
  if (engine == nullptr) {
    return Status(StatusCode::kUnavailable,
                  "codec.engine_device: " + options.device + ": " + error.Take());
  }
  auto opened = std::make_unique<PluginEngine>(*table, engine, options.device,
                                               EngineLimits{told.op_bytes_max, told.depth});
  if (told.op_bytes_max == 0 || told.depth == 0 || told.depth > kDepthMax) {
    return Status(StatusCode::kInvalidArgument,
                  "codec.engine_device: " + options.device + ": " +
                      std::to_string(told.op_bytes_max) + " bytes per operation and " +
                      std::to_string(told.depth) + " operations in flight are no limits");
  }
  return std::unique_ptr<BlockEngine>(std::move(opened));
}

}  // namespace shadowserve
