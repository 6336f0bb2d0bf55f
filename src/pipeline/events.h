// What the pipelines need from their surroundings, and what they tell.
#ifndef SHADOWSERVE_PIPELINE_EVENTS_H_
#define SHADOWSERVE_PIPELINE_EVENTS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "format/object_name.h"
#include "format/tenant.h"
#include "pipeline/page_map.h"

namespace shadowserve {

// Fetch chunks into one rank's pages (rpc/control.proto: Load, for one rank).
struct LoadSpec {
  uint64_t load_id = 0;  // unique for ever
  std::string request_id;
  const RankMemory* rank = nullptr;  // lent until OnLoadDone
  StoredForm form;
  std::vector<ChunkKey> keys;
  std::vector<uint32_t> pages;  // pages_per_chunk for each key
  uint32_t first_token = 0;     // within the first chunk; a multiple of the page's tokens
  bool granted = false;
  int64_t deadline_ns = 0;
};

struct LoadResult {
  uint64_t load_id = 0;
  Status status;
  uint64_t tokens = 0;
  uint64_t kv_bytes = 0;
  uint64_t wire_bytes = 0;
};

// Store one chunk out of one rank's pages (control.proto: SaveItem, for one rank).
struct SaveSpec {
  uint64_t save_id = 0;              // unique for ever
  const RankMemory* rank = nullptr;  // lent until OnSaveDone
  StoredForm form;
  ChunkKey key{};
  TenantId tenant{};
  std::vector<uint32_t> pages;
};

enum class SaveOutcome : uint8_t { kStored, kPresent, kDropped };
struct SaveResult {
  uint64_t save_id = 0;
  SaveOutcome outcome = SaveOutcome::kDropped;
  DropLabel reason = DropLabel::kCount;  // when dropped
};

// Called on the pipeline thread; must not block and must not call back into the pipelines.
class PipelineEvents {
 public:
  virtual ~PipelineEvents() = default;
  // Exactly once per accepted load: nothing of it reads or writes anything any more.
  virtual void OnLoadDone(const LoadResult& result) = 0;
  // All values of a segment, whose bytes were asked for then, are in the pages or in its join's
  // staging slab. For measurements.
  virtual void OnSegmentLoaded(int64_t /*asked_ns*/) {}
  // The pages of this save were read (wholly, or as far as the part under work when not `last`):
  // were they held? Answered by SavePipeline::Confirm. `last`: they are read no more.
  virtual void OnSaveRead(uint64_t save_id, bool last) = 0;
  // Exactly once per accepted save: nothing of it reads the pages any more.
  virtual void OnSaveDone(const SaveResult& result) = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_EVENTS_H_
