// The one file that knows OpenSSL's ciphers.
#include "format/seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "format/wire.h"

namespace shadowserve {
namespace {

constexpr std::string_view kSealLabel = "shadowserve seal v1";
constexpr std::string_view kObjectLabel = "object";
constexpr size_t kHmacBlockBytes = 64;
constexpr size_t kHmacMessageMax = 128;

// Random bytes of the kernel, some hundred nonces to a system call. Bytes are handed out once.
class RandomPool {
 public:
  void Take(std::span<std::byte> out) {
    if (next_ + out.size() > bytes_.size()) Refill();
    std::memcpy(out.data(), &bytes_[next_], out.size());
    next_ += out.size();
  }

 private:
  void Refill() {
    for (size_t filled = 0; filled < bytes_.size();) {
      const ssize_t got = getrandom(&bytes_[filled], bytes_.size() - filled, 0);
      SS_CHECK(got > 0 || errno == EINTR, "the kernel gives no random bytes");
      if (got > 0) filled += static_cast<size_t>(got);
    }
    next_ = 0;
  }
  std::array<std::byte, 3072> bytes_ = {};
  size_t next_ = bytes_.size();
};

const unsigned char* Chars(std::span<const std::byte> bytes) {
  return reinterpret_cast<const unsigned char*>(bytes.data());
}
unsigned char* Chars(std::span<std::byte> bytes) {
  return reinterpret_cast<unsigned char*>(bytes.data());
}

// One direction of AES-256-GCM: a context that lives as long as the Seal. A call fails only when
// it is used wrongly, so every result is an SS_CHECK.
class GcmContext {
 public:
  bool Create(bool encrypt) {
    encrypt_ = encrypt ? 1 : 0;
    context_ = EVP_CIPHER_CTX_new();
    return context_ != nullptr &&
           EVP_CipherInit_ex(context_, EVP_aes_256_gcm(), nullptr, nullptr, nullptr, encrypt_) == 1;
  }
  ~GcmContext() { EVP_CIPHER_CTX_free(context_); }  // wipes the key

  void Begin(const Digest& subkey, std::span<const std::byte, 12> nonce) {
    // Setting a key computes its schedule and GHASH tables: only when it is another one.
    const bool same = keyed_ && CRYPTO_memcmp(subkey.data(), subkey_.data(), subkey.size()) == 0;
    SS_CHECK(EVP_CipherInit_ex(context_, nullptr, nullptr, same ? nullptr : Chars(subkey),
                               Chars(nonce), encrypt_) == 1,
             "AES-256-GCM start");
    subkey_ = subkey;
    keyed_ = true;
  }
  void Cover(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    int count = 0;
    SS_CHECK(EVP_CipherUpdate(context_, nullptr, &count, Chars(bytes), Length(bytes)) == 1,
             "AES-256-GCM associated data");
  }
  void Crypt(std::span<std::byte> bytes) {
    if (bytes.empty()) return;
    int count = 0;
    SS_CHECK(EVP_CipherUpdate(context_, Chars(bytes), &count, Chars(bytes), Length(bytes)) == 1 &&
                 count == Length(bytes),
             "AES-256-GCM payload");
  }
  // Encrypting: the tag.
  SealTag Tag() {
    SealTag tag;
    int count = 0;
    std::array<unsigned char, 16> none;
    SS_CHECK(EVP_CipherFinal_ex(context_, none.data(), &count) == 1 &&
                 EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_GET_TAG, 16, tag.data()) == 1,
             "AES-256-GCM tag");
    return tag;
  }
  // Decrypting: whether this is the tag.
  bool Matches(std::span<const std::byte, 16> tag) {
    SealTag copy;
    std::copy(tag.begin(), tag.end(), copy.begin());
    SS_CHECK(EVP_CIPHER_CTX_ctrl(context_, EVP_CTRL_AEAD_SET_TAG, 16, copy.data()) == 1,
             "AES-256-GCM tag");
    int count = 0;
    std::array<unsigned char, 16> none;
    return EVP_CipherFinal_ex(context_, none.data(), &count) == 1;
  }

