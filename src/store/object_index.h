// ObjectIndex: which objects a store holds, their sizes, and the order in which they were last
// used.
//
// Memory: 64 bytes per object in blocks that never move, plus an open-addressing table of 8-byte
// buckets (hash tag and entry number, load factor 0.35 to 0.7): under 100 bytes per object, also
// while the table grows; kBytesPerObjectMax is the promise. Growth copies 8-byte buckets only, so
// it costs a few nanoseconds per object, amortised; nothing shrinks. Find, Touch and Erase allocate
// nothing. Bounded by kObjectsMax. Not thread-safe.
#ifndef SHADOWSERVE_STORE_OBJECT_INDEX_H_
#define SHADOWSERVE_STORE_OBJECT_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "format/object_name.h"

namespace shadowserve {

class ObjectIndex {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr uint32_t kObjectsMax = uint32_t{1} << 31;
  static constexpr size_t kBytesPerObjectMax = 128;

  ObjectIndex();

  // The number of the object's entry, which stays the same until it is erased; kNone: not there.
  uint32_t Find(const ObjectName& name) const;
  // Adds the object, or changes the size of the one that is there; either way it is now the newest.
  // kNone when kObjectsMax is reached.
  uint32_t Insert(const ObjectName& name, uint64_t bytes);
  void Erase(uint32_t id);
  // Makes it the newest.
  void Touch(uint32_t id);
  // A use of a segment or of its marker is a use of both: makes them the two newest, the marker
  // last, so that they also leave together.
  void TouchWithMarker(uint32_t id);
  // What goes first when `id` has to go: the marker of a segment, if it is there, else itself. So
  // nobody finds a marker whose segment was evicted.
  uint32_t NextVictim(uint32_t id) const;

  const ObjectName& name(uint32_t id) const { return entry(id).name; }
  uint64_t bytes(uint32_t id) const { return entry(id).bytes; }
  // 16 bits of the owner's; 0 for a new entry.
  uint16_t mark(uint32_t id) const { return static_cast<uint16_t>(entry(id).mark); }
  void set_mark(uint32_t id, uint16_t mark) { entry(id).mark = mark; }

  // From the least to the most recently used; kNone at the end.
  uint32_t oldest() const { return oldest_; }
  uint32_t newer(uint32_t id) const { return entry(id).newer; }

  size_t object_count() const { return object_count_; }
  uint64_t total_bytes() const { return total_bytes_; }
  size_t memory_bytes() const;

 private:
  struct Entry {
    ObjectName name;
    uint64_t bytes : 48;
    uint64_t mark : 16;
    uint32_t newer;
    uint32_t older;  // of a free entry: the next free one
  };
  static_assert(sizeof(Entry) == 64);
  struct Bucket {
    uint32_t id = kNone;
    uint32_t tag = 0;  // low half of the hash; its low bits are the bucket's home
  };
  static_assert(sizeof(Bucket) == 8);
  static constexpr size_t kBlockEntries = 1024;
  // Load factor bounds: grow at 0.7, to 0.35. While growing, old and new table exist.
  static_assert(sizeof(Entry) + sizeof(Bucket) * 20 / 7 + sizeof(Bucket) * 10 / 7 <
                kBytesPerObjectMax);

  Entry& entry(uint32_t id) { return blocks_[id / kBlockEntries][id % kBlockEntries]; }
  const Entry& entry(uint32_t id) const { return blocks_[id / kBlockEntries][id % kBlockEntries]; }
  // The bucket that holds the name, or the empty one where its probe ends.
  size_t Probe(const ObjectName& name, uint32_t tag) const;
  void RemoveBucket(size_t hole);
  void GrowTable();
  uint32_t TakeEntry();
  void LinkNewest(uint32_t id);
  void Unlink(uint32_t id);

  std::vector<std::unique_ptr<Entry[]>> blocks_;
  std::vector<Bucket> buckets_;  // size is a power of two
  uint32_t free_ = kNone;
  uint32_t used_entries_ = 0;  // entries ever handed out
  uint32_t oldest_ = kNone;
  uint32_t newest_ = kNone;
  size_t object_count_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_OBJECT_INDEX_H_
