#include "base/metrics.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace shadowserve {
namespace {

template <typename Label, size_t N>
std::string_view NameIn(const std::array<std::string_view, N>& names, Label label) {
  static_assert(N == static_cast<size_t>(Label::kCount), "one name per label value");
  const auto index = static_cast<size_t>(label);
  SS_CHECK(index < N, "kCount is no label value");
  return names[index];
}

class RowList {
 public:
  template <typename Instrument>
  void Add(std::string_view name, MetricType type, std::string_view help,
           const Instrument& instrument, MetricLabel first = {}, MetricLabel second = {}) {
    rows_.push_back({name, type, help, {first, second}, &instrument});
  }

  // One row per value of the label.
  template <typename Label, typename Instrument>
  void AddEach(std::string_view name, MetricType type, std::string_view help,
               std::string_view label_key, const Labelled<Label, Instrument>& instruments) {
    for (size_t i = 0; i < Labelled<Label, Instrument>::kSize; ++i) {
      const auto label = static_cast<Label>(i);
      Add(name, type, help, instruments[label], {label_key, LabelName(label)});
    }
  }

  std::vector<MetricRow> Take() { return std::move(rows_); }

 private:
  std::vector<MetricRow> rows_;
};

void AddFetchRows(const Metrics& metrics, RowList& rows) {
  rows.AddEach(
      "shadowserve_lookups_total", MetricType::kCounter,
      "Lookups answered: every asked chunk present (hit), a prefix of them (partial), none "
      "(miss), or no answer from the store (error).",
      "result", metrics.lookups);
  rows.Add("shadowserve_fetch_tokens_total", MetricType::kCounter,
           "Prompt tokens whose KV was written into an engine's pages; each rank counts its own.",
           metrics.fetch_tokens);
  rows.AddEach("shadowserve_fetch_requests_total", MetricType::kCounter,
               "Loads that ended, one per attempt and rank, by how they ended.", "result",
               metrics.fetch_requests);
  rows.AddEach("shadowserve_wire_bytes_total", MetricType::kCounter,
               "Bytes of objects read from the store (in) and written to it (out).", "direction",
               metrics.wire_bytes);
  rows.AddEach("shadowserve_kv_bytes_total", MetricType::kCounter,
               "Bytes of KV written into engines' pages (in) and read from them (out).",
               "direction", metrics.kv_bytes);
  rows.AddEach("shadowserve_stage_busy_seconds_total", MetricType::kCounter,
               "Seconds that a stage had work in hand, summed over its threads.", "stage",
               metrics.stage_busy);
  rows.AddEach("shadowserve_stage_inflight", MetricType::kGauge,
               "Segments inside a stage at this moment.", "stage", metrics.stage_inflight);
  rows.AddEach("shadowserve_stage_bytes_total", MetricType::kCounter,
               "Bytes of memory that a stage read and wrote: what one pass over data touches, each "
               "pass counted.",
               "stage", metrics.stage_bytes);
  rows.Add("shadowserve_fetch_seconds", MetricType::kHistogram,
           "Seconds from a load's arrival to its last byte in the pages; successful loads only.",
           metrics.fetch_seconds);
}

void AddMemoryAndSaveRows(const Metrics& metrics, RowList& rows) {
  for (const auto pool : {PoolLabel::kFetch, PoolLabel::kSave}) {
    for (const auto state : {SlabStateLabel::kFree, SlabStateLabel::kUsed}) {
      rows.Add("shadowserve_slabs", MetricType::kGauge, "Slabs by pool and state.",
               metrics.slabs[pool][state], {"pool", LabelName(pool)}, {"state", LabelName(state)});
    }
  }
  rows.AddEach("shadowserve_saves_total", MetricType::kCounter,
               "Chunks that an engine offered and that are in the store now: written (stored), or "
               "there before (present); each rank counts its own.",
               "result", metrics.saves);
  rows.AddEach(
      "shadowserve_saves_dropped_total", MetricType::kCounter,
      "Chunks that an engine offered and that were not stored, by reason; each rank counts "
      "its own.",
      "reason", metrics.saves_dropped);
  rows.AddEach("shadowserve_corrupt_total", MetricType::kCounter,
               "Stored objects that failed a check and were treated as absent, by what was wrong.",
               "reason", metrics.corrupt);
  rows.AddEach("shadowserve_sessions", MetricType::kGauge, "Sessions of engines open now.", "role",
               metrics.sessions);
  rows.Add("shadowserve_store_objects", MetricType::kGauge,
           "Objects in the store; 0 when it cannot tell.", metrics.store_objects);
  rows.Add("shadowserve_store_bytes", MetricType::kGauge,
           "Bytes of objects in the store; 0 when it cannot tell.", metrics.store_bytes);
}

void AddCodecEngineRows(const Metrics& metrics, RowList& rows) {
  rows.Add("shadowserve_codec_engine_up", MetricType::kGauge,
           "1 while a hardware codec engine answers; 0 when none is configured, or it is gone for "
           "a thread.",
           metrics.codec_engine_up);
  rows.Add("shadowserve_codec_engine_inflight", MetricType::kGauge,
           "Blocks at the codec engine at this moment.", metrics.codec_engine_inflight);
  rows.Add("shadowserve_codec_engine_blocks_total", MetricType::kCounter,
           "Blocks that the codec engine decoded.", metrics.codec_engine_blocks);
  rows.AddEach("shadowserve_codec_engine_bytes_total", MetricType::kCounter,
               "Bytes that the codec engine read (coded) and wrote (symbols).", "kind",
               metrics.codec_engine_bytes);
  rows.AddEach("shadowserve_codec_engine_fallbacks_total", MetricType::kCounter,
               "Coded blocks that software decoded although a codec engine is configured, by why.",
               "reason", metrics.codec_engine_fallbacks);
}

void AddServerRows(const Metrics& metrics, RowList& rows) {
  for (const ServerMetrics& server : metrics.store_servers.rows()) {
    if (ServerTable::IsShared(server)) continue;
    rows.Add("shadowserve_store_breaker_state", MetricType::kGauge,
             "Circuit breaker of a server of the store: 0 closed, 1 half-open, 2 open.",
             server.breaker, {"server", server.name});
  }
  for (const ServerMetrics& server : metrics.store_servers.rows()) {
    for (size_t i = 0; i < static_cast<size_t>(ServerEventLabel::kCount); ++i) {
      const auto event = static_cast<ServerEventLabel>(i);
      rows.Add("shadowserve_store_server_events_total", MetricType::kCounter,
               "What happened with a server of the store.", server.events[event],
               {"server", server.name}, {"event", LabelName(event)});
    }
  }
}

}  // namespace

