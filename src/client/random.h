// Numbers that nobody else has, from the kernel. Thread-safe.
#ifndef SHADOWSERVE_CLIENT_RANDOM_H_
#define SHADOWSERVE_CLIENT_RANDOM_H_

#include <sys/random.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

namespace shadowserve {

// getrandom(2) gives up to 256 bytes whole, once the kernel has started. REQUIRES: count <= 256.
inline std::string RandomBytes(size_t count) {
  std::string bytes(count, '\0');
  while (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
  }
  return bytes;
}

inline uint64_t RandomNumber() {
  uint64_t number = 0;
  std::memcpy(&number, RandomBytes(sizeof(number)).data(), sizeof(number));
  return number;
}

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_RANDOM_H_
