// Memory whose last byte is followed by a page that cannot be touched: a read or write past the end
// dies at once, also in libraries that sanitizers do not instrument. For tests and fuzzers.
#ifndef SHADOWSERVE_MEM_GUARDED_BUFFER_H_
#define SHADOWSERVE_MEM_GUARDED_BUFFER_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <span>

#include "base/check.h"

namespace shadowserve {

class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t size) : size_(size) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    mapped_ = (size + page - 1) / page * page + page;
    void* memory =
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SS_CHECK(memory != MAP_FAILED, "mmap of a guarded buffer");
    base_ = static_cast<std::byte*>(memory);
    SS_CHECK(mprotect(base_ + mapped_ - page, page, PROT_NONE) == 0, "mprotect of a guard page");
    data_ = base_ + mapped_ - page - size;
  }
  explicit GuardedBuffer(std::span<const std::byte> contents) : GuardedBuffer(contents.size()) {
    std::copy(contents.begin(), contents.end(), data_);
  }
  ~GuardedBuffer() { munmap(base_, mapped_); }
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  std::span<std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* base_ = nullptr;
  std::byte* data_ = nullptr;
  size_t mapped_ = 0;
  size_t size_ = 0;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_MEM_GUARDED_BUFFER_H_