void Histogram::Observe(double seconds) {
  if (!(seconds > 0)) seconds = 0;  // also NaN
  const auto bound = std::lower_bound(kBoundsSeconds.begin(), kBoundsSeconds.end(), seconds);
  counts_[static_cast<size_t>(bound - kBoundsSeconds.begin())].fetch_add(1,
                                                                         std::memory_order_relaxed);
  // A year bounds the sum's step, so that no single value can overflow the conversion.
  constexpr double kYearSeconds = 365.0 * 86400;
  sum_.AddNs(static_cast<int64_t>(std::min(seconds, kYearSeconds) * 1e9));
}

Histogram::Snapshot Histogram::Take() const {
  Snapshot snapshot;
  for (size_t i = 0; i < counts_.size(); ++i) {
    snapshot.counts[i] = counts_[i].load(std::memory_order_relaxed);
    snapshot.count += snapshot.counts[i];
  }
  snapshot.sum_seconds = sum_.seconds();
  return snapshot;
}

std::string_view LabelName(LookupLabel label) {
  return NameIn(std::to_array<std::string_view>({"hit", "partial", "miss", "error"}), label);
}

std::string_view LabelName(FetchLabel label) {
  return NameIn(std::to_array<std::string_view>({"ok", "failed_not_found", "failed_corrupt",
                                                 "cancelled", "deadline", "unavailable", "other"}),
                label);
}

std::string_view LabelName(DirectionLabel label) {
  return NameIn(std::to_array<std::string_view>({"in", "out"}), label);
}

