// What the data plane counts about itself. One Metrics object is made in main and passed by
// reference to whoever counts; an exporter and the documentation test read it through Rows().
// docs/metrics.md has the same rows as Rows(), and a test compares them.
//
// Thread-safe, wait-free and without allocation, but for Rows() and ServerTable::RowOf: every value
// is one relaxed atomic.
// Relaxed is enough: no reader draws conclusions from the order of two values.
#ifndef SHADOWSERVE_BASE_METRICS_H_
#define SHADOWSERVE_BASE_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "base/stage_trace.h"

namespace shadowserve {

// Only ever grows.
class Counter {
 public:
  void Add(uint64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_ = 0;
};

// A level: goes up and down.
class Gauge {
 public:
  void Set(int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void Add(int64_t n) { value_.fetch_add(n, std::memory_order_relaxed); }
  int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_ = 0;
};

// Time spent working: kept in whole nanoseconds, exported in seconds. Negative spans count as 0.
class BusyTime {
 public:
  void AddNs(int64_t ns) {
    if (ns > 0) value_ns_.fetch_add(ns, std::memory_order_relaxed);
  }
  int64_t value_ns() const { return value_ns_.load(std::memory_order_relaxed); }
  double seconds() const { return static_cast<double>(value_ns()) * 1e-9; }

 private:
  std::atomic<int64_t> value_ns_ = 0;
};

// How often a duration fell at or below each bound. Negative values and NaN count as 0 s.
class Histogram {
 public:
  static constexpr std::array<double, 14> kBoundsSeconds = {
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0};

  struct Snapshot {
    // counts[i]: at or below kBoundsSeconds[i] and above the bound before it; the last: above all.
    std::array<uint64_t, kBoundsSeconds.size() + 1> counts = {};
    uint64_t count = 0;  // the sum of counts
    double sum_seconds = 0;
  };

  void Observe(double seconds);
  Snapshot Take() const;

 private:
  std::array<std::atomic<uint64_t>, kBoundsSeconds.size() + 1> counts_ = {};
  BusyTime sum_;
};

// Label values. Each enum ends with kCount, which is no value; LabelName gives the text.
enum class LookupLabel : uint8_t { kHit, kPartial, kMiss, kError, kCount };
enum class FetchLabel : uint8_t {
  kOk,
  kNotFound,
  kCorrupt,
  kCancelled,
  kDeadline,
  kUnavailable,
  kOther,
  kCount
};
// Towards the engine (fetch) or towards the store (save).
enum class DirectionLabel : uint8_t { kIn, kOut, kCount };
// The first four are the fetch stages, the last three those of a save.
enum class StageLabel : uint8_t {
  kNetwork,
  kDecode,
  kDequantize,
  kWrite,
  kRead,
  kQuantize,
  kEncode,
  kCount
};
enum class PoolLabel : uint8_t { kFetch, kSave, kCount };
enum class SlabStateLabel : uint8_t { kFree, kUsed, kCount };
enum class SaveLabel : uint8_t { kStored, kPresent, kCount };
enum class DropLabel : uint8_t {
  kNoSlab,
  kQueueFull,
  kNotHeld,
  kStoreFull,
  kStoreError,
  kEngineGone,
  kReadError,
  kShutdown,
  kQuota,
  kCount
};
// Blocks that a codec engine handed back to software, or never got.
enum class CodecFallbackLabel : uint8_t { kCodec, kSize, kRefused, kFailed, kGone, kCount };
enum class CodecBytesLabel : uint8_t { kCoded, kSymbols, kCount };
enum class CorruptLabel : uint8_t { kSegment, kMarker, kBlock, kName, kAuth, kCount };
enum class RoleLabel : uint8_t { kScheduler, kWorker, kCount };
// Of a server of the store.
enum class ServerEventLabel : uint8_t {
  kOpened,  // its circuit breaker
  kProbe,
  kReconnect,
  kTimeout,
  kMoved,
  kAsk,
  kReplicaRead,
  kReplicaRetry,
  kCount
};

std::string_view LabelName(LookupLabel label);
std::string_view LabelName(FetchLabel label);
std::string_view LabelName(DirectionLabel label);
std::string_view LabelName(StageLabel label);
std::string_view LabelName(PoolLabel label);
std::string_view LabelName(SlabStateLabel label);
std::string_view LabelName(SaveLabel label);
std::string_view LabelName(DropLabel label);  // also the <reason> of SaveDone "dropped:<reason>"
std::string_view LabelName(CodecFallbackLabel label);
std::string_view LabelName(CodecBytesLabel label);
std::string_view LabelName(CorruptLabel label);
std::string_view LabelName(RoleLabel label);
std::string_view LabelName(ServerEventLabel label);

// The label under which a load that ended with this code is counted.
FetchLabel FetchLabelOf(StatusCode code);

// One instrument per label value: metrics.lookups[LookupLabel::kHit].Add().
template <typename Label, typename Instrument>
class Labelled {
 public:
  static constexpr size_t kSize = static_cast<size_t>(Label::kCount);
  Instrument& operator[](Label label) { return values_[static_cast<size_t>(label)]; }
  const Instrument& operator[](Label label) const { return values_[static_cast<size_t>(label)]; }

