// RedisRequests: the accepted requests of a Redis store, each with the text of its command, and the
// order of changes of one name. A fixed table: nothing is allocated per request. Not thread-safe.
#ifndef SHADOWSERVE_STORE_REDIS_REQUESTS_H_
#define SHADOWSERVE_STORE_REDIS_REQUESTS_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "format/object_name.h"
#include "store/redis_command.h"
#include "store/redis_url.h"
#include "store/store.h"

namespace shadowserve {

class RedisNode;

constexpr uint32_t kRedisQueueDepth = 256;

struct RedisRequest : RedisCommand {
  static constexpr size_t kKeyBytesMax = kRedisKeyPrefixMax + kObjectNameTextMax;
  // READWRITE in front, the header of a command of five arguments, its name, the key, the value's
  // header.
  static constexpr size_t kHeadBytes = 20 + 4 + 12 + 6 + kKeyBytesMax + 2 + 24;
  static constexpr size_t kTailBytes = 2 + 8 + 32;

  StoreRequest request;
  std::array<char, kKeyBytesMax> key;
  size_t key_bytes = 0;
  std::array<char, kHeadBytes> head;
  std::array<char, kTailBytes> tail;
  uint64_t number = 0;  // in order of acceptance
  uint32_t redirects = 0;
  RedisNode* node = nullptr;  // that was asked last
  bool at_replica = false;    // it is asked as a replica
  bool master_only = false;   // a replica did not have it
  bool used = false;
  bool waits = false;  // for an earlier change of the same name

  std::string_view key_text() const { return {key.data(), key_bytes}; }
};

class RedisRequests {
 public:
  RedisRequests(std::string key_prefix, uint64_t ttl_s);

  bool full() const { return free_.empty(); }
  // REQUIRES: not full. `expected_bytes` of a get is the caller's to set.
  RedisRequest* Take(const StoreRequest& request);
  // Frees it; the next change of its name that waited for it, or null.
  RedisRequest* Release(RedisRequest* request);
  // Writes the command; with another one in front, unless `prefix` is empty, that tells a server of
  // a cluster how to take it (ASKING, READONLY, READWRITE).
  void Compose(RedisRequest* request, std::string_view prefix) const;

 private:
  bool EarlierChange(const ObjectName& name) const;

  const std::string key_prefix_;
  const uint64_t ttl_s_;
  std::vector<RedisRequest> requests_;
  std::vector<RedisRequest*> free_;
  uint64_t next_number_ = 0;
  uint32_t changes_ = 0;
  uint32_t waiting_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_REQUESTS_H_