  GcmContext() = default;
  GcmContext(const GcmContext&) = delete;
  GcmContext& operator=(const GcmContext&) = delete;

 private:
  static int Length(std::span<const std::byte> bytes) {
    SS_CHECK(bytes.size() < size_t{1} << 30, "sealed message of 1 GiB or more");
    return static_cast<int>(bytes.size());
  }
  EVP_CIPHER_CTX* context_ = nullptr;
  int encrypt_ = 1;
  bool keyed_ = false;
  Digest subkey_ = {};
};

struct KeyState {
  uint32_t id = 0;
  Digest prk = {};
};

class GcmSeal final : public Seal {
 public:
  ~GcmSeal() override { OPENSSL_cleanse(keys_.data(), sizeof(keys_)); }

  Status Start(std::span<const AuthKey> keys, SealAlgorithm algorithm) {
    algorithm_ = algorithm;
    for (const AuthKey& key : keys) {
      keys_[key_count_++] = {key.id,
                             HmacSha256(std::as_bytes(std::span(kSealLabel)), key.secret, {})};
    }
    if (!encrypt_.Create(true) || !decrypt_.Create(false)) {
      return Status(StatusCode::kUnavailable, "OpenSSL has no AES-256-GCM");
    }
    return OkStatus();
  }

  ObjectSeal NewObject(const ChunkKey& key, WireAuth* auth) override {
    ObjectSeal object = Derive(keys_[0], algorithm_, key);
    random_.Take(object.nonce);
    auth->key_id = keys_[0].id;
    auth->algorithm = static_cast<uint8_t>(algorithm_);
    std::memcpy(auth->nonce.data(), object.nonce.data(), object.nonce.size());
    return object;
  }

  Result<ObjectSeal> OfObject(const ChunkKey& key, const WireAuth& auth) override {
    const auto algorithm = static_cast<SealAlgorithm>(auth.algorithm);
    if (algorithm != SealAlgorithm::kGmac && algorithm != SealAlgorithm::kAes256Gcm) {
      return Refuse("not authenticated");
    }
    for (const KeyState& known : std::span(keys_).first(key_count_)) {
      if (known.id != auth.key_id) continue;
      ObjectSeal object = Derive(known, algorithm, key);
      std::memcpy(object.nonce.data(), auth.nonce.data(), object.nonce.size());
      return object;
    }
    return Refuse("authenticated by a key that is not in auth.key_file");
  }

  SealTag SealMessage(const ObjectSeal& object, uint32_t number,
                      std::span<const std::span<const std::byte>> covered,
                      std::span<std::byte> payload) override {
    encrypt_.Begin(object.subkey, NonceOf(object, number));
    for (const auto bytes : covered) encrypt_.Cover(bytes);
    if (object.algorithm == SealAlgorithm::kGmac) {
      encrypt_.Cover(payload);
    } else {
      encrypt_.Crypt(payload);
    }
    return encrypt_.Tag();
  }

  bool OpenMessage(const ObjectSeal& object, uint32_t number,
                   std::span<const std::span<const std::byte>> covered,
                   std::span<std::byte> payload, std::span<const std::byte, 16> tag) override {
    if (object.algorithm == SealAlgorithm::kGmac) {
      const SealTag right = SealMessage(object, number, covered, payload);
      return CRYPTO_memcmp(right.data(), tag.data(), right.size()) == 0;
    }
    decrypt_.Begin(object.subkey, NonceOf(object, number));
    for (const auto bytes : covered) decrypt_.Cover(bytes);
    decrypt_.Crypt(payload);
    if (decrypt_.Matches(tag)) return true;
    // The same key stream once more: the payload is as it was. No new tag leaves this function.
    encrypt_.Begin(object.subkey, NonceOf(object, number));
    encrypt_.Crypt(payload);
    (void)encrypt_.Tag();
    return false;
  }