 private:
  std::array<Instrument, kSize> values_;
};

// The circuit breaker in front of a server. The values are those of its gauge.
enum class BreakerState : uint8_t { kClosed = 0, kHalfOpen = 1, kOpen = 2 };
std::string_view BreakerStateName(BreakerState state);

struct ServerMetrics {
  std::string name;  // HOST:PORT; "other" of the row that servers beyond kServersMax share
  Gauge breaker;     // a BreakerState; means nothing in the shared row
  Labelled<ServerEventLabel, Counter> events;
};

// One row per server that the store ever used, in order of first use. Servers of a cluster come and
// go, so their number has a bound.
class ServerTable {
 public:
  static constexpr size_t kServersMax = 64;

  // The server's row. Allocates its name. One thread at a time.
  ServerMetrics* RowOf(std::string_view name);
  // Thread-safe.
  std::span<const ServerMetrics> rows() const {
    // Acquire: a row's name is whole before its number is seen.
    return std::span(rows_).first(count_.load(std::memory_order_acquire));
  }
  static bool IsShared(const ServerMetrics& row) { return row.name == kOthers; }

 private:
  static constexpr std::string_view kOthers = "other";

  std::array<ServerMetrics, kServersMax + 1> rows_;
  std::atomic<size_t> count_ = 0;
};

struct Metrics {
  Labelled<LookupLabel, Counter> lookups;
  Counter fetch_tokens;
  Labelled<FetchLabel, Counter> fetch_requests;
  Labelled<DirectionLabel, Counter> wire_bytes;
  Labelled<DirectionLabel, Counter> kv_bytes;
  Labelled<StageLabel, BusyTime> stage_busy;
  Labelled<StageLabel, Gauge> stage_inflight;
  Labelled<StageLabel, Counter> stage_bytes;
  Histogram fetch_seconds;
  // Set by the exporter's refresh callback, just before a scrape.
  Labelled<PoolLabel, Labelled<SlabStateLabel, Gauge>> slabs;
  Labelled<SaveLabel, Counter> saves;
  Labelled<DropLabel, Counter> saves_dropped;
  Labelled<CorruptLabel, Counter> corrupt;
  // Of the hardware engine that decodes blocks (codec.engine); all 0 without one.
  Gauge codec_engine_up;
  Gauge codec_engine_inflight;
  Counter codec_engine_blocks;
  Labelled<CodecBytesLabel, Counter> codec_engine_bytes;
  Labelled<CodecFallbackLabel, Counter> codec_engine_fallbacks;
  Labelled<RoleLabel, Gauge> sessions;
  // Set by the exporter's refresh callback, just before a scrape.
  Gauge store_objects;
  Gauge store_bytes;
  ServerTable store_servers;
  // No counter, and not thread-safe: belongs to the pipeline's thread.
  StageTrace trace;
};

enum class MetricType : uint8_t { kCounter, kGauge, kHistogram };
std::string_view MetricTypeName(MetricType type);

struct MetricLabel {
  std::string_view key;  // empty: no label
  std::string_view value;
};

// One time series. Rows of one metric follow each other and share name, type and help.
struct MetricRow {
  std::string_view name;
  MetricType type = MetricType::kCounter;
  std::string_view help;  // one line; says the unit
  std::array<MetricLabel, 2> labels;
  std::variant<const Counter*, const Gauge*, const BusyTime*, const Histogram*> source;

  // Now, in the unit of the help text. REQUIRES: type is not kHistogram.
  double Value() const;
};

// The rows point into `metrics`, which must outlive them. Servers of the store have rows once they
// are used. Allocates: for exporters and tests.
std::vector<MetricRow> Rows(const Metrics& metrics);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_METRICS_H_
