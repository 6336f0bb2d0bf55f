// Settings of shadowserved: one table of keys, from which the file, the environment, the command
// line,
// --print-config, --help and docs/config.md all follow.
//
// A value is found in this order, later wins: default, TOML file (--config), environment
// SHADOWSERVE_<SECTION>_<KEY>, command line. An unknown key in the file, an unknown variable with
// the prefix, or a value that can never work is an error that names it. Nothing here opens the
// store, the socket or a device; only the config file is read.
#ifndef SHADOWSERVE_APP_CONFIG_H_
#define SHADOWSERVE_APP_CONFIG_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "base/units.h"
#include "format/object_name.h"
#include "format/seal.h"
#include "pipeline/tunables.h"
#include "rpc/tls.h"

namespace shadowserve {

constexpr const char* kSoftwareEngine = "software";
constexpr const char* kCompressdevEngine = "compressdev";

struct Config {
  std::string listen = "unix:///run/shadowserve.sock";
  uint32_t listen_mode = 0600;
  std::vector<uint32_t> listen_uids;  // beside this user and root
  bool listen_any_uid = false;        // whoever listen_mode lets in
  TlsFiles tls;                       // of a tcp:// address
  // In memory by default: it works everywhere without a directory to choose, and nothing derived
  // from users' prompts reaches a disk unless somebody asked for it.
  std::string store_url = "memory://?capacity=1GiB";
  uint32_t store_max_inflight = kJoinsInflightDefault;
  Profile codec_profile = Profile::kLossless;
  // Fastest in software: per core about 1.6 to 2.7 GB/s of symbols, against 0.4 to 1.0 for Deflate.
  CodecId codec_lossless = CodecId::kZstd;
  std::string codec_engine = kSoftwareEngine;
  std::string codec_engine_device;
  std::string codec_engine_library;  // empty: beside the program
  uint32_t head_groups = 1;
  std::vector<int> cores;  // ascending; empty: no pinning
  uint64_t slab_budget = kSlabBudgetDefault;
  uint64_t slab_size = kSlabBytesDefault;
  double save_share = kSaveShareDefault;
  std::string metrics_listen;  // empty: off
  double fetch_deadline_s = 30;
  uint64_t quota_tenant_bytes = 0;  // of each window; 0: no bound
  double quota_window_s = 86'400;
  std::string auth_key_file;  // empty: objects are not authenticated
  SealAlgorithm auth_cipher = SealAlgorithm::kGmac;
  LogLevel log_level = LogLevel::kInfo;

  // How slab_budget is shared out: save_share of the slabs, at least two, for saves; the rest for
  // fetches. A checked Config has at least two of each, which one unit of work takes.
  uint32_t save_slabs() const;
  uint32_t fetch_slabs() const;
};

enum class ValueType : uint8_t {
  kText,    // TOML string
  kSize,    // TOML string ("256MiB") or integer (bytes)
  kCount,   // TOML integer
  kNumber,  // TOML integer or float
  kMode,    // TOML string ("0660") or octal integer (0o660)
};

struct ConfigKey {
  std::string_view section;  // empty: top level
  std::string_view key;
  ValueType type;
  std::string_view unit;    // "bytes", "s", ...; empty: none
  std::string_view help;    // one line
  std::string_view option;  // on the command line, for example "--store"; empty: none
  // Parses, checks and stores one value. The error says what is wrong with it, not which key it is.
  Status (*set)(Config& config, std::string_view text);
  std::string (*show)(const Config& config);  // the inverse of set

  std::string name() const;         // "store.url"
  std::string environment() const;  // "SHADOWSERVE_STORE_URL"
};

std::span<const ConfigKey> ConfigKeys();
const ConfigKey* FindConfigKey(std::string_view name);
std::string_view ValueTypeName(ValueType type);
// What no single key can tell: that sizes fit each other, that engine and device belong together.
Status CheckConfig(const Config& config);

using Environment = std::map<std::string, std::string, std::less<>>;
// The process's environment. The only reader of it in the data plane.
Environment ReadEnvironment();

struct LoadedConfig {
  Config config;
  // Not empty: print this on standard output and exit 0 (--help, --version, --print-config).
  std::string output;
};

// `arguments`: the command line without the program's name. Every error is one line that names the
// option, variable, file or key; the caller prints it and exits with code 2.
Result<LoadedConfig> LoadConfig(std::span<const std::string> arguments,
                                const Environment& environment);

// The config as a TOML file that LoadConfig reads back to the same values, each key with its unit
// and with where its value came from (`origins`: by key name; absent: "default"). A password in
// store.url is shown as ***.
std::string PrintConfig(const Config& config,
                        const std::map<std::string, std::string, std::less<>>& origins);
std::string HelpText();

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_CONFIG_H_
