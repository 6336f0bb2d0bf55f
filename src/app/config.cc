#include "app/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/address.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

constexpr size_t kListenUidsMax = 64;
constexpr int kCpuMax = 1023;  // CPU_SETSIZE - 1: what sched_setaffinity's fixed set takes

Status Invalid(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

template <typename Number>
bool ParseWhole(std::string_view text, Number& number, int base = 10) {
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number, base);
  return error == std::errc() && stop == end;
}

Result<uint32_t> ParseCount(std::string_view text, uint32_t low, uint32_t high) {
  uint32_t count = 0;
  if (!ParseWhole(text, count) || count < low || count > high) {
    return Invalid(fmt::format("'{}' is no whole number from {} to {}", text, low, high));
  }
  return count;
}

// low < value <= high
Result<double> ParseNumber(std::string_view text, double low, double high) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !(value > low && value <= high)) {
    return Invalid(fmt::format("'{}' is no number above {} and up to {}", text, low, high));
  }
  return value;
}

Result<uint64_t> ParseSize(std::string_view text, uint64_t low, uint64_t high) {
  SS_TRY_ASSIGN(const uint64_t size, ParseByteSize(text));
  if (size < low || size > high) {
    return Invalid(
        fmt::format("'{}' is outside {} to {}", text, FormatByteSize(low), FormatByteSize(high)));
  }
  return size;
}

Status SetListen(Config& config, std::string_view text) {
  SS_TRY(ParseAddress(text).status());
  config.listen = std::string(text);
  return OkStatus();
}

Status SetListenMode(Config& config, std::string_view text) {
  uint32_t mode = 0;
  if (!ParseWhole(text, mode, 8) || mode > 0777) {
    return Invalid(fmt::format("'{}' are no octal permissions (example: 0660)", text));
  }
  config.listen_mode = mode;
  return OkStatus();
}

// "1000,1001"; "any"
Status SetListenUids(Config& config, std::string_view text) {
  std::vector<uint32_t> uids;
  const bool any = text == "any";
  for (size_t start = 0; !any && !text.empty() && start <= text.size();) {
    const size_t comma = std::min(text.find(',', start), text.size());
    if (!ParseWhole(text.substr(start, comma - start), uids.emplace_back()) ||
        uids.size() > kListenUidsMax) {
      return Invalid(
          fmt::format("'{}' is neither any nor a list of up to {} uids "
                      "(example: 1000,1001)",
                      text, kListenUidsMax));
    }
    start = comma + 1;
  }
  config.listen_any_uid = any;
  config.listen_uids = std::move(uids);
  return OkStatus();
}

std::string ShowListenUids(const Config& config) {
  return config.listen_any_uid ? "any" : fmt::format("{}", fmt::join(config.listen_uids, ","));
}

// "1,3-4" -> 1, 3, 4
Status SetCores(Config& config, std::string_view text) {
  const Status bad =
      Invalid(fmt::format("'{}' is no list of CPUs from 0 to {} (example: 1,3-4)", text, kCpuMax));
  std::vector<int> cores;
  for (size_t start = 0; start < text.size() || (start != 0 && start == text.size());) {
    const size_t comma = std::min(text.find(',', start), text.size());
    const std::string_view item = text.substr(start, comma - start);
    const size_t dash = item.find('-');
    int first = 0;
    if (!ParseWhole(item.substr(0, dash), first)) return bad;
    int last = first;
    if (dash != std::string_view::npos && !ParseWhole(item.substr(dash + 1), last)) return bad;
    if (first < 0 || last < first || last > kCpuMax) return bad;
    for (int cpu = first; cpu <= last; ++cpu) cores.push_back(cpu);
    start = comma + 1;
  }
  std::sort(cores.begin(), cores.end());
  if (std::adjacent_find(cores.begin(), cores.end()) != cores.end()) {
    return Invalid(fmt::format("'{}' names a CPU twice", text));
  }
  config.cores = std::move(cores);
  return OkStatus();
}

std::string ShowCores(const Config& config) {
  std::string text;
  for (size_t i = 0; i < config.cores.size();) {
    size_t last = i;
    while (last + 1 < config.cores.size() && config.cores[last + 1] == config.cores[last] + 1) {
      ++last;
    }
    if (!text.empty()) text += ',';
    text += std::to_string(config.cores[i]);
    if (last > i) text += '-' + std::to_string(config.cores[last]);
    i = last + 1;
  }
  return text;
}

