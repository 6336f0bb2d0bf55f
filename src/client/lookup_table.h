// Lookups that wait for an answer of the data plane, and answers that wait to be asked for.
// Not thread-safe: guarded by its owner's lock. Time is passed in.
#ifndef SHADOWSERVE_CLIENT_LOOKUP_TABLE_H_
#define SHADOWSERVE_CLIENT_LOOKUP_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <unordered_map>

namespace shadowserve {

class LookupTable {
 public:
  static constexpr size_t kLookupsMax = 16'384;

  enum class Phase : uint8_t { kPending, kAnswered, kGone };
  struct State {
    Phase phase = Phase::kGone;
    uint32_t chunks = 0;  // kAnswered: leading chunks that are present
  };

  // A new lookup of the first `keys` chunks; 0 when the table is full.
  uint64_t Add(uint32_t keys, int64_t now_ns);
  // False when nobody waits for it (any more). An answer of more chunks than were asked for is not
  // believed: it counts as none.
  bool Answer(uint64_t id, uint32_t chunks);
  // kGone: never added, removed, or failed.
  State Get(uint64_t id) const;
  bool Expired(uint64_t id, int64_t now_ns, int64_t timeout_ns) const;
  void Remove(uint64_t id);
  // The stream broke: nobody will answer what is pending. Answers stay.
  void FailPending();
  size_t pending() const { return pending_; }
  size_t size() const { return lookups_.size(); }

 private:
  struct Lookup {
    uint32_t keys = 0;
    int64_t since_ns = 0;
    State state;
  };
  std::unordered_map<uint64_t, Lookup> lookups_;
  uint64_t next_id_ = 1;
  size_t pending_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_LOOKUP_TABLE_H_
