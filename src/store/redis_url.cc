#include "store/redis_url.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <system_error>
#include <utility>

namespace shadowserve {
namespace {

constexpr uint64_t kDatabaseMax = 1'000'000;
constexpr uint64_t kConnectionsMax = 64;
constexpr uint64_t kTimeoutMsMax = 600'000;
constexpr uint64_t kTtlMax = uint64_t{10} * 365 * 24 * 3600;
constexpr size_t kServersMax = 64;
constexpr size_t kPasswordBytesMax = 4096;

Status ParseUser(std::string_view text, RedisStoreOptions* options) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos)
    return BadStoreUrl("user: write user:password@ or :password@");
  if (!UnescapeUrlText(text.substr(0, colon), &options->user) ||
      !UnescapeUrlText(text.substr(colon + 1), &options->password)) {
    return BadStoreUrl("user or password: bad % escape");
  }
  return OkStatus();
}

Status ParseServers(std::string_view text, RedisStoreOptions* options) {
  while (true) {
    const std::string_view one = text.substr(0, text.find(','));
    Result<HostPort> server = ParseHostPort(one);
    if (!server.ok() || server->port == 0) {
      return BadStoreUrl("host: '" + std::string(one) + "' is not host:port");
    }
    options->servers.push_back(std::move(server).value());
    if (one.size() == text.size()) break;
    text.remove_prefix(one.size() + 1);
  }
  if (!options->cluster && options->servers.size() > 1) {
    return BadStoreUrl("host: several hosts need redis+cluster:// or rediss+cluster://");
  }
  if (options->servers.size() > kServersMax) return BadStoreUrl("host: more than 64 hosts");
  return OkStatus();
}

Status ParseDatabase(std::string_view path, RedisStoreOptions* options) {
  if (path.empty() || path == "/") return OkStatus();
  const char* const end = path.data() + path.size();
  const auto [stop, error] = std::from_chars(path.data() + 1, end, options->database);
  if (error != std::errc() || stop != end || options->database > kDatabaseMax) {
    return BadStoreUrl("database: '" + std::string(path.substr(1)) + "' is not a number");
  }
  if (options->cluster && options->database != 0)
    return BadStoreUrl("database: a cluster has only 0");
  return OkStatus();
}

bool IsPrefixText(std::string_view text) {
  return text.size() <= kRedisKeyPrefixMax && std::ranges::all_of(text, [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == ':' || c == '.' || c == '_' || c == '-';
         });
}

Status TakeTlsOptions(StoreUrlOptions* reader, TlsOptions* tls) {
  (void)reader->TakeText("ca_file", &tls->ca_file);
  (void)reader->TakeText("cert_file", &tls->cert_file);
  (void)reader->TakeText("key_file", &tls->key_file);
  (void)reader->TakeText("server_name", &tls->server_name);
  if (tls->cert_file.empty() != tls->key_file.empty()) {
    return BadStoreUrl("options 'cert_file' and 'key_file' belong together");
  }
  return OkStatus();
}

}  // namespace

Result<RedisStoreOptions> ParseRedisStoreUrl(const StoreUrl& url) {
  RedisStoreOptions options;
  options.tls = url.scheme.starts_with("rediss");
  options.cluster = url.scheme.ends_with("+cluster");
  std::string_view servers = url.authority;
  if (const size_t at = servers.rfind('@'); at != std::string_view::npos) {
    SS_TRY(ParseUser(servers.substr(0, at), &options));
    servers.remove_prefix(at + 1);
  }
  if (servers.empty()) return BadStoreUrl("host: write " + url.scheme + "://host:port");
  SS_TRY(ParseServers(servers, &options));
  SS_TRY(ParseDatabase(url.path, &options));
  StoreUrlOptions reader(url);
  SS_TRY(reader.TakeNumber("connections", kConnectionsMax, &options.connections));
  SS_TRY(reader.TakeNumber("ttl_s", kTtlMax, &options.ttl_s));
  SS_TRY(reader.TakeNumber("timeout_ms", kTimeoutMsMax, &options.timeout_ms));
  SS_TRY(reader.TakeNumber("connect_timeout_ms", kTimeoutMsMax, &options.connect_timeout_ms));
  (void)reader.TakeText("password_file", &options.password_file);
  (void)reader.TakeText("key_prefix", &options.key_prefix);
  if (options.cluster) SS_TRY(reader.TakeBool("read_replicas", &options.read_replicas));
  if (options.tls) SS_TRY(TakeTlsOptions(&reader, &options.tls_options));
  SS_TRY(reader.RefuseRest());
  if (options.connections == 0) return BadStoreUrl("option 'connections': at least 1");
  if (options.timeout_ms == 0 || options.connect_timeout_ms == 0) {
    return BadStoreUrl("options 'timeout_ms' and 'connect_timeout_ms': at least 1");
  }
  if (!IsPrefixText(options.key_prefix)) {
    return BadStoreUrl("option 'key_prefix': up to 64 letters, digits and : . _ -");
  }
  if (!options.password.empty() && !options.password_file.empty()) {
    return BadStoreUrl("option 'password_file': the URL has a password already");
  }
  return options;
}

Result<std::string> RedisPassword(const RedisStoreOptions& options) {
  if (options.password_file.empty()) return options.password;
  std::ifstream file(options.password_file);
  std::string password;
  (void)std::getline(file, password);
  while (!password.empty() && (password.back() == '\r' || password.back() == ' ')) {
    password.pop_back();
  }
  if (password.empty() || password.size() > kPasswordBytesMax) {
    return BadStoreUrl("option 'password_file': no password can be read from '" +
                       options.password_file + "'");
  }
  return password;
}

std::string DescribeRedisStore(const RedisStoreOptions& options) {
  std::string text = options.tls ? "rediss" : "redis";
  text += options.cluster ? "+cluster://" : "://";
  for (size_t i = 0; i < options.servers.size(); ++i) {
    const HostPort& server = options.servers[i];
    text += (i == 0 ? "" : ",") + server.host + ":" + std::to_string(server.port);
  }
  if (options.database != 0) text += "/" + std::to_string(options.database);
  return text;
}

}  // namespace shadowserve
