#include "cli/connection.h"

#include <grpcpp/channel.h>

#include <ostream>

#include "cli/commands.h"
#include "cli/text.h"
#include "rpc/channel.h"

namespace shadowserve {

std::unique_ptr<v1::Control::Stub> Connect(const CommandLine& line) {
  return v1::Control::NewStub(MakeChannel(line.address, line.tls));
}

int ReportFailure(const CommandLine& line, const grpc::Status& status, std::ostream& err) {
  const bool unreachable = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                           status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  err << "shadowctl: "
      << (unreachable ? "cannot reach the data plane at " : "refused by the data plane at ")
      << OneLine(line.address_text) << ": " << OneLine(status.error_message()) << "\n";
  return unreachable ? kExitUnreachable : kExitFound;
}

}  // namespace shadowserve