 private:
  static ObjectSeal Derive(const KeyState& key, SealAlgorithm algorithm, const ChunkKey& chunk) {
    std::array<std::byte, kObjectLabel.size() + 1> label;
    std::memcpy(label.data(), kObjectLabel.data(), kObjectLabel.size());
    label.back() = static_cast<std::byte>(algorithm);
    std::array<std::byte, sizeof(ChunkKey) + 1> rest;
    std::copy(chunk.begin(), chunk.end(), rest.begin());
    rest.back() = std::byte{1};
    ObjectSeal object;
    object.algorithm = algorithm;
    object.subkey = HmacSha256(key.prk, label, rest);
    return object;
  }

  static std::array<std::byte, 12> NonceOf(const ObjectSeal& object, uint32_t number) {
    std::array<std::byte, 12> nonce = object.nonce;
    for (size_t i = 0; i < 4; ++i) nonce[8 + i] ^= static_cast<std::byte>(number >> (8 * i));
    return nonce;
  }

  SealAlgorithm algorithm_ = SealAlgorithm::kGmac;
  std::array<KeyState, kAuthKeysMax> keys_ = {};
  size_t key_count_ = 0;
  GcmContext encrypt_;
  GcmContext decrypt_;
  RandomPool random_;
};

}  // namespace

AuthKey::~AuthKey() {
  OPENSSL_cleanse(secret.data(), secret.size());
}

// By hand, over the SHA-256 that works on the stack: OpenSSL 3.0's HMAC and HKDF allocate per call.
Digest HmacSha256(std::span<const std::byte> key, std::span<const std::byte> first,
                  std::span<const std::byte> second) {
  SS_CHECK(key.size() <= kHmacBlockBytes && first.size() + second.size() <= kHmacMessageMax,
           "HMAC sizes");
  std::array<std::byte, kHmacBlockBytes + kHmacMessageMax> inner = {};
  std::array<std::byte, kHmacBlockBytes + sizeof(Digest)> outer = {};
  std::copy(key.begin(), key.end(), inner.begin());
  std::copy(key.begin(), key.end(), outer.begin());
  for (size_t i = 0; i < kHmacBlockBytes; ++i) {
    inner[i] ^= std::byte{0x36};
    outer[i] ^= std::byte{0x5c};
  }
  const auto message = std::copy(first.begin(), first.end(), inner.begin() + kHmacBlockBytes);
  const auto end = std::copy(second.begin(), second.end(), message);
  const Digest digest = Sha256(std::span(inner).first(static_cast<size_t>(end - inner.begin())));
  std::copy(digest.begin(), digest.end(), outer.begin() + kHmacBlockBytes);
  const Digest result = Sha256(outer);
  OPENSSL_cleanse(inner.data(), inner.size());
  OPENSSL_cleanse(outer.data(), outer.size());
  return result;
}

std::string_view SealAlgorithmName(SealAlgorithm algorithm) {
  switch (algorithm) {
    case SealAlgorithm::kNone:
      break;
    case SealAlgorithm::kGmac:
      return "gmac";
    case SealAlgorithm::kAes256Gcm:
      return "aes-256-gcm";
  }
  return "none";
}

Result<std::unique_ptr<Seal>> Seal::Create(std::span<const AuthKey> keys, SealAlgorithm algorithm) {
  const auto bad = [](std::string what) {
    return Status(StatusCode::kInvalidArgument, std::move(what));
  };
  if (keys.empty() || keys.size() > kAuthKeysMax) {
    return bad(std::to_string(keys.size()) + " keys; one or two are allowed");
  }
  if (algorithm == SealAlgorithm::kNone) return bad("keys, but no algorithm");
  for (size_t i = 0; i < keys.size(); ++i) {
    if (keys[i].id == 0) return bad("key id 0 means no key");
    if (i > 0 && keys[i].id == keys[0].id) {
      return bad("key id " + std::to_string(keys[i].id) + " comes twice");
    }
  }
  auto seal = std::make_unique<GcmSeal>();
  SS_TRY(seal->Start(keys, algorithm));
  return std::unique_ptr<Seal>(std::move(seal));
}

Status Seal::Refuse(std::string_view what) {
  ++refused_;
  return Status(StatusCode::kCorrupt, "authentication: " + std::string(what));
}

}  // namespace shadowserve
