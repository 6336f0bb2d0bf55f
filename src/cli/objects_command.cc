// lookup, verify, evict: the verbs that name objects.
#include <fmt/format.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/sync_stream.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/text.h"

namespace shadowserve {
namespace {

using Json = nlohmann::ordered_json;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

v1::ObjectsRequest RequestOf(const CommandLine& line) {
  v1::ObjectsRequest request;
  for (const std::string& key : line.keys) request.add_keys(key);
  for (const std::string& name : line.names) request.add_names(name);
  request.set_all(line.keys.empty() && line.names.empty());
  return request;
}

// {"<list>": [ ... ], totals}: written as it comes, since a store may hold millions of objects.
class JsonList {
 public:
  JsonList(std::ostream& out, std::string_view list) : out_(out) {
    out_ << "{\"" << list << "\": [";
  }
  void Add(const Json& element) {
    out_ << (first_ ? "\n  " : ",\n  ") << Dump(element);
    first_ = false;
  }
  // `totals`: the members after the list.
  void End(const Json& totals) {
    out_ << (first_ ? "]" : "\n]");
    for (const auto& [name, value] : totals.items())
      out_ << ", \"" << name << "\": " << Dump(value);
    out_ << "}\n";
  }

 private:
  std::ostream& out_;
  bool first_ = true;
};

// One line on `err` at each tenth of the way.
class Progress {
 public:
  explicit Progress(std::ostream& err) : err_(err) {}
  void Show(uint64_t checked, uint64_t total) {
    if (total == 0) return;
    const uint64_t tenth = std::min<uint64_t>(checked / (total / 10 + 1), 10);
    if (checked != total && tenth <= shown_) return;
    if (checked == total && done_) return;
    shown_ = tenth;
    done_ = checked == total;
    err_ << fmt::format("checked {} of {}\n", checked, Count(total, "object")) << std::flush;
  }

 private:
  std::ostream& err_;
  uint64_t shown_ = 0;
  bool done_ = false;
};

// A stream that broke off: the JSON that was begun is completed, and says so.
int EndBroken(const CommandLine& line, const grpc::Status& status, JsonList* list,
              std::ostream& err) {
  if (list != nullptr) list->End({{"error", status.error_message()}});
  return ReportFailure(line, status, err);
}

struct VerifyTotals {
  uint64_t checked = 0;
  uint64_t bytes = 0;
  uint64_t damaged = 0;
};

}  // namespace

int RunLookup(const CommandLine& line, std::ostream& out, std::ostream& err) {
  const auto stub = Connect(line);
  grpc::ClientContext context;
  const auto reader = stub->FindObjects(&context, RequestOf(line));
  const bool json = line.format == OutputFormat::kJson;
  std::unique_ptr<JsonList> list;  // begun with the first answer: a failed call prints no JSON
  uint64_t objects = 0;
  uint64_t bytes = 0;
  for (v1::ObjectReply reply; reader->Read(&reply);) {
    if (json && !list) list = std::make_unique<JsonList>(out, "objects");
    if (json) {
      list->Add({{"name", reply.name()}, {"bytes", reply.bytes()}});
    } else {
      out << fmt::format("{} {}\n", OneLine(reply.name()), reply.bytes());
    }
    ++objects;
    bytes += reply.bytes();
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return EndBroken(line, status, list.get(), err);
  if (json) {
    if (!list) list = std::make_unique<JsonList>(out, "objects");
    list->End({{"count", objects}, {"bytes", bytes}});
  } else {
    out << fmt::format("{}, {}\n", Count(objects, "object"), HumanBytes(bytes));
  }
  const bool asked = !line.keys.empty() || !line.names.empty();
  return asked && objects == 0 ? kExitFound : kExitDone;
}

int RunVerify(const CommandLine& line, std::ostream& out, std::ostream& err) {
  const auto stub = Connect(line);
  grpc::ClientContext context;
  const auto reader = stub->VerifyObjects(&context, RequestOf(line));
  const bool json = line.format == OutputFormat::kJson;
  std::unique_ptr<JsonList> list;
  Progress progress(err);
  VerifyTotals totals;
  for (v1::ObjectReply reply; reader->Read(&reply);) {
    totals.checked = std::max(totals.checked, reply.checked());
    totals.bytes += reply.bytes();
    progress.Show(reply.checked(), reply.total());
    if (json && !list) list = std::make_unique<JsonList>(out, "damaged");
    if (reply.problem().empty()) continue;
    ++totals.damaged;
    if (json) {
      list->Add({{"name", reply.name()}, {"bytes", reply.bytes()}, {"problem", reply.problem()}});
    } else {
      out << fmt::format("damaged {}: {}\n", OneLine(reply.name()), OneLine(reply.problem()));
    }
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return EndBroken(line, status, list.get(), err);
  if (json) {
    if (!list) list = std::make_unique<JsonList>(out, "damaged");
    list->End({{"checked", totals.checked},
               {"bytes", totals.bytes},
               {"damaged_count", totals.damaged},
               {"sound", totals.damaged == 0}});
  } else {
    out << fmt::format("{} checked, {}, {} damaged\n", Count(totals.checked, "object"),
                       HumanBytes(totals.bytes), totals.damaged);
  }
  return totals.damaged == 0 ? kExitDone : kExitFound;
}

int RunEvict(const CommandLine& line, std::ostream& out, std::ostream& err) {
  const auto stub = Connect(line);
  grpc::ClientContext context;
  v1::EvictReply reply;
  const grpc::Status status = stub->EvictObjects(&context, RequestOf(line), &reply);
  if (!status.ok()) return ReportFailure(line, status, err);
  if (line.format == OutputFormat::kJson) {
    out << Dump({{"objects", reply.objects()}, {"bytes", reply.bytes()}, {"error", reply.error()}})
        << "\n";
  } else {
    out << fmt::format("evicted {}, {}\n", Count(reply.objects(), "object"),
                       HumanBytes(reply.bytes()));
  }
  if (reply.error().empty()) return kExitDone;
  err << "shadowctl: evict: " << OneLine(reply.error()) << "\n";
  return kExitFound;
}

}  // namespace shadowserve