Status SetStoreUrl(Config& config, std::string_view text) {
  SS_TRY(CheckStoreUrl(text));
  config.store_url = std::string(text);
  return OkStatus();
}

// redis://user:secret@host -> redis://user:***@host
std::string ShowStoreUrl(const Config& config) {
  const std::string& url = config.store_url;
  const size_t scheme = url.find("://");
  if (scheme == std::string::npos) return url;
  // The last @ of all: a password may hold any character.
  const size_t at = url.rfind('@');
  const size_t colon = url.find(':', scheme + 3);
  if (at == std::string::npos || colon >= at) return url;
  return url.substr(0, colon + 1) + "***" + url.substr(at);
}

Status SetStoreMaxInflight(Config& config, std::string_view text) {
  SS_TRY_ASSIGN(config.store_max_inflight, ParseCount(text, 1, 4096));
  return OkStatus();
}

Status SetProfile(Config& config, std::string_view text) {
  SS_TRY_ASSIGN(config.codec_profile, ParseProfile(text));
  return OkStatus();
}

Status SetLossless(Config& config, std::string_view text) {
  SS_TRY_ASSIGN(config.codec_lossless, ParseCodec(text));
  return OkStatus();
}

Status SetEngine(Config& config, std::string_view text) {
  if (text != kSoftwareEngine && text != kCompressdevEngine) {
    return Invalid(fmt::format("'{}' is no codec engine (software, compressdev)", text));
  }
  config.codec_engine = std::string(text);
  return OkStatus();
}

Status SetCipher(Config& config, std::string_view text) {
  for (const SealAlgorithm algorithm : {SealAlgorithm::kGmac, SealAlgorithm::kAes256Gcm}) {
    if (text != SealAlgorithmName(algorithm)) continue;
    config.auth_cipher = algorithm;
    return OkStatus();
  }
  return Invalid(fmt::format("'{}' is neither gmac nor aes-256-gcm", text));
}

Status SetMetricsListen(Config& config, std::string_view text) {
  if (!text.empty()) SS_TRY(ParseHostPort(text).status());
  config.metrics_listen = std::string(text);
  return OkStatus();
}

std::string_view ShowLogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarn:
      return "warn";
    case LogLevel::kError:
      return "error";
    case LogLevel::kOff:
      break;
  }
  return "off";
}

