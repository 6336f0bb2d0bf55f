// Where a Redis Cluster keeps a key: one of 16384 slots, each served by one master.
//
// slot = CRC16/XMODEM(key) mod 16384; of a key with a {tag} only the tag counts. The names of a
// chunk's objects share the tag {chain key}, so a chunk lives in one slot.
// Source: Redis Cluster specification, "Key distribution model", "Hash tags", "MOVED Redirection".
#ifndef SHADOWSERVE_STORE_REDIS_SLOTS_H_
#define SHADOWSERVE_STORE_REDIS_SLOTS_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/address.h"
#include "base/result.h"
#include "store/resp_collector.h"

namespace shadowserve {

constexpr uint32_t kRedisSlots = 16384;

uint32_t RedisSlot(std::string_view key);

struct RedisSlotRange {
  uint32_t first = 0;
  uint32_t last = 0;  // inclusive
  HostPort master;
  std::vector<HostPort> replicas;
};

// The answer to CLUSTER SLOTS. A server without an address is where the question was sent to.
// kInvalidArgument: it is no such answer.
Result<std::vector<RedisSlotRange>> ParseClusterSlots(std::span<const RespItem> items,
                                                      const HostPort& asked);

struct RedisRedirect {
  bool ask = false;  // this once only; else the slot has moved
  uint32_t slot = 0;
  HostPort server;
};
// "MOVED 3999 127.0.0.1:6381" or "ASK ..."; an error without text for anything else. An empty host
// is the one that answered.
Result<RedisRedirect> ParseRedirect(std::string_view error, const HostPort& asked);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_REDIS_SLOTS_H_
