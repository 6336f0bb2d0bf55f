// Keyed authentication, and optional encryption, of stored objects. What is covered by which tag
// stands in docs/chunk_format.md ("Authentication"); this file knows keys, nonces and tags only.
//
//   PRK    = HMAC-SHA256("shadowserve seal v1", key)              HKDF extract, once per key
//   subkey = HMAC-SHA256(PRK, "object" algorithm chunk_key 0x01)  HKDF expand, 32 bytes
//
// An object's messages (its head, each of its blocks) take the object's random 96-bit nonce with
// the message's number added (xor) to its last four bytes. The cipher is AES-256-GCM of OpenSSL:
// `gmac` passes all bytes as associated data, `aes-256-gcm` encrypts the payload in place.
#ifndef SHADOWSERVE_FORMAT_SEAL_H_
#define SHADOWSERVE_FORMAT_SEAL_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "base/result.h"
#include "format/chunk_key.h"

namespace shadowserve {

struct WireAuth;

// A key of the deployment. Ids are stored in objects; 0 is none.
struct AuthKey {
  uint32_t id = 0;
  std::array<std::byte, 32> secret = {};
  ~AuthKey();  // wipes it
};
constexpr size_t kAuthKeysMax = 2;

// Numbers are stored: never reuse one.
enum class SealAlgorithm : uint8_t { kNone = 0, kGmac = 1, kAes256Gcm = 2 };
std::string_view SealAlgorithmName(SealAlgorithm algorithm);  // "none", "gmac", "aes-256-gcm"

using SealTag = std::array<std::byte, 16>;

// HMAC-SHA256 of two parts one after the other. REQUIRES: together at most 128 bytes.
Digest HmacSha256(std::span<const std::byte> key, std::span<const std::byte> first,
                  std::span<const std::byte> second);

// What one object's messages are sealed with.
struct ObjectSeal {
  SealAlgorithm algorithm = SealAlgorithm::kNone;
  Digest subkey = {};
  std::array<std::byte, 12> nonce = {};
};

// The keys of a data plane, with cipher contexts that are made once. Owner thread: one. Nothing
// below allocates, except to describe an error.
class Seal {
 public:
  // The first key signs, all verify; `algorithm` is for what is written, both are read.
  // kInvalidArgument: no key, too many, an id that is 0 or comes twice, algorithm kNone.
  // kUnavailable: OpenSSL has no AES-256-GCM.
  static Result<std::unique_ptr<Seal>> Create(std::span<const AuthKey> keys,
                                              SealAlgorithm algorithm);
  virtual ~Seal() = default;

  // For an object to be written: key id, algorithm and a fresh nonce into `auth`. Aborts when the
  // kernel gives no random bytes.
  virtual ObjectSeal NewObject(const ChunkKey& key, WireAuth* auth) = 0;
  // For an object that was read. kCorrupt (counted): not sealed, or by a key that is not here.
  virtual Result<ObjectSeal> OfObject(const ChunkKey& key, const WireAuth& auth) = 0;

  // Tag of message `number` of an object: `covered` one after the other, then `payload`, which is
  // encrypted in place if the algorithm does that.
  virtual SealTag SealMessage(const ObjectSeal& object, uint32_t number,
                              std::span<const std::span<const std::byte>> covered,
                              std::span<std::byte> payload) = 0;
  // Whether the tag is right. If so, `payload` is decrypted, else it is as it was.
  virtual bool OpenMessage(const ObjectSeal& object, uint32_t number,
                           std::span<const std::span<const std::byte>> covered,
                           std::span<std::byte> payload, std::span<const std::byte, 16> tag) = 0;

  // kCorrupt with this message; counts it.
  Status Refuse(std::string_view what);
  // Objects refused for want of a right tag, where nothing else was wrong with them.
  uint64_t refused() const { return refused_; }

 private:
  uint64_t refused_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_SEAL_H_