// clang-format off
constexpr std::array<ConfigKey, 25> kKeys = {{
    {"", "listen", ValueType::kText, "", "control address: unix:///path or tcp://host:port", "--listen",
     SetListen, [](const Config& c) { return c.listen; }},
    {"", "listen_mode", ValueType::kMode, "octal permissions", "of the unix socket's file: who may open it; its owner by default", "",
     SetListenMode, [](const Config& c) { return fmt::format("{:04o}", c.listen_mode); }},
    {"", "listen_uids", ValueType::kText, "user ids", "users that the unix socket serves beside its owner and root, for example 1000,1001; any: all that can open it", "",
     SetListenUids, ShowListenUids},
    {"", "cores", ValueType::kText, "CPU list", "CPUs of the data path, a thread for each, for example 1,3-4; empty: one thread, not pinned", "--cores",
     SetCores, ShowCores},
    {"tls", "ca_file", ValueType::kText, "", "of a tcp:// address: PEM of the authorities that sign clients' certificates; empty: no TLS", "",
     [](Config& c, std::string_view text) { c.tls.ca_file = text; return OkStatus(); },
     [](const Config& c) { return c.tls.ca_file; }},
    {"tls", "cert_file", ValueType::kText, "", "PEM of this data plane's certificate", "",
     [](Config& c, std::string_view text) { c.tls.cert_file = text; return OkStatus(); },
     [](const Config& c) { return c.tls.cert_file; }},
    {"tls", "key_file", ValueType::kText, "", "PEM of its private key", "",
     [](Config& c, std::string_view text) { c.tls.key_file = text; return OkStatus(); },
     [](const Config& c) { return c.tls.key_file; }},
    {"store", "url", ValueType::kText, "", "disk:///dir?capacity=10GiB, memory://?capacity=1GiB, redis://host:port, rediss://, "
     "redis+cluster://a:1,b:2 or rediss+cluster://", "--store",
     SetStoreUrl, ShowStoreUrl},
    {"store", "max_inflight", ValueType::kCount, "requests", "most joins in flight, 1 to 4096; fewer are used while they keep the cores busy", "",
     SetStoreMaxInflight, [](const Config& c) { return std::to_string(c.store_max_inflight); }},
    {"codec", "profile", ValueType::kText, "", "quantizer of what engines save when they name none: raw, lossless, q8, balanced", "",
     SetProfile, [](const Config& c) { return std::string(ProfileName(c.codec_profile)); }},
    {"codec", "lossless", ValueType::kText, "", "codec behind the quantizer: zstd (fastest in software), deflate (what DPUs decode), none", "",
     SetLossless, [](const Config& c) { return std::string(CodecName(c.codec_lossless)); }},
    {"codec", "engine", ValueType::kText, "", "what decodes Deflate blocks: software, or compressdev (a plug-in over DPDK; software takes what it does not decode)", "",
     SetEngine, [](const Config& c) { return c.codec_engine; }},
    {"codec", "engine_device", ValueType::kText, "", "of compressdev: a bus address with its arguments, for example 0000:03:00.0,class=compress, or a software driver, compress_isal or compress_zlib", "",
     [](Config& c, std::string_view text) { c.codec_engine_device = text; return OkStatus(); },
     [](const Config& c) { return c.codec_engine_device; }},
    {"codec", "engine_library", ValueType::kText, "", "file of compressdev's plug-in; empty: libshadowserve_compressdev.so beside the program", "",
     [](Config& c, std::string_view text) { c.codec_engine_library = text; return OkStatus(); },
     [](const Config& c) { return c.codec_engine_library; }},
    {"format", "head_groups", ValueType::kCount, "groups", "groups that KV heads are cut into; the largest tensor-parallel size that shares the store", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.head_groups, ParseCount(text, 1, 256)); return OkStatus(); },
     [](const Config& c) { return std::to_string(c.head_groups); }},
    {"memory", "slab_budget", ValueType::kSize, "bytes", "memory for slabs of fetches and saves together, taken at start", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.slab_budget, ParseSize(text, 512 * kKiB, kTiB)); return OkStatus(); },
     [](const Config& c) { return FormatByteSize(c.slab_budget); }},
    {"memory", "slab_size", ValueType::kSize, "bytes", "one slab; holds the largest segment: 4 MiB of KV and its header", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.slab_size, ParseSize(text, 64 * kKiB, kGiB)); return OkStatus(); },
     [](const Config& c) { return FormatByteSize(c.slab_size); }},
    {"memory", "save_share", ValueType::kNumber, "fraction", "share of the slabs that saves may use, above 0 and up to 0.5", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.save_share, ParseNumber(text, 0, 0.5)); return OkStatus(); },
     [](const Config& c) { return fmt::format("{}", c.save_share); }},
    {"metrics", "listen", ValueType::kText, "", "host:port of the Prometheus page /metrics; port 0 picks one; empty: off", "--metrics",
     SetMetricsListen, [](const Config& c) { return c.metrics_listen; }},
    {"fetch", "deadline_s", ValueType::kNumber, "s", "longest time a load may take, whatever the engine asks for", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.fetch_deadline_s, ParseNumber(text, 0, 600)); return OkStatus(); },
     [](const Config& c) { return fmt::format("{}", c.fetch_deadline_s); }},
    {"quota", "tenant_bytes", ValueType::kSize, "bytes", "most that requests of one cache salt may save within a window, as stored; 0: no bound", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.quota_tenant_bytes, ParseByteSize(text)); return OkStatus(); },
     [](const Config& c) { return FormatByteSize(c.quota_tenant_bytes); }},
    {"quota", "window_s", ValueType::kNumber, "s", "length of a window of quota.tenant_bytes", "",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.quota_window_s, ParseNumber(text, 0, 31'536'000)); return OkStatus(); },
     [](const Config& c) { return fmt::format("{}", c.quota_window_s); }},
    {"auth", "key_file", ValueType::kText, "", "file of one or two keys that authenticate objects, read at start; empty: none", "",
     [](Config& c, std::string_view text) { c.auth_key_file = text; return OkStatus(); },
     [](const Config& c) { return c.auth_key_file; }},
    {"auth", "cipher", ValueType::kText, "", "with keys: gmac authenticates what is saved, aes-256-gcm encrypts it too", "",
     SetCipher, [](const Config& c) { return std::string(SealAlgorithmName(c.auth_cipher)); }},
    {"log", "level", ValueType::kText, "", "debug, info, warn, error or off", "--log-level",
     [](Config& c, std::string_view text) { SS_TRY_ASSIGN(c.log_level, ParseLogLevel(text)); return OkStatus(); },
     [](const Config& c) { return std::string(ShowLogLevel(c.log_level)); }},
}};
// clang-format on

