// The command line of shadowctl.
#ifndef SHADOWSERVE_CLI_COMMAND_LINE_H_
#define SHADOWSERVE_CLI_COMMAND_LINE_H_

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "rpc/tls.h"

namespace shadowserve {

enum class Verb : uint8_t { kStatus, kLookup, kVerify, kEvict, kTrace, kBench };
enum class OutputFormat : uint8_t { kText, kJson };

struct CommandLine {
  std::string output;  // not empty: print this and exit 0 (--help, --version)
  Verb verb = Verb::kStatus;
  Address address;
  std::string address_text;
  std::optional<TlsIdentity> tls;  // of a tcp:// address
  OutputFormat format = OutputFormat::kText;
  // Which objects; both empty: all of them.
  std::vector<std::string> keys;   // chain keys, 64 hex digits
  std::vector<std::string> names;  // object names, format/object_name.h
  bool all = false;
  double seconds = 5;              // of a trace
  std::string output_file;         // of a trace; empty: standard output
  std::vector<std::string> bench;  // what follows the verb bench
};

// `arguments`: without the program's name. Reads the TLS files, nothing else. kInvalidArgument is
// one line that names what is wrong.
Result<CommandLine> ParseCommandLine(std::span<const std::string> arguments);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLI_COMMAND_LINE_H_