std::string_view LabelName(StageLabel label) {
  return NameIn(std::to_array<std::string_view>(
                    {"network", "decode", "dequantize", "write", "read", "quantize", "encode"}),
                label);
}

std::string_view LabelName(PoolLabel label) {
  return NameIn(std::to_array<std::string_view>({"fetch", "save"}), label);
}

std::string_view LabelName(SlabStateLabel label) {
  return NameIn(std::to_array<std::string_view>({"free", "used"}), label);
}

std::string_view LabelName(SaveLabel label) {
  return NameIn(std::to_array<std::string_view>({"stored", "present"}), label);
}

std::string_view LabelName(DropLabel label) {
  return NameIn(std::to_array<std::string_view>({"no_slab", "queue_full", "not_held", "store_full",
                                                 "store_error", "engine_gone", "read_error",
                                                 "shutdown", "quota"}),
                label);
}

std::string_view LabelName(CodecFallbackLabel label) {
  return NameIn(std::to_array<std::string_view>({"codec", "size", "refused", "failed", "gone"}),
                label);
}

std::string_view LabelName(CodecBytesLabel label) {
  return NameIn(std::to_array<std::string_view>({"coded", "symbols"}), label);
}

std::string_view LabelName(CorruptLabel label) {
  return NameIn(std::to_array<std::string_view>({"segment", "marker", "block", "name", "auth"}),
                label);
}

std::string_view LabelName(RoleLabel label) {
  return NameIn(std::to_array<std::string_view>({"scheduler", "worker"}), label);
}

std::string_view LabelName(ServerEventLabel label) {
  return NameIn(std::to_array<std::string_view>({"opened", "probe", "reconnect", "timeout", "moved",
                                                 "ask", "replica_read", "replica_retry"}),
                label);
}

std::string_view BreakerStateName(BreakerState state) {
  switch (state) {
    case BreakerState::kClosed:
      return "closed";
    case BreakerState::kHalfOpen:
      return "half-open";
    case BreakerState::kOpen:
      break;
  }
  return "open";
}

ServerMetrics* ServerTable::RowOf(std::string_view name) {
  const size_t count = count_.load(std::memory_order_relaxed);  // only this thread changes it
  for (ServerMetrics& row : std::span(rows_).first(count)) {
    if (row.name == name) return &row;
  }
  if (count == rows_.size()) return &rows_.back();
  rows_[count].name = count == kServersMax ? kOthers : name;
  count_.store(count + 1, std::memory_order_release);
  return &rows_[count];
}

FetchLabel FetchLabelOf(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return FetchLabel::kOk;
    case StatusCode::kNotFound:
      return FetchLabel::kNotFound;
    case StatusCode::kCorrupt:
      return FetchLabel::kCorrupt;
    case StatusCode::kCancelled:
      return FetchLabel::kCancelled;
    case StatusCode::kDeadline:
      return FetchLabel::kDeadline;
    case StatusCode::kUnavailable:
      return FetchLabel::kUnavailable;
    case StatusCode::kExhausted:
    case StatusCode::kInvalidArgument:
    case StatusCode::kUnsupported:
    case StatusCode::kInternal:
      break;
  }
  return FetchLabel::kOther;
}

std::string_view MetricTypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      break;
  }
  return "histogram";
}

double MetricRow::Value() const {
  if (const auto* counter = std::get_if<const Counter*>(&source)) {
    return static_cast<double>((*counter)->value());
  }
  if (const auto* gauge = std::get_if<const Gauge*>(&source)) {
    return static_cast<double>((*gauge)->value());
  }
  const auto* busy = std::get_if<const BusyTime*>(&source);
  SS_CHECK(busy != nullptr, "a histogram has no single value");
  return (*busy)->seconds();
}

std::vector<MetricRow> Rows(const Metrics& metrics) {
  RowList rows;
  AddFetchRows(metrics, rows);
  AddMemoryAndSaveRows(metrics, rows);
  AddCodecEngineRows(metrics, rows);
  AddServerRows(metrics, rows);
  return rows.Take();
}

}  // namespace shadowserve
