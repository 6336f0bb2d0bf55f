// A BlockEngine out of a plug-in: a shared object that is loaded only when it is configured.
#ifndef SHADOWSERVE_CODEC_PLUGIN_ENGINE_H_
#define SHADOWSERVE_CODEC_PLUGIN_ENGINE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "codec/block_engine.h"

namespace shadowserve {

// DPDK compressdev (compressdev/compressdev_engine.cc).
constexpr const char* kCompressdevPlugin = "libshadowserve_compressdev.so";

struct PluginEngineOptions {
  std::string library = {};  // path; empty: kCompressdevPlugin beside the program
  std::string device = {};   // as the plug-in names it
  uint32_t queues = 1;       // at most: the device may have fewer
  uint32_t depth = 64;       // operations in flight per queue
};

// The plug-in stays loaded for good. Errors are one line: kUnsupported when it is not there or of
// another version (and what to do), kUnavailable with the plug-in's own words when it refuses the
// device, kInvalidArgument when its limits make no sense.
Result<std::unique_ptr<BlockEngine>> OpenPluginEngine(const PluginEngineOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CODEC_PLUGIN_ENGINE_H_
