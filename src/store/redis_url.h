// The URLs of Redis and Valkey:
//   redis://[user:password@]host:port[/database]      rediss://...  the same over TLS
//   redis+cluster://[user:password@]host:port[,host:port...]       rediss+cluster://...
// User and password may hold %XX escapes. `:password@` is the default user's.
//
// Options:
//   connections         sockets per server for values, 4 unless given (one more is for lookups)
//   password_file       a file whose first line is the password, in place of one in the URL
//   key_prefix          in front of every key: letters, digits and : . _ - (none unless given)
//   ttl_s               seconds after which the server drops an object; 0, the default: never
//   timeout_ms          silence that makes a server count as gone, 2000 unless given
//   connect_timeout_ms  from connect to the answer to AUTH, SELECT and PING, 1000 unless given
//   with a cluster:
//   read_replicas       1: values are read from replicas as well; 0 unless given
//   with TLS:
//   ca_file             PEM of the authorities to trust; the system's unless given
//   cert_file key_file  PEM of this client's certificate and key
//   server_name         name in the server's certificate; the host of the URL unless given
#ifndef SHADOWSERVE_STORE_REDIS_URL_H_
#define SHADOWSERVE_STORE_REDIS_URL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "store/redis_stream.h"
#include "store/store_url.h"

namespace shadowserve {

struct RedisStoreOptions {
  bool cluster = false;
  bool tls = false;
  std::vector<HostPort> servers;  // exactly one unless `cluster`
  std::string user;
  std::string password;
  std::string password_file;
  uint64_t database = 0;
  uint64_t connections = 4;
  std::string key_prefix;
  uint64_t ttl_s = 0;
  uint64_t timeout_ms = 2000;
  uint64_t connect_timeout_ms = 1000;
  bool read_replicas = false;
  TlsOptions tls_options;
};

constexpr size_t kRedisKeyPrefixMax = 64;

// kInvalidArgument names the part that is wrong, never a password.
Result<RedisStoreOptions> ParseRedisStoreUrl(const StoreUrl& url);
// The password in force. kInvalidArgument: its file cannot be read or is empty.
Result<std::string> RedisPassword(const RedisStoreOptions& options);
// The URL without user, password and their file.
std::string DescribeRedisStore(const RedisStoreOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_URL_H_
