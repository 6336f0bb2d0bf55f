#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/text.h"

namespace shadowserve {
namespace {

// Order of the lanes. Segments on their way overlap, so they are asynchronous events, which get
// rows of their own; all other work is of one thread, or of the numbered threads that decode beside
// it, which have lanes of their own behind.
constexpr std::array<std::string_view, 7> kLanes = {"network", "decode",   "dequantize", "write",
                                                    "read",    "quantize", "encode"};

// From 1, as they are shown; 0: not known here.
size_t LaneOf(std::string_view stage) {
  const auto found = std::find(kLanes.begin(), kLanes.end(), stage);
  return found == kLanes.end() ? 0 : static_cast<size_t>(found - kLanes.begin()) + 1;
}

// Trace Event Format (Chrome): times in microseconds.
class TraceFile {
 public:
  explicit TraceFile(std::ostream& out) : out_(out) {
    out_ << R"({"displayTimeUnit":"ms","traceEvents":[)";
    Add(R"({"ph":"M","pid":1,"name":"process_name","args":{"name":"shadowserved"}})");
    for (const std::string_view lane : kLanes) NameLane(LaneOf(lane), std::string(lane));
  }
  void Add(const v1::TraceSpan& span) {
    const size_t stage = LaneOf(span.stage());
    if (stage == 0 || span.thread() >= kThreadsMax) return;
    const size_t lane = stage + span.thread() * kLanes.size();
    for (; threads_ <= span.thread(); ++threads_) {
      for (const std::string_view each : {kLanes[1], kLanes[2]}) {
        NameLane(LaneOf(each) + threads_ * kLanes.size(),
                 fmt::format("{} (thread {})", each, threads_));
      }
    }
    const double start_us = static_cast<double>(span.start_ns()) * 1e-3;
    const double end_us = static_cast<double>(span.end_ns()) * 1e-3;
    const std::string common = fmt::format(
        R"("pid":1,"tid":{},"cat":"{}","args":{{"chunk":"{:016x}","first_layer":{},"head_group":{}}})",
        lane, span.saving() ? "save" : "fetch", span.chunk(), span.first_layer(),
        span.head_group());
    if (span.stage() == kLanes[0]) {
      const char* name = span.saving() ? "put" : "get";
      ++id_;
      for (const auto& [phase, time_us] : {std::pair('b', start_us), {'e', end_us}}) {
        Add(fmt::format(R"({{"ph":"{}","name":"{}","id":{},"ts":{:.3f},{}}})", phase, name, id_,
                        time_us, common));
      }
      return;
    }
    Add(fmt::format(R"({{"ph":"X","name":"{}","ts":{:.3f},"dur":{:.3f},{}}})", kLanes[stage - 1],
                    start_us, end_us - start_us, common));
  }
  void End() { out_ << "\n]}\n"; }

 private:
  static constexpr uint32_t kThreadsMax = 256;

  void NameLane(size_t lane, const std::string& name) {
    Add(fmt::format(R"({{"ph":"M","pid":1,"tid":{},"name":"thread_name","args":{{"name":"{}"}}}})",
                    lane, name));
    Add(fmt::format(
        R"({{"ph":"M","pid":1,"tid":{0},"name":"thread_sort_index","args":{{"sort_index":{0}}}}})",
        lane));
  }
  void Add(const std::string& event) {
    out_ << (std::exchange(first_, false) ? "\n" : ",\n") << event;
  }

  std::ostream& out_;
  bool first_ = true;
  uint64_t id_ = 0;
  uint32_t threads_ = 1;  // whose lanes have names
};

}  // namespace

int RunTrace(const CommandLine& line, std::ostream& out, std::ostream& err) {
  std::ofstream file;
  if (!line.output_file.empty()) {
    file.open(line.output_file);
    if (!file) {
      err << "shadowctl: --output: cannot write " << OneLine(line.output_file) << "\n";
      return kExitUsage;
    }
    out << fmt::format("recording for {} s ...\n", line.seconds) << std::flush;
  }
  grpc::ClientContext context;
  v1::TraceRequest request;
  request.set_duration_ms(static_cast<uint32_t>(line.seconds * 1e3));
  const auto reader = Connect(line)->TakeTrace(&context, request);
  std::optional<TraceFile> trace;  // begun with the first answer: a failed call prints no JSON
  uint64_t spans = 0;
  uint64_t dropped = 0;
  for (v1::TraceReply reply; reader->Read(&reply);) {
    if (!trace) trace.emplace(line.output_file.empty() ? out : file);
    for (const v1::TraceSpan& span : reply.spans()) trace->Add(span);
    spans += static_cast<uint64_t>(reply.spans_size());
    dropped += reply.dropped();
  }
  if (trace) trace->End();
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return ReportFailure(line, status, err);
  if (dropped > 0) {
    err << fmt::format("shadowctl: the first {} only, {} more are left out\n", Count(spans, "span"),
                       dropped);
  }
  if (line.output_file.empty()) return kExitDone;
  out << fmt::format("{} written to {}\n", Count(spans, "span"), OneLine(line.output_file));
  return kExitDone;
}

}  // namespace shadowserve
