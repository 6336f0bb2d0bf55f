// Tells the metrics, and the trace while one is taken, of a piece of work of a stage.
#ifndef SHADOWSERVE_PIPELINE_STAGE_WORK_H_
#define SHADOWSERVE_PIPELINE_STAGE_WORK_H_

#include <cstddef>
#include <cstdint>

#include "base/metrics.h"
#include "format/object_name.h"

namespace shadowserve {

// Which of the data plane's threads this is: 0 the pipeline's, then those of the DecodeCrew.
inline thread_local uint8_t trace_thread = 0;

inline void TraceStage(Metrics* metrics, StageLabel stage, int64_t start_ns, int64_t end_ns,
                       const ObjectName& name, bool saving) {
  if (!metrics->trace.on()) return;
  uint64_t chunk = 0;
  for (size_t i = 0; i < sizeof(chunk); ++i)
    chunk = chunk << 8 | std::to_integer<uint64_t>(name.key[i]);
  metrics->trace.Add(
      {start_ns, end_ns, chunk, name.first_layer, name.head_group, stage, saving, trace_thread});
}

// Processor time spent on `name` by this thread.
inline void CountStage(Metrics* metrics, StageLabel stage, int64_t start_ns, int64_t end_ns,
                       const ObjectName& name, bool saving) {
  metrics->stage_busy[stage].AddNs(end_ns - start_ns);
  TraceStage(metrics, stage, start_ns, end_ns, name, saving);
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_STAGE_WORK_H_
