// Serves Rows(metrics) as a Prometheus text page at http://HOST:PORT/metrics.
//
// Two HTTP threads of prometheus-cpp's server do all the work, at scrapes only; nothing runs in
// between. The page also holds three exposer_* series that the library counts about itself.
#ifndef SHADOWSERVE_APP_METRICS_EXPORTER_H_
#define SHADOWSERVE_APP_METRICS_EXPORTER_H_

#include <functional>
#include <memory>
#include <string>

#include "base/metrics.h"
#include "base/result.h"

namespace shadowserve {

class MetricsExporter {
 public:
  // Called at the start of each scrape, on an HTTP thread, maybe on both at one time: sets the
  // gauges that nobody keeps up to date otherwise (slabs, store). Must not block for long.
  using Refresh = std::function<void(Metrics& metrics)>;

  // `listen`: host:port of metrics.listen, checked by config; port 0 lets the system choose.
  // `metrics` and whatever `refresh` uses must outlive the exporter.
  // kUnavailable names an address that cannot be listened on.
  static Result<std::unique_ptr<MetricsExporter>> Start(const std::string& listen, Metrics& metrics,
                                                        Refresh refresh);
  // Ends a scrape in progress first. Takes up to 2 s: the HTTP library wakes up that often.
  ~MetricsExporter();

  int port() const;

 private:
  struct Parts;
  explicit MetricsExporter(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_METRICS_EXPORTER_H_
