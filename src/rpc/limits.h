// Bounds on what one control message may carry. Both sides keep to them; both sides refuse more.
#ifndef SHADOWSERVE_RPC_LIMITS_H_
#define SHADOWSERVE_RPC_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace shadowserve {

constexpr uint32_t kProtocolVersion = 1;
// 4096 chunks are 2^20 tokens: longer prefixes are looked up (and loaded) up to here.
constexpr size_t kMaxKeysPerLookup = 4096;
constexpr size_t kMaxKeysPerLoad = 4096;
// Pages have at least this many tokens, so a load names at most 4096 * 256 / 8 of them.
constexpr uint32_t kMinPageTokens = 8;
constexpr size_t kMaxItemsPerSave = 512;
constexpr size_t kMaxIdsPerMessage = 8192;  // attempts in Grant, Cancel, Drained; saves in SaveRead
constexpr size_t kMaxIdBytes = 512;         // engine_id, request_id
constexpr size_t kMaxTextBytes = 4096;      // messages meant for people
constexpr size_t kMaxTokenBytes = 64;       // WorkerHello.side_token
constexpr size_t kMaxUcxBytes = 64 * 1024;  // UCX worker address, remote key
constexpr uint32_t kMaxWorldSize = 4096;
constexpr uint64_t kMaxPages = uint64_t{1} << 32;  // page ids are 32 bits wide
constexpr int kMaxMessageBytes = 4 << 20;

}  // namespace shadowserve

#endif  // SHADOWSERVE_RPC_LIMITS_H_
