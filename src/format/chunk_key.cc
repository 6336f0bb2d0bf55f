#include "format/chunk_key.h"

// The one-shot and EVP interfaces of OpenSSL 3.0 allocate a context per digest; the low-level one
// works on the stack. It is deprecated only in favour of provider selection, which keys do not
// need.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <bit>
#include <limits>

#include "base/check.h"
#include "format/kv_layout.h"
#include "format/wire.h"

namespace shadowserve {
namespace {

constexpr std::string_view kRootLabel = "shadowserve root v1";
constexpr std::string_view kChunkLabel = "shadowserve chunk v1";

class Sha256Stream {
 public:
  Sha256Stream() { SS_CHECK(SHA256_Init(&state_) == 1, "SHA-256 start"); }
  void Add(const void* bytes, size_t count) {
    SS_CHECK(SHA256_Update(&state_, bytes, count) == 1, "SHA-256 update");
  }
  void Add(std::string_view text) { Add(text.data(), text.size()); }
  void AddCount(size_t count) {
    SS_CHECK(count <= std::numeric_limits<uint32_t>::max(), "a key part of 4 GiB or more");
    const Le32 wire = static_cast<uint32_t>(count);
    Add(&wire, sizeof(wire));
  }
  Digest Finish() {
    Digest digest;
    SS_CHECK(SHA256_Final(reinterpret_cast<unsigned char*>(digest.data()), &state_) == 1,
             "SHA-256 finish");
    return digest;
  }

 private:
  SHA256_CTX state_;
};
static_assert(SHA256_DIGEST_LENGTH == sizeof(Digest));

void AddTokens(Sha256Stream& sha, std::span<const uint32_t> tokens) {
  if constexpr (std::endian::native == std::endian::little) {
    sha.Add(tokens.data(), tokens.size_bytes());
  } else {
    for (uint32_t token : tokens) {
      const Le32 wire = token;
      sha.Add(&wire, sizeof(wire));
    }
  }
}

int HexValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

}  // namespace

Digest Sha256(std::span<const std::byte> bytes) {
  Sha256Stream sha;
  sha.Add(bytes.data(), bytes.size());
  return sha.Finish();
}

std::string ToHex(std::span<const std::byte> bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (std::byte byte : bytes) {
    hex.push_back(kDigits[std::to_integer<size_t>(byte >> 4)]);
    hex.push_back(kDigits[std::to_integer<size_t>(byte & std::byte{15})]);
  }
  return hex;
}

Result<Digest> DigestFromHex(std::string_view hex) {
  Digest digest;
  if (hex.size() != digest.size() * 2) {
    return Status(StatusCode::kInvalidArgument, "a digest has exactly 64 hex digits");
  }
  for (size_t i = 0; i < digest.size(); ++i) {
    const int high = HexValue(hex[2 * i]);
    const int low = HexValue(hex[2 * i + 1]);
    if (high < 0 || low < 0) {
      return Status(StatusCode::kInvalidArgument, "a digest has lower-case hex digits only");
    }
    digest[i] = static_cast<std::byte>(high * 16 + low);
  }
  return digest;
}

Digest RootKey(std::span<const std::string_view> parts) {
  Sha256Stream sha;
  sha.Add(kRootLabel);
  sha.AddCount(parts.size());
  for (std::string_view part : parts) {
    sha.AddCount(part.size());
    sha.Add(part);
  }
  return sha.Finish();
}

ChunkKey NextChunkKey(const Digest& parent, std::span<const uint32_t> tokens,
                      std::string_view extras) {
  SS_CHECK(tokens.size() == kChunkTokens, "a chunk key takes a whole chunk");
  Sha256Stream sha;
  sha.Add(kChunkLabel);
  sha.Add(parent.data(), parent.size());
  sha.AddCount(tokens.size());
  AddTokens(sha, tokens);
  sha.AddCount(extras.size());
  sha.Add(extras);
  return sha.Finish();
}

}  // namespace shadowserve
