// For tests of what loads plug-ins: one without DPDK, that decodes with zlib at once. Its devices:
//   good        decodes
//   failing     completes everything as kEngineAbiUnavailable
//   silent      takes operations and never answers
//   boundless   tells limits that are none
#include <zlib.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <string_view>
#include <vector>

#include "codec/engine_abi.h"

namespace {

struct Engine;

struct Queue {
  Engine* engine = nullptr;
  bool open = false;  // guarded by its engine's mutex
  std::vector<EngineAbiDone> done;
};

struct Engine {
  std::string_view device;
  uint32_t depth = 0;
  bool stopped = false;
  std::mutex mutex;
  std::deque<Queue> queues;
};

constexpr const char* kDevices[] = {"good", "failing", "silent", "boundless"};

void* Open(const EngineAbiConfig* config, EngineAbiLimits* limits, char* error,
           size_t error_bytes) {
  for (const char* device : kDevices) {
    if (std::strcmp(config->device, device) != 0) continue;
    auto* engine = new Engine;
    engine->device = device;
    engine->depth = config->depth;
    engine->queues.resize(config->queues);
    for (Queue& queue : engine->queues) queue.engine = engine;
    *limits = {65'535, engine->device == "boundless" ? 1'000'000 : config->depth};
    return engine;
  }
  std::snprintf(error, error_bytes, "no device of that name\non this machine");
  return nullptr;
}

int32_t AddMemory(void*, void*, uint64_t bytes, char* error, size_t error_bytes) {
  if (bytes % 4096 == 0) return 0;
  std::snprintf(error, error_bytes, "not whole pages");
  return -1;
}

void RemoveMemory(void*, void*, uint64_t) {}

void* OpenQueue(void* handle) {
  auto* engine = static_cast<Engine*>(handle);
  const std::lock_guard lock(engine->mutex);
  for (Queue& queue : engine->queues) {
    if (queue.open || engine->stopped) continue;
    queue.open = true;
    return &queue;
  }
  return nullptr;
}

void CloseQueue(void* handle) {
  auto* queue = static_cast<Queue*>(handle);
  const std::lock_guard lock(queue->engine->mutex);
  queue->open = false;
}

uint32_t Inflate(const EngineAbiOp& op) {
  z_stream stream = {};
  if (inflateInit2(&stream, -15) != Z_OK) return kEngineAbiUnavailable;
  stream.next_in = static_cast<Bytef*>(const_cast<void*>(op.coded));
  stream.avail_in = op.coded_bytes;
  stream.next_out = static_cast<Bytef*>(op.symbols);
  stream.avail_out = op.symbol_bytes;
  const bool ended = inflate(&stream, Z_FINISH) == Z_STREAM_END;
  const bool exact = ended && stream.avail_in == 0 && stream.avail_out == 0;
  inflateEnd(&stream);
  return exact ? kEngineAbiOk : kEngineAbiCorrupt;
}

uint32_t Submit(void* handle, const EngineAbiOp* ops, uint32_t count) {
  auto* queue = static_cast<Queue*>(handle);
  const Engine* engine = queue->engine;
  uint32_t taken = 0;
  for (; taken < count && queue->done.size() < engine->depth && !engine->stopped; ++taken) {
    const EngineAbiOp& op = ops[taken];
    if (op.coded_bytes == 0 || op.symbol_bytes == 0 || op.coded_bytes > 65'535 ||
        op.symbol_bytes > 65'535) {
      break;
    }
    const uint32_t status =
        engine->device == "good" ? Inflate(op) : uint32_t{kEngineAbiUnavailable};
    queue->done.push_back({op.tag, status, 0});
  }
  return taken;
}

uint32_t Poll(void* handle, EngineAbiDone* done, uint32_t count) {
  auto* queue = static_cast<Queue*>(handle);
  if (queue->engine->device == "silent") return 0;
  uint32_t got = 0;
  for (; got < count && !queue->done.empty(); ++got) {
    done[got] = queue->done.back();
    queue->done.pop_back();
  }
  return got;
}

int32_t Stop(void* handle) {
  static_cast<Engine*>(handle)->stopped = true;
  return 1;
}

void Close(void* handle) {
  delete static_cast<Engine*>(handle);
}

#ifndef SS_TEST_ABI_VERSION
#define SS_TEST_ABI_VERSION kEngineAbiVersion
#endif

constexpr EngineAbiTable kTable = {SS_TEST_ABI_VERSION,
                                   sizeof(EngineAbiTable),
                                   Open,
                                   AddMemory,
                                   RemoveMemory,
                                   OpenQueue,
                                   CloseQueue,
                                   Submit,
                                   Poll,
                                   Stop,
                                   Close};

}  // namespace

extern "C" __attribute__((visibility("default"))) const EngineAbiTable* shadowserve_codec_engine() {
  return &kTable;
}
