// ObjectIndex: which objects a store holds, their sizes, and the order in which they were last
// used.
//
// A segment and its marker share one entry of 64 bytes, in blocks that never move, plus an
// open-addressing table of 8-byte buckets (hash tag and entry number, load factor 0.35 to 0.7):
// under 100 bytes for both, also while the table grows; kBytesPerSegmentMax is the promise. Growth
// copies 8-byte buckets only, so it costs a few nanoseconds per entry, amortised; nothing shrinks.
// Find, Touch and Erase allocate nothing. Bounded by kSegmentsMax. Not thread-safe.
//
// Order of use is that of entries: a use of a segment or of its marker is a use of both, and they
// leave together, the marker first, so that nobody finds a marker whose segment was evicted.
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
  static constexpr uint32_t kSegmentsMax = uint32_t{1} << 30;
  static constexpr size_t kBytesPerSegmentMax = 128;  // with its marker

  ObjectIndex();

  // The number of the object, which stays the same until it is erased; kNone: not there.
  uint32_t Find(const ObjectName& name) const;
  // Adds the object, or changes the size of the one that is there; either way it is now the newest.
  // kNone when kSegmentsMax is reached, or for a marker of 4 GiB.
  uint32_t Insert(const ObjectName& name, uint64_t bytes);
  void Erase(uint32_t id);
  // Makes it, with its segment or marker, the newest.
  void Touch(uint32_t id);
  // What goes first when `id` has to go: the marker of a segment, if it is there, else itself.
  uint32_t NextVictim(uint32_t id) const;

  ObjectName name(uint32_t id) const;
  uint64_t bytes(uint32_t id) const;
  // 16 bits of the owner's; 0 for a new object.
  uint16_t mark(uint32_t id) const { return entry(id).mark[id % 2]; }
  void set_mark(uint32_t id, uint16_t mark) { entry(id).mark[id % 2] = mark; }

  // From the least to the most recently used, a marker before its segment; kNone at the end.
  uint32_t oldest() const { return FirstOf(oldest_); }
  uint32_t newer(uint32_t id) const;

  size_t object_count() const { return object_count_; }
  uint64_t total_bytes() const { return total_bytes_; }
  size_t memory_bytes() const;

 private:
  // An object's number is its entry's, doubled, plus its kind.
  enum : uint32_t { kSegmentBit = 0, kMarkerBit = 1 };
  static constexpr uint64_t kNoSegment = (uint64_t{1} << 48) - 1;
  static constexpr uint32_t kNoMarker = UINT32_MAX;
  struct Entry {
    ChunkKey key;
    Profile profile;
    CodecId codec;
    uint16_t first_layer;
    uint16_t layer_count;
    uint16_t head_group;
    uint16_t head_groups;
    uint16_t mark[2];             // by kind
    uint16_t segment_bytes_high;  // kNoSegment: only the marker is there
    uint32_t segment_bytes_low;
    uint32_t marker_bytes;
    uint32_t newer;
    uint32_t older;  // of a free entry: the next free one
  };
  static_assert(sizeof(Entry) == 64);
  struct Bucket {
    uint32_t entry = kNone;
    uint32_t tag = 0;  // low half of the hash; its low bits are the bucket's home
  };
  static_assert(sizeof(Bucket) == 8);
  static constexpr size_t kBlockEntries = 1024;
  // Load factor bounds: grow at 0.7, to 0.35. While growing, old and new table exist.
  static_assert(sizeof(Entry) + sizeof(Bucket) * 20 / 7 + sizeof(Bucket) * 10 / 7 <
                kBytesPerSegmentMax);

  Entry& at(uint32_t number) { return blocks_[number / kBlockEntries][number % kBlockEntries]; }
  const Entry& at(uint32_t number) const {
    return blocks_[number / kBlockEntries][number % kBlockEntries];
  }
  Entry& entry(uint32_t id) { return at(id / 2); }
  const Entry& entry(uint32_t id) const { return at(id / 2); }
  static uint64_t SegmentBytes(const Entry& entry) {
    return uint64_t{entry.segment_bytes_high} << 32 | entry.segment_bytes_low;
  }
  static void SetSegmentBytes(Entry& entry, uint64_t bytes);
  static bool Has(const Entry& entry, uint32_t kind);
  static uint64_t BytesOf(const Entry& entry, uint32_t kind);
  static void SetBytes(Entry& entry, uint32_t kind, uint64_t bytes);
  static bool SameName(const Entry& entry, const ObjectName& name);
  static uint32_t TagOf(const ObjectName& name);
  ObjectName NameOf(const Entry& entry, uint32_t kind) const;
  // The first object of an entry in order; kNone for kNone.
  uint32_t FirstOf(uint32_t number) const;
  // The bucket that holds the name's entry, or the empty one where its probe ends.
  size_t Probe(const ObjectName& name, uint32_t tag) const;
  void RemoveBucket(size_t hole);
  void GrowTable();
  uint32_t TakeEntry();
  void LinkNewest(uint32_t number);
  void Unlink(uint32_t number);

  std::vector<std::unique_ptr<Entry[]>> blocks_;
  std::vector<Bucket> buckets_;  // size is a power of two
  uint32_t free_ = kNone;
  uint32_t used_entries_ = 0;  // entries ever handed out
  size_t entry_count_ = 0;     // in use
  uint32_t oldest_ = kNone;
  uint32_t newest_ = kNone;
  size_t object_count_ = 0;
  uint64_t total_bytes_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_OBJECT_INDEX_H_