// A setting that could never let anybody in, or keep anybody out, is a mistake.
Status CheckListen(const Config& config) {
  SS_TRY_ASSIGN(const Address address, ParseAddress(config.listen));
  const bool named = config.listen_any_uid || !config.listen_uids.empty();
  if (named && address.path.empty()) {
    return Invalid("listen_uids: only a unix:// address knows its clients' users");
  }
  SS_TRY(CheckTlsFiles(config.tls, address));
  for (const uint32_t uid : config.listen_uids) {
    if (uid == 0 || uid == geteuid() || (config.listen_mode & 0022) != 0) continue;
    return Invalid(
        fmt::format("listen_uids: user {} cannot open a socket of mode {:04o}; set listen_mode to "
                    "0660 (its group) or 0666 (all users)",
                    uid, config.listen_mode));
  }
  return OkStatus();
}

Status CheckEngine(const Config& config) {
  if (config.codec_engine != kSoftwareEngine) {
    if (!config.codec_engine_device.empty()) return OkStatus();
    return Invalid(
        fmt::format("codec.engine_device: codec.engine is {}, which needs one (example: "
                    "0000:03:00.0,class=compress)",
                    config.codec_engine));
  }
  for (const auto& [key, value] : {std::pair("engine_device", &config.codec_engine_device),
                                   {"engine_library", &config.codec_engine_library}}) {
    if (value->empty()) continue;
    return Invalid(
        fmt::format("codec.{}: '{}' is set, but codec.engine is {}, which has none; leave it empty",
                    key, *value, config.codec_engine));
  }
  return OkStatus();
}

}  // namespace

uint32_t Config::save_slabs() const {
  return SaveSlabs(slab_budget, slab_size, save_share);
}

uint32_t Config::fetch_slabs() const {
  return static_cast<uint32_t>(slab_budget / slab_size) - save_slabs();
}

std::string ConfigKey::name() const {
  return section.empty() ? std::string(key) : fmt::format("{}.{}", section, key);
}

std::string ConfigKey::environment() const {
  std::string text = "SHADOWSERVE_" + name();
  for (char& c : text) {
    if (c == '.') c = '_';
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  }
  return text;
}

std::span<const ConfigKey> ConfigKeys() {
  return kKeys;
}

const ConfigKey* FindConfigKey(std::string_view name) {
  for (const ConfigKey& key : kKeys) {
    if (key.name() == name) return &key;
  }
  return nullptr;
}

std::string_view ValueTypeName(ValueType type) {
  switch (type) {
    case ValueType::kText:
      return "text";
    case ValueType::kSize:
      return "size";
    case ValueType::kCount:
      return "whole number";
    case ValueType::kNumber:
      return "number";
    case ValueType::kMode:
      break;
  }
  return "octal mode";
}

Status CheckConfig(const Config& config) {
  SS_TRY(CheckListen(config));
  if (config.slab_budget / config.slab_size < 4) {
    return Invalid(fmt::format(
        "memory.slab_budget: {} holds fewer than four slabs of {} (memory.slab_size): two for "
        "fetches, two for saves",
        FormatByteSize(config.slab_budget), FormatByteSize(config.slab_size)));
  }
  SS_TRY(CheckEngine(config));
  if (config.auth_cipher != SealAlgorithm::kGmac && config.auth_key_file.empty()) {
    return Invalid(fmt::format("auth.cipher: {} without auth.key_file would encrypt nothing",
                               SealAlgorithmName(config.auth_cipher)));
  }
  return OkStatus();
}

}  // namespace shadowserve
