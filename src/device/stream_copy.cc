#include "device/stream_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace shadowserve {

#if defined(__x86_64__)
void CopyPastCache(std::byte* target, const std::byte* source, size_t bytes) {
  constexpr size_t kLine = 64;
  // Whole lines only: part lines would be written to memory twice.
  const size_t head =
      std::min(bytes, (kLine - reinterpret_cast<uintptr_t>(target) % kLine) % kLine);
  std::memcpy(target, source, head);
  size_t at = head;
  for (; at + kLine <= bytes; at += kLine) {
    const auto* from = reinterpret_cast<const __m128i*>(source + at);
    auto* to = reinterpret_cast<__m128i*>(target + at);
    const __m128i a = _mm_loadu_si128(from);
    const __m128i b = _mm_loadu_si128(from + 1);
    const __m128i c = _mm_loadu_si128(from + 2);
    const __m128i d = _mm_loadu_si128(from + 3);
    _mm_stream_si128(to, a);
    _mm_stream_si128(to + 1, b);
    _mm_stream_si128(to + 2, c);
    _mm_stream_si128(to + 3, d);
  }
  std::memcpy(target + at, source + at, bytes - at);
  _mm_sfence();  // streamed stores are not ordered by themselves
}
#else
void CopyPastCache(std::byte* target, const std::byte* source, size_t bytes) {
  std::memcpy(target, source, bytes);
}
#endif

}  // namespace shadowserve
