// Little-endian integers and the shared fields of stored objects, as structs of plain bytes: no
// alignment, no padding, the same on every host. Internal to src/format. Thread-safe: plain values.
#ifndef SHADOWSERVE_FORMAT_WIRE_H_
#define SHADOWSERVE_FORMAT_WIRE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace shadowserve {

template <typename T>
class LittleEndian {
 public:
  LittleEndian() = default;
  LittleEndian(T value) {  // NOLINT(google-explicit-constructor): reads as the integer it holds
    for (size_t i = 0; i < sizeof(T); ++i) bytes_[i] = static_cast<uint8_t>(value >> (8 * i));
  }
  operator T() const {  // NOLINT(google-explicit-constructor)
    T value = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      value = static_cast<T>(value | static_cast<T>(T{bytes_[i]} << (8 * i)));
    }
    return value;
  }

 private:
  uint8_t bytes_[sizeof(T)] = {};
};
using Le16 = LittleEndian<uint16_t>;
using Le32 = LittleEndian<uint32_t>;
using Le64 = LittleEndian<uint64_t>;
static_assert(sizeof(Le16) == 2 && sizeof(Le32) == 4 && sizeof(Le64) == 8 && alignof(Le64) == 1);

// Of authenticated objects (docs/chunk_format.md). Algorithm 0 is none: then every byte is zero.
struct WireAuth {
  std::array<uint8_t, 16> tag = {};
  std::array<uint8_t, 12> nonce = {};
  Le32 key_id;
  uint8_t algorithm = 0;
  std::array<uint8_t, 7> zero = {};
};
static_assert(sizeof(WireAuth) == 40 && alignof(WireAuth) == 1);

template <size_t kSize>
bool AllZero(const std::array<uint8_t, kSize>& bytes) {
  for (uint8_t byte : bytes) {
    if (byte != 0) return false;
  }
  return true;
}

// True for an object without authentication; left-over bytes beside algorithm 0 are refused by the
// readers.
inline bool IsUnauthenticated(const WireAuth& auth) {
  return auth.algorithm == 0 && auth.key_id == 0 && AllZero(auth.tag) && AllZero(auth.nonce) &&
         AllZero(auth.zero);
}

// REQUIRES: bytes.size() >= sizeof(Wire).
template <typename Wire>
Wire LoadWire(std::span<const std::byte> bytes) {
  Wire wire;
  std::memcpy(static_cast<void*>(&wire), bytes.data(), sizeof(Wire));
  return wire;
}

template <typename Wire>
void StoreWire(const Wire& wire, std::span<std::byte> out) {
  std::memcpy(out.data(), static_cast<const void*>(&wire), sizeof(Wire));
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_WIRE_H_
