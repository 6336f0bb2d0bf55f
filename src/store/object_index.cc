#include "store/object_index.h"

#include "base/check.h"

namespace shadowserve {
namespace {

constexpr size_t kBucketsMin = 64;
constexpr uint64_t kObjectBytesMax = (uint64_t{1} << 48) - 1;

uint32_t TagOf(const ObjectName& name) {
  return static_cast<uint32_t>(ObjectNameHash()(name));
}

}  // namespace

ObjectIndex::ObjectIndex() : buckets_(kBucketsMin) {}

size_t ObjectIndex::Probe(const ObjectName& name, uint32_t tag) const {
  const size_t mask = buckets_.size() - 1;
  size_t at = tag & mask;
  while (buckets_[at].id != kNone &&
         (buckets_[at].tag != tag || entry(buckets_[at].id).name != name)) {
    at = (at + 1) & mask;
  }
  return at;
}

uint32_t ObjectIndex::Find(const ObjectName& name) const {
  return buckets_[Probe(name, TagOf(name))].id;
}

uint32_t ObjectIndex::TakeEntry() {
  if (free_ != kNone) {
    const uint32_t id = free_;
    free_ = entry(id).older;
    return id;
  }
  if (used_entries_ == kObjectsMax) return kNone;
  if (used_entries_ % kBlockEntries == 0) {
    blocks_.push_back(std::make_unique_for_overwrite<Entry[]>(kBlockEntries));
  }
  return used_entries_++;
}

uint32_t ObjectIndex::Insert(const ObjectName& name, uint64_t bytes) {
  SS_CHECK(bytes <= kObjectBytesMax, "object size");
  const uint32_t tag = TagOf(name);
  size_t at = Probe(name, tag);
  if (const uint32_t id = buckets_[at].id; id != kNone) {
    total_bytes_ = total_bytes_ - entry(id).bytes + bytes;
    entry(id).bytes = bytes & kObjectBytesMax;
    Touch(id);
    return id;
  }
  const uint32_t id = TakeEntry();
  if (id == kNone) return kNone;
  if ((object_count_ + 1) * 10 > buckets_.size() * 7) {
    GrowTable();
    at = Probe(name, tag);
  }
  buckets_[at] = {id, tag};
  Entry& added = entry(id);
  added.name = name;
  added.bytes = bytes & kObjectBytesMax;
  added.mark = 0;
  LinkNewest(id);
  ++object_count_;
  total_bytes_ += bytes;
  return id;
}

void ObjectIndex::Erase(uint32_t id) {
  Entry& gone = entry(id);
  RemoveBucket(Probe(gone.name, TagOf(gone.name)));
  Unlink(id);
  --object_count_;
  total_bytes_ -= gone.bytes;
  gone.older = free_;
  free_ = id;
}

void ObjectIndex::Touch(uint32_t id) {
  if (id == newest_) return;
  Unlink(id);
  LinkNewest(id);
}

void ObjectIndex::TouchWithMarker(uint32_t id) {
  for (ObjectKind kind : {ObjectKind::kSegment, ObjectKind::kMarker}) {
    const uint32_t part = Find(name(id).AsKind(kind));
    if (part != kNone) Touch(part);
  }
}

uint32_t ObjectIndex::NextVictim(uint32_t id) const {
  const uint32_t marker = Find(name(id).AsKind(ObjectKind::kMarker));
  return marker == kNone ? id : marker;
}

// Linear probing without tombstones: entries behind the hole move up when their home allows it.
void ObjectIndex::RemoveBucket(size_t hole) {
  const size_t mask = buckets_.size() - 1;
  for (size_t at = (hole + 1) & mask; buckets_[at].id != kNone; at = (at + 1) & mask) {
    const size_t home = buckets_[at].tag & mask;
    // Distance from home, around the table: it may move iff the hole lies between home and here.
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      buckets_[hole] = buckets_[at];
      hole = at;
    }
  }
  buckets_[hole] = {};
}

void ObjectIndex::GrowTable() {
  std::vector<Bucket> larger(buckets_.size() * 2);
  const size_t mask = larger.size() - 1;
  for (const Bucket& bucket : buckets_) {
    if (bucket.id == kNone) continue;
    size_t at = bucket.tag & mask;
    while (larger[at].id != kNone) at = (at + 1) & mask;
    larger[at] = bucket;
  }
  buckets_ = std::move(larger);
}

void ObjectIndex::LinkNewest(uint32_t id) {
  entry(id).newer = kNone;
  entry(id).older = newest_;
  (newest_ == kNone ? oldest_ : entry(newest_).newer) = id;
  newest_ = id;
}

void ObjectIndex::Unlink(uint32_t id) {
  const uint32_t older = entry(id).older;
  const uint32_t newer = entry(id).newer;
  (older == kNone ? oldest_ : entry(older).newer) = newer;
  (newer == kNone ? newest_ : entry(newer).older) = older;
}

size_t ObjectIndex::memory_bytes() const {
  return blocks_.capacity() * sizeof(blocks_[0]) + blocks_.size() * kBlockEntries * sizeof(Entry) +
         buckets_.capacity() * sizeof(Bucket);
}

}  // namespace shadowserve
