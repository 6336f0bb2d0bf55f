// Keys of chunks: a SHA-256 chain that binds what the KV *means* (design.md, "Keys and names").
//
// Canonical encoding, all integers little-endian, every variable part length-prefixed:
//   root  = SHA-256("shadowserve root v1"  | parts: u32 count, then per part u32 length, bytes)
//   key_i = SHA-256("shadowserve chunk v1" | parent 32 B | u32 256 | 256 x u32 token
//                   | u32 extras_length | extras)
// parent of chunk 0 is the request's root. `extras` carries what enters at this chunk (for example
// multimodal items with their position); it is inherited by all later chunks through the chain.
// No process-random seed takes part. Thread-safe.
#ifndef SHADOWSERVE_FORMAT_CHUNK_KEY_H_
#define SHADOWSERVE_FORMAT_CHUNK_KEY_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace shadowserve {

using Digest = std::array<std::byte, 32>;
using ChunkKey = Digest;

Digest Sha256(std::span<const std::byte> bytes);
std::string ToHex(std::span<const std::byte> bytes);
Result<Digest> DigestFromHex(std::string_view hex);  // exactly 64 lower-case digits

// Root over named parts, e.g. model fingerprint, KV dtype, cache salt, LoRA digest.
Digest RootKey(std::span<const std::string_view> parts);
// REQUIRES: tokens.size() == kChunkTokens.
ChunkKey NextChunkKey(const Digest& parent, std::span<const uint32_t> tokens,
                      std::string_view extras = {});

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_CHUNK_KEY_H_
