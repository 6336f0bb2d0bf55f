#include <fmt/format.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>

#include "cli/commands.h"
#include "cli/connection.h"
#include "cli/text.h"

namespace shadowserve {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::chrono::seconds kAnswerTimeout(10);

std::map<std::string, uint64_t> Sorted(const google::protobuf::Map<std::string, uint64_t>& counts) {
  return {counts.begin(), counts.end()};
}

Json ToJson(const v1::StatusReply& reply) {
  Json json = {
      {"version", reply.version()},
      {"uptime_s", reply.uptime_s()},
      {"profile", reply.profile()},
      {"codec", reply.codec()},
      {"resident_bytes", reply.resident_bytes()},
      {"store",
       {{"url", reply.store()},
        {"objects", reply.store_objects()},
        {"bytes", reply.store_bytes()},
        {"capacity_bytes", reply.store_capacity_bytes()},
        {"servers", Json::array()}}},
      {"sessions", Json::array()},
      {"stages", Json::array()},
      {"slabs", Json::array()},
  };
  for (const auto& session : reply.sessions()) {
    json["sessions"].push_back({{"engine_id", session.engine_id()},
                                {"role", session.role()},
                                {"device", session.device()},
                                {"profile", session.profile()},
                                {"loads_in_flight", session.loads_in_flight()},
                                {"saves_in_flight", session.saves_in_flight()},
                                {"region_bytes", session.region_bytes()}});
  }
  for (const auto& stage : reply.stages()) {
    json["stages"].push_back({{"name", stage.name()},
                              {"busy_seconds", stage.busy_seconds()},
                              {"inflight", stage.inflight()}});
  }
  for (const auto& slab : reply.slabs()) {
    json["slabs"].push_back({{"pool", slab.pool()},
                             {"slab_bytes", slab.slab_bytes()},
                             {"total", slab.total()},
                             {"free", slab.free()}});
  }
  for (const auto& server : reply.store_servers()) {
    json["store"]["servers"].push_back({{"address", server.address()},
                                        {"breaker", server.breaker()},
                                        {"events", Sorted(server.events())}});
  }
  json["counters"] = Sorted(reply.counters());
  return json;
}

void PrintSessions(const v1::StatusReply& reply, std::ostream& out) {
  out << fmt::format("sessions   {}\n", reply.sessions_size());
  for (const auto& session : reply.sessions()) {
    out << fmt::format("  {} {}: device {}, profile {}, KV memory {}, loads {}, saves {}\n",
                       OneLine(session.engine_id()), OneLine(session.role()),
                       session.device().empty() ? "-" : OneLine(session.device()),
                       session.profile().empty() ? "-" : OneLine(session.profile()),
                       HumanBytes(session.region_bytes()), session.loads_in_flight(),
                       session.saves_in_flight());
  }
}

void PrintServers(const v1::StatusReply& reply, std::ostream& out) {
  for (const auto& server : reply.store_servers()) {
    out << fmt::format("server     {}: breaker {}", OneLine(server.address()),
                       server.breaker().empty() ? "-" : OneLine(server.breaker()));
    for (const auto& [event, count] : Sorted(server.events())) {
      out << fmt::format(", {} {}", OneLine(event), count);
    }
    out << "\n";
  }
}

void PrintText(const v1::StatusReply& reply, std::ostream& out) {
  const std::string capacity = reply.store_capacity_bytes() == 0
                                   ? "no bound known"
                                   : "of " + HumanBytes(reply.store_capacity_bytes());
  out << fmt::format("version    {}\n", OneLine(reply.version()))
      << fmt::format("uptime     {:.0f} s\n", reply.uptime_s())
      << fmt::format("profile    {}, lossless codec {}\n", OneLine(reply.profile()),
                     OneLine(reply.codec()))
      << fmt::format("store      {}: {}, {} ({})\n", OneLine(reply.store()),
                     Count(reply.store_objects(), "object"), HumanBytes(reply.store_bytes()),
                     capacity)
      << fmt::format("memory     {} resident\n", HumanBytes(reply.resident_bytes()));
  PrintServers(reply, out);
  for (const auto& slab : reply.slabs()) {
    out << fmt::format("slabs      {}: {} of {} free, {} each\n", OneLine(slab.pool()), slab.free(),
                       slab.total(), HumanBytes(slab.slab_bytes()));
  }
  PrintSessions(reply, out);
  for (const auto& stage : reply.stages()) {
    out << fmt::format("stage      {:<11} busy {:.3f} s, in flight {}\n", OneLine(stage.name()),
                       stage.busy_seconds(), stage.inflight());
  }
  for (const auto& [name, value] : Sorted(reply.counters())) {
    out << fmt::format("counter    {} {}\n", OneLine(name), value);
  }
}

}  // namespace

int RunStatus(const CommandLine& line, std::ostream& out, std::ostream& err) {
  const auto stub = Connect(line);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kAnswerTimeout);
  v1::StatusReply reply;
  const grpc::Status status = stub->GetStatus(&context, v1::StatusRequest(), &reply);
  if (!status.ok()) return ReportFailure(line, status, err);
  if (line.format == OutputFormat::kJson) {
    out << ToJson(reply).dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
  } else {
    PrintText(reply, out);
  }
  return kExitDone;
}

}  // namespace shadowserve
