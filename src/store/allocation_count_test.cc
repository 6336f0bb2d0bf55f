#include "store/allocation_count_test.h"

#include <gtest/gtest.h>
#include <malloc.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

namespace {

std::atomic<size_t> g_calls = 0;
std::atomic<size_t> g_live_bytes = 0;

}  // namespace

// The whole program's, which is why this is a file of the test and not of a library.
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  void* const memory = std::malloc(size);
  if (memory == nullptr) return nullptr;
  g_calls.fetch_add(1, std::memory_order_relaxed);
  g_live_bytes.fetch_add(malloc_usable_size(memory), std::memory_order_relaxed);
  return memory;
}
void* operator new(size_t size) {
  void* const memory = operator new(size, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* operator new[](size_t size) {
  return operator new(size);
}
void* operator new[](size_t size, const std::nothrow_t& tag) noexcept {
  return operator new(size, tag);
}
// Not inlined: GCC would see free() on what came from operator new and warn.
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  if (memory != nullptr) {
    g_live_bytes.fetch_sub(malloc_usable_size(memory), std::memory_order_relaxed);
  }
  std::free(memory);
}
void operator delete(void* memory, size_t) noexcept {
  operator delete(memory);
}
void operator delete[](void* memory) noexcept {
  operator delete(memory);
}
void operator delete[](void* memory, size_t) noexcept {
  operator delete(memory);
}

namespace shadowserve {

AllocationCount CountAllocations() {
  return {g_calls.load(), g_live_bytes.load()};
}

namespace {

TEST(AllocationCount, SeesAnAllocation) {
  const AllocationCount before = CountAllocations();
  const auto memory = std::make_unique<std::array<char, 1000>>();
  EXPECT_EQ(CountAllocations().calls, before.calls + 1);
  EXPECT_GE(CountAllocations().live_bytes, before.live_bytes + 1000);
}

}  // namespace
}  // namespace shadowserve
