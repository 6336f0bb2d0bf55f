#include "app/metrics_exporter.h"

#include <prometheus/collectable.h>
#include <prometheus/exposer.h>
#include <prometheus/metric_family.h>

#include <exception>
#include <limits>
#include <utility>
#include <vector>

namespace shadowserve {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

constexpr size_t kHttpThreads = 2;

prometheus::MetricType TypeOf(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return prometheus::MetricType::Counter;
    case MetricType::kGauge:
      return prometheus::MetricType::Gauge;
    case MetricType::kHistogram:
      break;
  }
  return prometheus::MetricType::Histogram;
}

ClientMetric::Histogram HistogramOf(const Histogram& histogram) {
  const Histogram::Snapshot snapshot = histogram.Take();
  ClientMetric::Histogram sample;
  sample.sample_count = snapshot.count;
  sample.sample_sum = snapshot.sum_seconds;
  uint64_t cumulative = 0;
  for (size_t i = 0; i < snapshot.counts.size(); ++i) {
    cumulative += snapshot.counts[i];
    const bool last = i == Histogram::kBoundsSeconds.size();
    sample.bucket.push_back({cumulative, last ? std::numeric_limits<double>::infinity()
                                              : Histogram::kBoundsSeconds[i]});
  }
  return sample;
}

ClientMetric SampleOf(const MetricRow& row) {
  ClientMetric sample;
  for (const MetricLabel& label : row.labels) {
    if (label.key.empty()) continue;
    sample.label.push_back({std::string(label.key), std::string(label.value)});
  }
  switch (row.type) {
    case MetricType::kCounter:
      sample.counter.value = row.Value();
      break;
    case MetricType::kGauge:
      sample.gauge.value = row.Value();
      break;
    case MetricType::kHistogram:
      sample.histogram = HistogramOf(*std::get<const Histogram*>(row.source));
      break;
  }
  return sample;
}

class RowCollector final : public prometheus::Collectable {
 public:
  RowCollector(Metrics& metrics, MetricsExporter::Refresh refresh)
      : metrics_(metrics), refresh_(std::move(refresh)) {}

  std::vector<MetricFamily> Collect() const override {
    if (refresh_) refresh_(metrics_);
    std::vector<MetricFamily> families;
    for (const MetricRow& row : Rows(metrics_)) {
      if (families.empty() || families.back().name != row.name) {
        families.push_back({std::string(row.name), std::string(row.help), TypeOf(row.type), {}});
      }
      families.back().metric.push_back(SampleOf(row));
    }
    return families;
  }

 private:
  Metrics& metrics_;
  const MetricsExporter::Refresh refresh_;
};

}  // namespace

// The server holds the collector weakly and is destroyed first, which joins its threads.
struct MetricsExporter::Parts {
  std::shared_ptr<RowCollector> collector;
  std::unique_ptr<prometheus::Exposer> exposer;
};

MetricsExporter::MetricsExporter(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
MetricsExporter::~MetricsExporter() = default;

Result<std::unique_ptr<MetricsExporter>> MetricsExporter::Start(const std::string& listen,
                                                                Metrics& metrics, Refresh refresh) {
  auto parts = std::make_unique<Parts>();
  parts->collector = std::make_shared<RowCollector>(metrics, std::move(refresh));
  try {
    parts->exposer = std::make_unique<prometheus::Exposer>(listen, kHttpThreads);
    parts->exposer->RegisterCollectable(parts->collector);
  } catch (const std::exception& error) {
    return Status(StatusCode::kUnavailable,
                  "metrics.listen: cannot listen on " + listen +
                      " (in use, not an address of this host, or not allowed): " + error.what());
  }
  if (parts->exposer->GetListeningPorts().empty()) {
    return Status(StatusCode::kUnavailable, "metrics.listen: cannot listen on " + listen);
  }
  return std::unique_ptr<MetricsExporter>(new MetricsExporter(std::move(parts)));
}

int MetricsExporter::port() const {
  return parts_->exposer->GetListeningPorts().front();
}

}  // namespace shadowserve
