#include "bench/bench_command.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "base/version.h"
#include "bench/bench_options.h"
#include "bench/bench_rig.h"
#include "bench/stage_runs.h"
#include "cli/commands.h"
#include "flow/affinity.h"

namespace shadowserve {
namespace {

using Json = nlohmann::ordered_json;
constexpr double kGigabyte = 1e9;

// Lines of progress for who waits at a terminal.
class Progress {
 public:
  explicit Progress(std::ostream& err) : err_(err), shown_(::isatty(STDERR_FILENO) == 1) {}
  void Say(std::string_view what) {
    if (shown_) err_ << "bench: " << what << "\n" << std::flush;
  }

 private:
  std::ostream& err_;
  bool shown_;
};

std::string CpuModel() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string line;
  while (std::getline(cpuinfo, line)) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

double ProcessCpuSeconds() {
  rusage usage = {};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

struct Counts {
  double seconds = 0;
  double cpu_seconds = 0;
  uint64_t kv_bytes = 0;
  uint64_t wire_bytes = 0;
  uint64_t moved_bytes = 0;
};

Counts CountsOf(const BenchRig& rig) {
  const Metrics& metrics = rig.metrics();
  Counts counts;
  counts.seconds = static_cast<double>(rig.clock().NowNs()) * 1e-9;
  counts.cpu_seconds = ProcessCpuSeconds();
  counts.kv_bytes = metrics.kv_bytes[DirectionLabel::kIn].value();
  counts.wire_bytes = metrics.wire_bytes[DirectionLabel::kIn].value();
  counts.moved_bytes = LoadBytesMoved(metrics);
  return counts;
}

// From asking for a segment to its last value in the pages, with all loads that there are.
Json LatencyJson(std::vector<int64_t> latencies_ns) {
  std::sort(latencies_ns.begin(), latencies_ns.end());
  const auto at = [&](double share) {
    const auto index = static_cast<size_t>(share * static_cast<double>(latencies_ns.size() - 1));
    return static_cast<double>(latencies_ns[index]) * 1e-6;
  };
  return {{"segments", latencies_ns.size()},
          {"median", at(0.5)},
          {"p99", at(0.99)},
          {"p99_to_median", at(0.99) / at(0.5)}};
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

struct PipelineRates {
  std::vector<double> windows;  // KV bytes/s
  double kv = 0;                // median
  double kv_per_cpu_second = 0;
  double wire = 0;
  double moved_per_wire_byte = 0;
  std::vector<int64_t> latencies_ns;  // of segments
};

Result<PipelineRates> RunPipeline(BenchRig& rig, Progress& progress) {
  const auto wait = [](double seconds) {
    std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  };
  const BenchOptions& options = rig.options();
  rig.StartLoads();
  progress.Say("warming up");
  wait(options.warmup_seconds);
  progress.Say("measuring the pipeline");
  PipelineRates rates;
  std::vector<double> per_cpu;
  rig.TakeLatencies();
  const Counts first = CountsOf(rig);
  Counts before = first;
  for (uint32_t window = 0; window < options.windows; ++window) {
    wait(options.window_seconds);
    const Counts now = CountsOf(rig);
    const auto kv_bytes = static_cast<double>(now.kv_bytes - before.kv_bytes);
    rates.windows.push_back(kv_bytes / (now.seconds - before.seconds));
    per_cpu.push_back(kv_bytes / (now.cpu_seconds - before.cpu_seconds));
    before = now;
  }
  rates.latencies_ns = rig.TakeLatencies();
  SS_TRY(rig.StopLoads());
  if (before.kv_bytes == first.kv_bytes || before.wire_bytes == first.wire_bytes ||
      rates.latencies_ns.empty()) {
    return Status(StatusCode::kUnavailable, "nothing was loaded within the windows");
  }
  const auto wire_bytes = static_cast<double>(before.wire_bytes - first.wire_bytes);
  rates.kv = Median(rates.windows);
  rates.kv_per_cpu_second = Median(per_cpu);
  rates.wire = rates.kv * wire_bytes / static_cast<double>(before.kv_bytes - first.kv_bytes);
  rates.moved_per_wire_byte =
      static_cast<double>(before.moved_bytes - first.moved_bytes) / wire_bytes;
  return rates;
}

Json Circumstances(const BenchRig& rig) {
  const BenchOptions& options = rig.options();
  return {{"bench", BenchVerbName(options.verb)},
          {"version", Version()},
          {"profile", ProfileName(options.profile)},
          {"lossless", CodecName(options.lossless)},
          {"engine_device", options.engine_device},
          {"store", options.store_url.empty()
                        ? "disk, temporary, page cache warm"
                        : options.store_url.substr(0, options.store_url.find("://"))},
          {"device", rig.rank().device().kind()},
          {"emulated", options.card == nullptr ? Json(true) : Json(options.card->name)},
          {"cpu", CpuModel()},
          {"cores", options.cores},
          {"pages", BenchPagesName(options.pages)},
          {"page_tokens", options.page_tokens},
          {"model",
           {{"layers", options.model.layers},
            {"kv_heads", options.model.kv_heads},
            {"head_dim", options.model.head_dim},
            {"dtype", DtypeName(options.model.dtype)}}},
          {"values", "synthetic (src/bench/kv_sample.h)"},
          {"load_tokens", options.chunks * kChunkTokens},
          {"loads_in_flight", BenchRig::kLoads},
          {"joins_in_flight", options.joins},
          {"emulated_link_gigabits_per_s",
           options.link_gigabits_per_s == 0 ? Json() : Json(options.link_gigabits_per_s)}};
}

Json StageJson(const StageRates& rates) {
  return {{"network", rates.network / kGigabyte},
          {"decode", rates.decode / kGigabyte},
          {"dequantize", rates.dequantize / kGigabyte},
          {"write", rates.write / kGigabyte}};
}

// Decoding and dequantizing block by block, against one after the other. Not beside an emulated
// engine.
void AddFused(const StageRates& rates, Json* json) {
  if (rates.fused == 0) return;
  (*json)["fused_gigabytes_per_s"] = rates.fused / kGigabyte;
  (*json)["fused_ratio"] = rates.fused_ratio();
}

// How many cores are of use with this store, profile and codec. `cores_for_...`: that saturate a
// link; null: more than one network thread takes.
Json RecommendedJson(const StageRates& rates) {
  Json json = {{"network_cores", 1}, {"decode_cores", rates.decode_cores()}};
  for (const int gigabits : {10, 25, 100}) {
    const uint32_t cores = rates.cores_for_link(gigabits);
    json[fmt::format("cores_for_{}_gbps", gigabits)] = cores == 0 ? Json() : Json(cores);
  }
  return json;
}

// CPUs that this thread may use beside those of the data plane.
std::vector<int> SpareCpus(const std::vector<int>& cores) {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> spare;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return spare;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    const bool taken = std::find(cores.begin(), cores.end(), cpu) != cores.end();
    if (CPU_ISSET(static_cast<size_t>(cpu), &set) && !taken) spare.push_back(cpu);
  }
  return spare;
}

// Where the emulated card was when measuring began.
struct CardStart {
  EmulatedEngine::Counts engine;
  int64_t ns = 0;
  int64_t waited_ns = 0;
};

// Every block passes the emulated engine once, so that from now on it knows them.
Result<CardStart> WarmUpCard(BenchRig& rig) {
  rig.StartLoads();
  SS_TRY(rig.StopLoads());
  return CardStart{rig.emulated_engine()->counts(), rig.clock().NowNs(),
                   rig.emulated_memory()->waited_ns()};
}

// What was emulated, how far this machine kept up with it, and what bounds the rate.
Json CardJson(const BenchRig& rig, const CardStart& start, const StageRates& stages) {
  const CardProfile& card = *rig.options().card;
  const Metrics& metrics = rig.metrics();
  const auto kv_bytes = static_cast<double>(metrics.kv_bytes[DirectionLabel::kIn].value());
  const auto per_kv_byte = [&](uint64_t bytes) { return static_cast<double>(bytes) / kv_bytes; };
  const double engine_bytes =
      per_kv_byte(metrics.codec_engine_bytes[CodecBytesLabel::kSymbols].value());
  const double memory_bytes = per_kv_byte(LoadBytesMovedOnCard(metrics));
  const EmulatedEngine::Counts now = rig.emulated_engine()->counts();
  const uint64_t tasks = now.tasks - start.engine.tasks;
  // 0 of 0 is 0.
  const auto ratio = [](uint64_t of, uint64_t all) {
    return static_cast<double>(of) / static_cast<double>(std::max<uint64_t>(all, 1));
  };
  const double here_bytes_per_ns =
      ratio(now.bytes - start.engine.bytes, now.busy_ns - start.engine.busy_ns) *
      static_cast<double>(rig.emulated_engine()->threads());
  uint64_t fallbacks = 0;
  for (size_t i = 0; i < static_cast<size_t>(CodecFallbackLabel::kCount); ++i) {
    fallbacks += metrics.codec_engine_fallbacks[static_cast<CodecFallbackLabel>(i)].value();
  }
  const int64_t waited_ns = rig.emulated_memory()->waited_ns() - start.waited_ns;
  Json limits = {{"network", stages.network / kGigabyte},
                 {"cores", stages.cores_bound() / kGigabyte},
                 {"memory", card.memory_bytes_per_s / memory_bytes / kGigabyte}};
  if (engine_bytes > 0) limits["engine"] = card.engine_bytes_per_s / engine_bytes / kGigabyte;
  std::string bottleneck = "network";
  for (const auto& [name, rate] : limits.items()) {
    if (rate < limits[bottleneck]) bottleneck = name;
  }
  return {{"cores_of_card", card.cores},
          {"cores_used", stages.cores},
          {"engine",
           {{"task_bytes_max", card.engine.op_bytes_max},
            {"task_us", static_cast<double>(card.engine_task_ns) * 1e-3},
            {"gigabits_per_s", card.engine_bytes_per_s * 8 * 1e-9},
            {"depth", card.engine.depth},
            {"tasks", tasks},
            {"late_us", ratio(now.late_ns - start.engine.late_ns, tasks) * 1e-3},
            {"threads_here", rig.emulated_engine()->threads()},
            {"gigabits_per_s_here", here_bytes_per_ns * 8},
            {"decoded_here", now.decoded_here - start.engine.decoded_here},
            {"blocks_not_taken", fallbacks}}},
          {"memory_gigabytes_per_s", card.memory_bytes_per_s / kGigabyte},
          {"memory_bytes_per_kv_byte", memory_bytes},
          {"memory_throttled", waited_ns > 0},
          {"memory_waited_share",
           static_cast<double>(waited_ns) / static_cast<double>(rig.clock().NowNs() - start.ns)},
          {"limits_kv_gigabytes_per_s", std::move(limits)},
          {"bottleneck", bottleneck}};
}

Result<Json> MeasurePipeline(BenchRig& rig, Progress& progress, StageRates* stages_alone) {
  SS_TRY_ASSIGN(const PipelineRates pipeline, RunPipeline(rig, progress));
  Json json;
  json["kv_gigabytes_per_s"] = pipeline.kv / kGigabyte;
  json["wire_gigabytes_per_s"] = pipeline.wire / kGigabyte;
  // What the same work would give if nothing else ran on these cores.
  json["kv_gigabytes_per_cpu_s"] = pipeline.kv_per_cpu_second / kGigabyte;
  if (!IsExact(rig.options().profile)) {
    json["pages_equal_saved"] = nullptr;  // a lossy profile
  } else if (!rig.LoadedPagesEqualSaved()) {
    return Status(StatusCode::kCorrupt, "the loaded pages differ from the saved ones");
  } else {
    json["pages_equal_saved"] = true;
  }
  progress.Say("measuring the stages alone");
  SS_TRY_ASSIGN(*stages_alone, RunStages(rig));
  const StageRates& stages = *stages_alone;
  json["stage_alone_gigabytes_per_s"] = StageJson(stages);
  json["dequantize_into_pages_gigabytes_per_s"] = stages.dequantize_into_pages / kGigabyte;
  AddFused(stages, &json);
  json["ratio_to_slowest"] = pipeline.kv / stages.slowest();
  json["ratio_to_serial_bound"] = pipeline.kv / stages.serial_bound();
  json["bytes_moved_per_wire_byte"] = pipeline.moved_per_wire_byte;
  json["kv_bytes_per_wire_byte"] = pipeline.kv / pipeline.wire;
  json["segment_latency_ms"] = LatencyJson(pipeline.latencies_ns);
  json["warmup_s"] = rig.options().warmup_seconds;
  json["window_s"] = rig.options().window_seconds;
  Json& windows = json["windows_kv_gigabytes_per_s"] = Json::array();
  for (const double rate : pipeline.windows) windows.push_back(rate / kGigabyte);
  return json;
}

Result<Json> Measure(const BenchOptions& options, Progress& progress) {
  const std::vector<int> spare_cpus = SpareCpus(options.cores);
  // As the daemon: every thread and kernel worker keeps to these cores.
  SS_TRY(PinThisThread(options.cores));
  progress.Say("preparing pages and store");
  SS_TRY_ASSIGN(const std::unique_ptr<BenchRig> rig, BenchRig::Create(options, spare_cpus));
  SS_TRY_ASSIGN(const double save_rate, rig->FillStore());
  Json json = Circumstances(*rig);
  json["save_kv_gigabytes_per_s"] = save_rate / kGigabyte;
  CardStart card_start;
  if (options.card != nullptr) {
    progress.Say("teaching the emulated engine");
    SS_TRY_ASSIGN(card_start, WarmUpCard(*rig));
  }
  StageRates stages;
  switch (options.verb) {
    case BenchVerb::kPipeline: {
      SS_TRY_ASSIGN(const Json rates, MeasurePipeline(*rig, progress, &stages));
      json.update(rates);
      break;
    }
    case BenchVerb::kStages: {
      SS_TRY_ASSIGN(stages, RunStages(*rig));
      json["stage_alone_gigabytes_per_s"] = StageJson(stages);
      json["dequantize_into_pages_gigabytes_per_s"] = stages.dequantize_into_pages / kGigabyte;
      AddFused(stages, &json);
      json["recommended"] = RecommendedJson(stages);
      break;
    }
    case BenchVerb::kStore: {
      SS_TRY_ASSIGN(const StageRates rates, RunStore(*rig));
      json["kv_gigabytes_per_s"] = rates.network / kGigabyte;
      break;
    }
    case BenchVerb::kCodec: {
      SS_TRY_ASSIGN(const CodecRates rates, RunCodec(*rig));
      json["encode_symbol_gigabytes_per_s"] = rates.encode / kGigabyte;
      json["decode_symbol_gigabytes_per_s"] = rates.decode / kGigabyte;
      json["symbol_bytes_per_coded_byte"] = rates.ratio;
      break;
    }
  }
  if (options.card != nullptr) json["card"] = CardJson(*rig, card_start, stages);
  return json;
}

void PrintText(const Json& json, const std::string& prefix, std::ostream& out) {
  for (const auto& [key, value] : json.items()) {
    if (value.is_object()) {
      PrintText(value, prefix + key + ".", out);
    } else if (value.is_number_float()) {
      out << fmt::format("{:<48} {:.3f}\n", prefix + key, value.get<double>());
    } else {
      const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
      out << fmt::format("{:<48} {}\n", prefix + key, text);
    }
  }
}

}  // namespace

int RunBench(std::span<const std::string> arguments, bool json, std::ostream& out,
             std::ostream& err) {
  const Result<BenchOptions> options = ParseBenchOptions(arguments, json);
  if (!options.ok()) {
    err << "shadowctl: " << options.status().message() << "\n";
    return kExitUsage;
  }
  if (!options->output.empty()) {
    out << options->output;
    return kExitDone;
  }
  Progress progress(err);
  const Result<Json> measured = Measure(*options, progress);
  if (!measured.ok()) {
    err << "shadowctl: bench: " << measured.status().message() << "\n";
    return kExitFound;
  }
  if (options->json) {
    out << measured->dump(2) << "\n";
  } else {
    // Whatever line of it is quoted.
    const CardProfile* card = options->card;
    PrintText(*measured, card == nullptr ? "" : fmt::format("emulated {}: ", card->name), out);
  }
  return kExitDone;
}

}  // namespace shadowserve
