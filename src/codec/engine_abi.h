// The table that a codec engine's plug-in exports: plain C, so that neither side depends on the
// other's C++ library. The core never links what a plug-in brings (DPDK takes over a process).
//
// The plug-in exports one function, `shadowserve_codec_engine`, that returns the table. `version`
// is the first word for ever; nothing else is read unless it is kEngineAbiVersion. Any change of
// what follows gets a new version. Meanings are those of block_engine.h.
#ifndef SHADOWSERVE_CODEC_ENGINE_ABI_H_
#define SHADOWSERVE_CODEC_ENGINE_ABI_H_

#include <stddef.h>
#include <stdint.h>

extern "C" {

enum { kEngineAbiVersion = 1 };
enum { kEngineAbiOk = 0, kEngineAbiCorrupt = 1, kEngineAbiUnavailable = 2 };

struct EngineAbiConfig {
  const char* device;
  uint32_t queues;  // at most; where the device has fewer, those
  uint32_t depth;   // of each
};

struct EngineAbiLimits {
  uint32_t op_bytes_max;
  uint32_t depth;
};

struct EngineAbiOp {
  const void* coded;
  void* symbols;
  uint32_t coded_bytes;
  uint32_t symbol_bytes;
  uint64_t tag;
};

struct EngineAbiDone {
  uint64_t tag;
  uint32_t status;
  uint32_t reserved;
};

// Where something fails, `error` holds one line that ends with a zero.
struct EngineAbiTable {
  uint32_t version;
  uint32_t table_bytes;
  // The engine; null: `error` says why.
  void* (*open)(const struct EngineAbiConfig* config, struct EngineAbiLimits* limits, char* error,
                size_t error_bytes);
  // 0; otherwise `error` says why.
  int32_t (*add_memory)(void* engine, void* begin, uint64_t bytes, char* error, size_t error_bytes);
  void (*remove_memory)(void* engine, void* begin, uint64_t bytes);
  void* (*open_queue)(void* engine);  // null: none is left
  void (*close_queue)(void* queue);
  uint32_t (*submit)(void* queue, const struct EngineAbiOp* ops, uint32_t count);
  uint32_t (*poll)(void* queue, struct EngineAbiDone* done, uint32_t count);
  int32_t (*stop)(void* engine);  // 1: nothing touches memory any more
  void (*close)(void* engine);    // after stop
};

typedef const struct EngineAbiTable* (*EngineAbiEntry)(void);

}  // extern "C"

#endif  // SHADOWSERVE_CODEC_ENGINE_ABI_H_
