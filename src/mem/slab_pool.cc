#include "mem/slab_pool.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace shadowserve {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kHugePageBytes = uint64_t{2} << 20;

uint64_t RoundUp(uint64_t value, uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

Result<Region> Region::Create(uint64_t bytes) {
  const uint64_t mapped = RoundUp(bytes, bytes >= kHugePageBytes ? kHugePageBytes : kPageBytes);
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return Status(StatusCode::kExhausted,
                  "cannot map " + std::to_string(mapped) + " bytes of slabs: " + strerror(errno));
  }
  (void)madvise(base, mapped, MADV_HUGEPAGE);
  // First touch is slow (0.3-1.8 GB/s in a virtual machine): pay it here, not in the first fetch.
  auto* bytes_at = static_cast<volatile char*>(base);
  for (uint64_t offset = 0; offset < mapped; offset += kPageBytes) bytes_at[offset] = 0;
  return Region({static_cast<std::byte*>(base), mapped});
}

Region& Region::operator=(Region&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

Region::~Region() {
  if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

SlabLease& SlabLease::operator=(SlabLease&& other) noexcept {
  if (this != &other) {
    Reset();
    pool_ = std::exchange(other.pool_, nullptr);
    bytes_ = std::exchange(other.bytes_, {});
  }
  return *this;
}

void SlabLease::Reset() {
  if (pool_ != nullptr) std::exchange(pool_, nullptr)->GiveBack(std::exchange(bytes_, {}));
}

Result<std::unique_ptr<SlabPool>> SlabPool::Create(std::string name, uint64_t slab_bytes,
                                                   uint32_t slab_count) {
  auto pool = std::unique_ptr<SlabPool>(new SlabPool);
  pool->name_ = std::move(name);
  pool->slab_bytes_ = RoundUp(slab_bytes, kPageBytes);
  pool->slab_count_ = slab_count;
  SS_TRY_ASSIGN(pool->region_, Region::Create(pool->slab_bytes_ * slab_count));
  pool->free_.reserve(slab_count);
  for (uint32_t i = slab_count; i > 0; --i) {
    pool->free_.push_back(pool->region_.bytes().data() + (i - 1) * pool->slab_bytes_);
  }
  pool->free_count_ = slab_count;
  return pool;
}

SlabPool::~SlabPool() {
  SS_CHECK(free_.size() == slab_count_, "a slab lease outlived its pool");
}

SlabLease SlabPool::TryTake() {
  if (free_.empty()) return {};
  std::byte* slab = free_.back();
  free_.pop_back();
  free_count_.store(static_cast<uint32_t>(free_.size()), std::memory_order_relaxed);
  return SlabLease(this, {slab, slab_bytes_});
}

bool SlabPool::TryTakeAll(std::span<SlabLease> leases) {
  if (free_.size() < leases.size()) return false;
  for (SlabLease& lease : leases) lease = TryTake();
  return true;
}

void SlabPool::GiveBack(std::span<std::byte> slab) {
  free_.push_back(slab.data());
  free_count_.store(static_cast<uint32_t>(free_.size()), std::memory_order_relaxed);
}

}  // namespace shadowserve
