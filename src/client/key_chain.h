// The chunk keys of one request (format/chunk_key.h), grown as tokens become known.
// Not thread-safe.
#ifndef SHADOWSERVE_CLIENT_KEY_CHAIN_H_
#define SHADOWSERVE_CLIENT_KEY_CHAIN_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "format/chunk_key.h"

namespace shadowserve {

// Something besides tokens that takes part in a request's KV from a position on, e.g. a picture.
struct KeyExtra {
  uint64_t position = 0;  // token index in the request
  std::string bytes;
};
constexpr size_t kMaxExtras = 65'536;
constexpr size_t kMaxExtraBytes = 64 * 1024;  // each: digests and names, not contents

// Root of one request: the engine's root, the namespace ("" until a reset), then the request's
// parts.
Digest RequestRoot(const Digest& engine_root, std::string_view name_space,
                   std::span<const std::string> parts);

class KeyChain {
 public:
  KeyChain() = default;
  // kInvalidArgument when the extras are too many or too large.
  static Result<KeyChain> Make(const Digest& root, std::vector<KeyExtra> extras);

  // `tokens`: all of the request's tokens so far, of which those of earlier calls are a prefix.
  // Adds the keys of chunks that are complete now. Cost: one SHA-256 of 1.1 KiB per new chunk.
  void Extend(std::span<const uint32_t> tokens);
  const std::vector<ChunkKey>& keys() const { return keys_; }

 private:
  std::string TakeExtrasBefore(uint64_t end);

  Digest head_{};
  std::vector<ChunkKey> keys_;
  std::vector<KeyExtra> extras_;  // by position
  size_t next_extra_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_KEY_CHAIN_H_
