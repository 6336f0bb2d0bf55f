#include "store/object_index.h"

#include "base/check.h"

namespace shadowserve {
namespace {

constexpr size_t kBucketsMin = 64;
uint32_t KindBit(ObjectKind kind) {
  return kind == ObjectKind::kMarker ? 1 : 0;
}

}  // namespace

ObjectIndex::ObjectIndex() : buckets_(kBucketsMin) {}

void ObjectIndex::SetSegmentBytes(Entry& entry, uint64_t bytes) {
  entry.segment_bytes_high = static_cast<uint16_t>(bytes >> 32);
  entry.segment_bytes_low = static_cast<uint32_t>(bytes);
}

bool ObjectIndex::Has(const Entry& entry, uint32_t kind) {
  return kind == kMarkerBit ? entry.marker_bytes != kNoMarker : SegmentBytes(entry) != kNoSegment;
}

uint64_t ObjectIndex::BytesOf(const Entry& entry, uint32_t kind) {
  return kind == kMarkerBit ? entry.marker_bytes : SegmentBytes(entry);
}

void ObjectIndex::SetBytes(Entry& entry, uint32_t kind, uint64_t bytes) {
  if (kind == kMarkerBit) {
    entry.marker_bytes = static_cast<uint32_t>(bytes);
  } else {
    SetSegmentBytes(entry, bytes);
  }
}

bool ObjectIndex::SameName(const Entry& entry, const ObjectName& name) {
  return entry.key == name.key && entry.profile == name.profile && entry.codec == name.codec &&
         entry.first_layer == name.first_layer && entry.layer_count == name.layer_count &&
         entry.head_group == name.head_group && entry.head_groups == name.head_groups;
}

// The same for a segment and its marker.
uint32_t ObjectIndex::TagOf(const ObjectName& name) {
  return static_cast<uint32_t>(ObjectNameHash()(name.AsKind(ObjectKind::kSegment)));
}

ObjectName ObjectIndex::NameOf(const Entry& entry, uint32_t kind) const {
  ObjectName name;
  name.key = entry.key;
  name.profile = entry.profile;
  name.codec = entry.codec;
  name.kind = kind == kMarkerBit ? ObjectKind::kMarker : ObjectKind::kSegment;
  name.first_layer = entry.first_layer;
  name.layer_count = entry.layer_count;
  name.head_group = entry.head_group;
  name.head_groups = entry.head_groups;
  return name;
}

ObjectName ObjectIndex::name(uint32_t id) const {
  return NameOf(entry(id), id % 2);
}

uint64_t ObjectIndex::bytes(uint32_t id) const {
  return BytesOf(entry(id), id % 2);
}

uint32_t ObjectIndex::FirstOf(uint32_t number) const {
  if (number == kNone) return kNone;
  return number * 2 + (Has(at(number), kMarkerBit) ? kMarkerBit : kSegmentBit);
}

uint32_t ObjectIndex::newer(uint32_t id) const {
  if (id % 2 == kMarkerBit && Has(entry(id), kSegmentBit)) return id - kMarkerBit;
  return FirstOf(entry(id).newer);
}

size_t ObjectIndex::Probe(const ObjectName& name, uint32_t tag) const {
  const size_t mask = buckets_.size() - 1;
  size_t place = tag & mask;
  while (buckets_[place].entry != kNone &&
         (buckets_[place].tag != tag || !SameName(at(buckets_[place].entry), name))) {
    place = (place + 1) & mask;
  }
  return place;
}

uint32_t ObjectIndex::Find(const ObjectName& name) const {
  const uint32_t number = buckets_[Probe(name, TagOf(name))].entry;
  const uint32_t kind = KindBit(name.kind);
  return number == kNone || !Has(at(number), kind) ? kNone : number * 2 + kind;
}

uint32_t ObjectIndex::TakeEntry() {
  if (free_ != kNone) {
    const uint32_t number = free_;
    free_ = at(number).older;
    return number;
  }
  if (used_entries_ == kSegmentsMax) return kNone;
  if (used_entries_ % kBlockEntries == 0) {
    blocks_.push_back(std::make_unique_for_overwrite<Entry[]>(kBlockEntries));
  }
  return used_entries_++;
}

uint32_t ObjectIndex::Insert(const ObjectName& name, uint64_t bytes) {
  const uint32_t kind = KindBit(name.kind);
  if (kind == kMarkerBit && bytes >= kNoMarker) return kNone;
  SS_CHECK(bytes < kNoSegment, "object size");
  const uint32_t tag = TagOf(name);
  size_t place = Probe(name, tag);
  uint32_t number = buckets_[place].entry;
  if (number == kNone) {
    number = TakeEntry();
    if (number == kNone) return kNone;
    if ((entry_count_ + 1) * 10 > buckets_.size() * 7) {
      GrowTable();
      place = Probe(name, tag);
    }
    buckets_[place] = {number, tag};
    Entry& added = at(number);
    added = Entry{name.key,
                  name.profile,
                  name.codec,
                  name.first_layer,
                  name.layer_count,
                  name.head_group,
                  name.head_groups,
                  {0, 0},
                  0,
                  0,
                  kNoMarker,
                  kNone,
                  kNone};
    SetSegmentBytes(added, kNoSegment);
    LinkNewest(number);
    ++entry_count_;
  }
  Entry& entry = at(number);
  if (Has(entry, kind)) {
    total_bytes_ -= BytesOf(entry, kind);
  } else {
    entry.mark[kind] = 0;
    ++object_count_;
  }
  SetBytes(entry, kind, bytes);
  total_bytes_ += bytes;
  const uint32_t id = number * 2 + kind;
  Touch(id);
  return id;
}

void ObjectIndex::Erase(uint32_t id) {
  const uint32_t number = id / 2;
  const uint32_t kind = id % 2;
  Entry& gone = at(number);
  --object_count_;
  total_bytes_ -= BytesOf(gone, kind);
  SetBytes(gone, kind, kind == kMarkerBit ? kNoMarker : kNoSegment);
  if (Has(gone, kMarkerBit) || Has(gone, kSegmentBit)) return;
  const ObjectName name = NameOf(gone, kSegmentBit);
  RemoveBucket(Probe(name, TagOf(name)));
  Unlink(number);
  --entry_count_;
  gone.older = free_;
  free_ = number;
}

void ObjectIndex::Touch(uint32_t id) {
  const uint32_t number = id / 2;
  if (number == newest_) return;
  Unlink(number);
  LinkNewest(number);
}

uint32_t ObjectIndex::NextVictim(uint32_t id) const {
  return FirstOf(id / 2);
}

// Linear probing without tombstones: entries behind the hole move up when their home allows it.
void ObjectIndex::RemoveBucket(size_t hole) {
  const size_t mask = buckets_.size() - 1;
  for (size_t place = (hole + 1) & mask; buckets_[place].entry != kNone;
       place = (place + 1) & mask) {
    const size_t home = buckets_[place].tag & mask;
    // Distance from home, around the table: it may move iff the hole lies between home and here.
    if (((place - home) & mask) >= ((place - hole) & mask)) {
      buckets_[hole] = buckets_[place];
      hole = place;
    }
  }
  buckets_[hole] = {};
}

void ObjectIndex::GrowTable() {
  std::vector<Bucket> larger(buckets_.size() * 2);
  const size_t mask = larger.size() - 1;
  for (const Bucket& bucket : buckets_) {
    if (bucket.entry == kNone) continue;
    size_t place = bucket.tag & mask;
    while (larger[place].entry != kNone) place = (place + 1) & mask;
    larger[place] = bucket;
  }
  buckets_ = std::move(larger);
}

void ObjectIndex::LinkNewest(uint32_t number) {
  at(number).newer = kNone;
  at(number).older = newest_;
  (newest_ == kNone ? oldest_ : at(newest_).newer) = number;
  newest_ = number;
}

void ObjectIndex::Unlink(uint32_t number) {
  const uint32_t older = at(number).older;
  const uint32_t newer = at(number).newer;
  (older == kNone ? oldest_ : at(older).newer) = newer;
  (newer == kNone ? newest_ : at(newer).older) = older;
}

size_t ObjectIndex::memory_bytes() const {
  return blocks_.capacity() * sizeof(blocks_[0]) + blocks_.size() * kBlockEntries * sizeof(Entry) +
         buckets_.capacity() * sizeof(Bucket);
}

}  // namespace shadowserve
