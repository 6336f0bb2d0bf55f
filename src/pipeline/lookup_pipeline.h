// The lookup pipeline: how many leading chunks of a prompt the store holds, all layer ranges and
// head groups of them, by their markers.
//
// A store with an index answers within Start. Any other store is asked by kExists, unit after unit
// (chunk x range x group) in the order of the prefix, a window at a time; nothing is asked beyond
// the first unit that is known to be missing. So a miss costs one round trip. What the store cannot
// answer counts as missing; a lookup that learned nothing else ends in that error.
//
// Bounded: kLookupsMax at a time, kAsksMax questions in flight, shared in turns. A lookup ends at
// the latest when the store has completed its questions. Owner thread: the pipeline's.
#ifndef SHADOWSERVE_PIPELINE_LOOKUP_PIPELINE_H_
#define SHADOWSERVE_PIPELINE_LOOKUP_PIPELINE_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "format/kv_layout.h"
#include "pipeline/events.h"
#include "pipeline/store_port.h"

namespace shadowserve {

class LookupPipeline final : public StoreListener {
 public:
  static constexpr size_t kLookupsMax = 256;
  static constexpr uint32_t kAsksMax = 128;
  static constexpr uint32_t kAsksPerLookupMax = 64;

  struct Spec {
    ModelShape shape;
    StoredForm form;
    std::vector<ChunkKey> keys;
  };
  // Called once, on the pipeline's thread; `chunks` is 0 unless the code is kOk.
  using Done = std::function<void(StatusCode code, uint32_t chunks)>;

  explicit LookupPipeline(StorePort* store);
  ~LookupPipeline() override;  // REQUIRES idle()

  // Calls `done` now or later; with kExhausted when there are too many. Leaves `spec` with keys of
  // an earlier one: memory to be used again.
  void Start(Spec&& spec, Done done);
  // Asks what could not be asked before; true when anything was.
  bool Turn();
  bool idle() const { return active_.empty(); }

  void OnStore(uint64_t tag, StatusCode code, uint64_t bytes) override;

 private:
  struct Lookup {
    Spec spec;  // of the last one while the slot is free
    Done done;
    uint32_t units_per_chunk = 0;
    uint32_t next = 0;  // the unit to ask for next
    uint32_t end = 0;   // units known to be missing begin here; no further one is asked for
    uint32_t inflight = 0;
    StatusCode failure = StatusCode::kOk;  // of the question at `end`
  };

  static ObjectName UnitName(const Spec& spec, uint32_t unit);
  uint32_t CountIndexed(const Spec& spec, uint32_t units_per_chunk) const;
  bool Ask(uint32_t slot);
  void FinishIfDone(uint32_t slot);

  StorePort* store_;
  std::vector<Lookup> lookups_;  // slots
  std::vector<uint32_t> free_;
  std::vector<uint32_t> active_;  // slots, in turn order
  uint32_t inflight_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_LOOKUP_PIPELINE_H_
