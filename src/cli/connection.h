// What all verbs do with gRPC: make the stub, name a failed call.
#ifndef SHADOWSERVE_CLI_CONNECTION_H_
#define SHADOWSERVE_CLI_CONNECTION_H_

#include <grpcpp/support/status.h>

#include <iosfwd>
#include <memory>

#include "cli/command_line.h"
#include "rpc/control.grpc.pb.h"

namespace shadowserve {

std::unique_ptr<v1::Control::Stub> Connect(const CommandLine& line);
// Prints one line about a call that failed and returns the exit code. REQUIRES: !status.ok().
int ReportFailure(const CommandLine& line, const grpc::Status& status, std::ostream& err);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLI_CONNECTION_H_
