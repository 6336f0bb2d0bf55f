#include "pipeline/lookup_pipeline.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace shadowserve {
namespace {

// Tag of a question: slot and unit.
constexpr uint32_t kUnitBits = 40;

}  // namespace

LookupPipeline::LookupPipeline(StorePort* store) : store_(store), lookups_(kLookupsMax) {
  free_.reserve(kLookupsMax);
  active_.reserve(kLookupsMax);
  for (uint32_t i = kLookupsMax; i > 0; --i) free_.push_back(i - 1);
}

LookupPipeline::~LookupPipeline() {
  SS_CHECK(idle(), "a lookup outlived its pipeline");
}

ObjectName LookupPipeline::UnitName(const Spec& spec, uint32_t unit) {
  const uint32_t groups = spec.shape.head_groups;
  const uint32_t ranges = RangeCount(spec.shape);
  const LayerRange layers = RangeAt(spec.shape, unit / groups % ranges);
  ObjectName name;
  name.key = spec.keys[unit / groups / ranges];
  name.profile = spec.form.profile;
  name.codec = spec.form.codec;
  name.kind = ObjectKind::kMarker;
  name.first_layer = static_cast<uint16_t>(layers.first);
  name.layer_count = static_cast<uint16_t>(layers.count);
  name.head_group = static_cast<uint16_t>(unit % groups);
  name.head_groups = static_cast<uint16_t>(groups);
  return name;
}

uint32_t LookupPipeline::CountIndexed(const Spec& spec, uint32_t units_per_chunk) const {
  const auto units = static_cast<uint32_t>(spec.keys.size()) * units_per_chunk;
  uint32_t unit = 0;
  while (unit < units && store_->MayContain(UnitName(spec, unit))) ++unit;
  return unit / units_per_chunk;
}

void LookupPipeline::Start(Spec&& spec, Done done) {
  const uint32_t units_per_chunk = RangeCount(spec.shape) * spec.shape.head_groups;
  if (store_->has_index() || spec.keys.empty()) {
    return done(StatusCode::kOk, CountIndexed(spec, units_per_chunk));
  }
  if (free_.empty()) return done(StatusCode::kExhausted, 0);
  const uint32_t slot = free_.back();
  free_.pop_back();
  active_.push_back(slot);
  Lookup& lookup = lookups_[slot];
  lookup.units_per_chunk = units_per_chunk;
  lookup.next = 0;
  lookup.end = static_cast<uint32_t>(spec.keys.size()) * units_per_chunk;
  lookup.failure = StatusCode::kOk;
  std::swap(lookup.spec, spec);
  lookup.done = std::move(done);
  (void)Ask(slot);
}

bool LookupPipeline::Ask(uint32_t slot) {
  Lookup& lookup = lookups_[slot];
  const uint32_t first = lookup.next;
  while (lookup.next < lookup.end && lookup.inflight < kAsksPerLookupMax && inflight_ < kAsksMax) {
    const uint64_t tag = uint64_t{slot} << kUnitBits | lookup.next;
    if (!store_->Submit(this, StoreOp::kExists, UnitName(lookup.spec, lookup.next), {}, tag)) break;
    ++lookup.next;
    ++lookup.inflight;
    ++inflight_;
  }
  return lookup.next > first;
}

bool LookupPipeline::Turn() {
  bool moved = false;
  for (const uint32_t slot : active_) moved = Ask(slot) || moved;
  // Whoever asked first was served first: next time another one is.
  if (moved && active_.size() > 1) std::rotate(active_.begin(), active_.begin() + 1, active_.end());
  return moved;
}

void LookupPipeline::OnStore(uint64_t tag, StatusCode code, uint64_t /*bytes*/) {
  const auto slot = static_cast<uint32_t>(tag >> kUnitBits);
  const auto unit = static_cast<uint32_t>(tag & ((uint64_t{1} << kUnitBits) - 1));
  Lookup& lookup = lookups_[slot];
  --lookup.inflight;
  --inflight_;
  if (code != StatusCode::kOk && unit < lookup.end) {
    lookup.end = unit;
    lookup.failure = code == StatusCode::kNotFound ? StatusCode::kOk : code;
  }
  FinishIfDone(slot);
}

void LookupPipeline::FinishIfDone(uint32_t slot) {
  Lookup& lookup = lookups_[slot];
  if (lookup.inflight > 0 || lookup.next < lookup.end) return;
  const uint32_t chunks = lookup.end / lookup.units_per_chunk;
  const StatusCode code = chunks > 0 ? StatusCode::kOk : lookup.failure;
  const Done done = std::move(lookup.done);
  active_.erase(std::find(active_.begin(), active_.end(), slot));
  free_.push_back(slot);
  done(code, chunks);
}

}  // namespace shadowserve
