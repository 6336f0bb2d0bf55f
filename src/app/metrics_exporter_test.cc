#include "app/metrics_exporter.h"

#include <arpa/inet.h>
#include <sys/socket.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shadowserve {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

UniqueFd Connect(int port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    fd.Reset();
  }
  return fd;
}

// The page, headers included; "" when nobody listens.
std::string Scrape(int port) {
  const UniqueFd fd = Connect(port);
  if (!fd.valid()) return "";
  const std::string request = "GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) < 0) return "";
  std::string page;
  std::array<char, 4096> buffer;
  for (ssize_t got = 0; (got = ::read(fd.get(), buffer.data(), buffer.size())) > 0;) {
    page.append(buffer.data(), static_cast<size_t>(got));
  }
  return page;
}

class MetricsExporterTest : public ::testing::Test {
 protected:
  void Start(MetricsExporter::Refresh refresh = {}) {
    auto started = MetricsExporter::Start("127.0.0.1:0", metrics_, std::move(refresh));
    ASSERT_TRUE(started.ok()) << started.status().ToString();
    exporter_ = std::move(started).value();
  }

  Metrics metrics_;
  std::unique_ptr<MetricsExporter> exporter_;
};

TEST_F(MetricsExporterTest, ServesTheValuesOfTheMoment) {
  Start();
  metrics_.lookups[LookupLabel::kHit].Add(3);
  metrics_.stage_busy[StageLabel::kWrite].AddNs(1'500'000'000);
  const std::string page = Scrape(exporter_->port());
  EXPECT_THAT(page, HasSubstr("shadowserve_lookups_total{result=\"hit\"} 3\n"));
  EXPECT_THAT(page, HasSubstr("shadowserve_stage_busy_seconds_total{stage=\"write\"} 1.5\n"));
  metrics_.lookups[LookupLabel::kHit].Add();
  EXPECT_THAT(Scrape(exporter_->port()),
              HasSubstr("shadowserve_lookups_total{result=\"hit\"} 4\n"));
}

TEST_F(MetricsExporterTest, HistogramBucketsAreCumulativeAndEndWithAll) {
  Start();
  metrics_.fetch_seconds.Observe(0.002);
  metrics_.fetch_seconds.Observe(100);
  const std::string page = Scrape(exporter_->port());
  EXPECT_THAT(page, HasSubstr("shadowserve_fetch_seconds_bucket{le=\"0.001\"} 0\n"));
  EXPECT_THAT(page, HasSubstr("shadowserve_fetch_seconds_bucket{le=\"30\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("shadowserve_fetch_seconds_bucket{le=\"+Inf\"} 2\n"));
  EXPECT_THAT(page, HasSubstr("shadowserve_fetch_seconds_count 2\n"));
}

TEST_F(MetricsExporterTest, AsksForFreshGaugesBeforeEachScrape) {
  Start([](Metrics& metrics) {
    metrics.slabs[PoolLabel::kFetch][SlabStateLabel::kFree].Set(45);
    metrics.store_bytes.Set(1'000'000);
  });
  const std::string page = Scrape(exporter_->port());
  EXPECT_THAT(page, HasSubstr("shadowserve_slabs{pool=\"fetch\",state=\"free\"} 45\n"));
  EXPECT_THAT(page, HasSubstr("shadowserve_store_bytes 1000000\n"));
}

TEST_F(MetricsExporterTest, ServersOfTheStoreAppearOnceTheyAreUsedUpToABound) {
  Start();
  EXPECT_THAT(Scrape(exporter_->port()), Not(HasSubstr("shadowserve_store_breaker_state")));
  metrics_.store_servers.RowOf("cache:1")->breaker.Set(static_cast<int64_t>(BreakerState::kOpen));
  for (size_t i = 2; i <= ServerTable::kServersMax + 2; ++i) {
    metrics_.store_servers.RowOf("cache:" + std::to_string(i))
        ->events[ServerEventLabel::kTimeout]
        .Add();
  }
  EXPECT_EQ(metrics_.store_servers.RowOf("cache:1"), &metrics_.store_servers.rows()[0]);
  const std::string page = Scrape(exporter_->port());
  EXPECT_THAT(page, HasSubstr("shadowserve_store_breaker_state{server=\"cache:1\"} 2\n"));
  EXPECT_THAT(page, HasSubstr("events_total{server=\"cache:64\",event=\"timeout\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("events_total{server=\"other\",event=\"timeout\"} 2\n"));
  EXPECT_THAT(page, Not(HasSubstr("cache:65")));
}

TEST_F(MetricsExporterTest, RefusesATakenPortAndNamesTheAddress) {
  Start();
  const std::string taken = "127.0.0.1:" + std::to_string(exporter_->port());
  const auto second = MetricsExporter::Start(taken, metrics_, {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(taken));
}

TEST_F(MetricsExporterTest, StopsListeningWhenItIsDestroyed) {
  Start();
  const int port = exporter_->port();
  exporter_.reset();
  EXPECT_EQ(Scrape(port), "");
}

// One metric as docs/metrics.md writes it: | `name` | type | labels | help |
struct DocumentedMetric {
  std::string type;
  std::string help;
  std::vector<std::pair<std::string, std::vector<std::string>>> labels;
};

void AddLabels(const std::string& sample, DocumentedMetric& metric) {
  size_t at = sample.find('{');
  while (at != std::string::npos && sample[at] != '}') {
    const size_t equals = sample.find("=\"", at);
    const size_t quote = sample.find('"', equals + 2);
    const std::string key = sample.substr(at + 1, equals - at - 1);
    const std::string value = sample.substr(equals + 2, quote - equals - 2);
    at = quote + 1;
    if (key == "le") continue;
    auto entry = std::find_if(metric.labels.begin(), metric.labels.end(),
                              [&](const auto& known) { return known.first == key; });
    if (entry == metric.labels.end()) entry = metric.labels.insert(entry, {key, {}});
    auto& values = entry->second;
    if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
  }
}

// The table rows that a page of metrics stands for, in the page's order.
std::vector<std::string> TableOf(const std::string& page) {
  std::vector<std::pair<std::string, DocumentedMetric>> metrics;
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash;
    std::string what;
    std::string name;
    words >> hash >> what >> name;
    if (hash == "#" && name.starts_with("shadowserve_")) {
      if (what == "HELP") metrics.push_back({name, {}});
      std::string& text = what == "HELP" ? metrics.back().second.help : metrics.back().second.type;
      std::getline(words >> std::ws, text);
    } else if (line.starts_with("shadowserve_")) {
      AddLabels(line, metrics.back().second);
    }
  }
  std::vector<std::string> table;
  for (const auto& [name, metric] : metrics) {
    std::string labels;
    for (const auto& [key, values] : metric.labels) {
      if (!labels.empty()) labels += "; ";
      labels += key + ": ";
      for (size_t i = 0; i < values.size(); ++i) labels += (i == 0 ? "" : ", ") + values[i];
    }
    table.push_back("| `" + name + "` | " + metric.type + " | " + (labels.empty() ? "-" : labels) +
                    " | " + metric.help + " |");
  }
  return table;
}

TEST_F(MetricsExporterTest, ThePageAndItsDocumentationHaveTheSameRows) {
  (void)metrics_.store_servers.RowOf("HOST:PORT");
  Start();
  const std::vector<std::string> served = TableOf(Scrape(exporter_->port()));
  std::vector<std::string> documented;
  std::ifstream file(SS_DOCS_DIR "/metrics.md");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| `shadowserve_")) documented.push_back(line);
  }
  EXPECT_EQ(documented, served);
}

}  // namespace
}  // namespace shadowserve
