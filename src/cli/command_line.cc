#include "cli/command_line.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <array>
#include <sstream>

#include "base/version.h"
#include "cli/text.h"
#include "format/chunk_key.h"
#include "format/object_name.h"

namespace shadowserve {
namespace {

constexpr const char* kDefaultAddress = "unix:///run/shadowserve.sock";

struct VerbRow {
  Verb verb;
  const char* name;
  const char* help;
};

constexpr std::array<VerbRow, 6> kVerbs = {{
    {Verb::kStatus, "status", "what the data plane is, holds and does"},
    {Verb::kLookup, "lookup", "list stored objects; exits 1 when those asked for are not there"},
    {Verb::kVerify, "verify", "read and check stored objects; exits 1 when one is damaged"},
    {Verb::kEvict, "evict", "delete stored objects"},
    {Verb::kTrace, "trace", "record what each stage does when, for chrome://tracing or Perfetto"},
    {Verb::kBench, "bench", "measure without a daemon (see bench --help)"},
}};

Status Invalid(std::string_view message) {
  return Status(StatusCode::kInvalidArgument, OneLine(message));
}

// A selector is a chain key or an object's full name.
Status AddSelector(const std::string& text, CommandLine& line) {
  if (DigestFromHex(text).ok()) {
    line.keys.push_back(text);
  } else if (ParseObjectName(text).ok()) {
    line.names.push_back(text);
  } else {
    return Invalid(
        "'" + text +
        "' is neither a chunk key (64 lower-case hex digits) nor an object name (ss1:...)");
  }
  return OkStatus();
}

Status CheckSelection(const CommandLine& line) {
  const bool chosen = !line.keys.empty() || !line.names.empty();
  if (line.all && chosen) return Invalid("evict: --all and keys or names exclude each other");
  if (line.verb == Verb::kEvict && !line.all && !chosen) {
    return Invalid("evict: name what to delete: chunk keys, object names, or --all");
  }
  return OkStatus();
}

}  // namespace

Result<CommandLine> ParseCommandLine(std::span<const std::string> arguments) {
  CommandLine line;
  line.address_text = kDefaultAddress;
  std::string format = "text";
  std::vector<std::string> selectors;

  CLI::App app("Looks into a running ShadowServe data plane and its store.", "shadowctl");
  app.set_version_flag("--version", "shadowctl " + std::string(Version()));
  app.add_option("--connect", line.address_text,
                 "the data plane: unix:///path or tcp://host:port (default " +
                     std::string(kDefaultAddress) + ")");
  TlsFiles tls;
  app.add_option("--tls-ca-file", tls.ca_file,
                 "tcp: PEM of the authorities that sign the data plane's certificate");
  app.add_option("--tls-cert-file", tls.cert_file, "tcp: PEM of this client's certificate");
  app.add_option("--tls-key-file", tls.key_file, "tcp: PEM of its private key");
  app.add_option("--format", format, "text or json (default text)");
  app.require_subcommand(0, 1);  // none at all is reported below: a misspelt one is named first
  app.footer(
      "Exit codes: 0 done, 1 damage found, nothing found or refused, 2 bad command line, "
      "3 data plane not reachable.");
  for (const VerbRow& row : kVerbs) {
    CLI::App* verb = app.add_subcommand(row.name, row.help);
    verb->fallthrough();  // --connect and --format are taken after the verb too
    verb->callback([&line, &row] { line.verb = row.verb; });
    if (row.verb == Verb::kBench) {  // has a command line of its own
      verb->set_help_flag();
      verb->prefix_command();
      verb->fallthrough(false);
    }
    if (row.verb == Verb::kTrace) {
      verb->add_option("--seconds", line.seconds, "how long (default 5, at most 60)")
          ->check(CLI::Range(0.001, 60.0));
      verb->add_option("--output", line.output_file,
                       "the file to write (default: standard output)");
    }
    if (row.verb != Verb::kLookup && row.verb != Verb::kVerify && row.verb != Verb::kEvict)
      continue;
    verb->add_option("object", selectors, "chunk keys (64 hex digits) or object names");
    if (row.verb == Verb::kEvict) verb->add_flag("--all", line.all, "every object of the store");
  }
  try {
    // CLI11 takes the arguments last first.
    app.parse(std::vector<std::string>(arguments.rbegin(), arguments.rend()));
  } catch (const CLI::Success& success) {  // --help, --version
    std::ostringstream text;
    app.exit(success, text, text);
    line.output = text.str();
    if (!line.output.ends_with('\n')) line.output += '\n';
    return line;
  } catch (const CLI::ParseError& error) {
    return Invalid(std::string(error.what()) + " (see --help)");
  }
  if (app.get_subcommands().empty()) {
    return Invalid("say what to do: status, lookup, verify, evict, trace or bench (see --help)");
  }
  if (line.verb == Verb::kBench) line.bench = app.get_subcommand("bench")->remaining();
  if (format != "text" && format != "json") {
    return Invalid("--format: '" + format + "' is neither text nor json");
  }
  line.format = format == "json" ? OutputFormat::kJson : OutputFormat::kText;
  Result<Address> address = ParseAddress(line.address_text);
  if (!address.ok()) return Invalid("--connect: " + std::string(address.status().message()));
  line.address = std::move(address).value();
  SS_TRY(CheckTlsFiles(tls, line.address));
  SS_TRY_ASSIGN(line.tls, ReadTlsFiles(tls));
  for (const std::string& selector : selectors) SS_TRY(AddSelector(selector, line));
  SS_TRY(CheckSelection(line));
  return line;
}

}  // namespace shadowserve
