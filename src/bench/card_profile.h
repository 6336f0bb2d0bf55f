// What is known of a card that `shadowctl bench --emulate` stands in for, without having one. Every
// number is somebody else's; docs/benchmarks.md says whose, and what follows from it.
#ifndef SHADOWSERVE_BENCH_CARD_PROFILE_H_
#define SHADOWSERVE_BENCH_CARD_PROFILE_H_

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "codec/block_engine.h"

namespace shadowserve {

struct CardProfile {
  const char* name;  // as --emulate takes it
  uint32_t cores;    // Arm cores: no more may be used in their place
  // Decompression engine: one server that takes tasks in order, each queue `engine.depth` of them.
  EngineLimits engine;
  double engine_bytes_per_s;  // of decoded bytes, while tasks wait
  int64_t engine_task_ns;     // what a task takes beside that; those of several tasks overlap
  // DRAM, reads and writes together.
  double memory_bytes_per_s;
};

// kInvalidArgument names the profiles that there are.
Result<const CardProfile*> FindCard(std::string_view name);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BENCH_CARD_PROFILE_H_
