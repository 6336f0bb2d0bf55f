// Slabs: fixed-size buffers carved at start from one region that is mapped, touched and counted
// once. A SlabLease owns one slab and gives it back when it dies. Nothing is allocated after
// Create.
//
// Owner thread: the pool and all its leases belong to one thread (the pipeline's), but for the
// counts, which any thread may read. Free slabs are handed out last-in-first-out: the warmest one
// first.
#ifndef SHADOWSERVE_MEM_SLAB_POOL_H_
#define SHADOWSERVE_MEM_SLAB_POOL_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace shadowserve {

// Anonymous memory, page-aligned, touched at creation, huge pages asked for. Move-only.
class Region {
 public:
  static Result<Region> Create(uint64_t bytes);
  Region() = default;
  Region(Region&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Region& operator=(Region&& other) noexcept;
  ~Region();
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  explicit Region(std::span<std::byte> bytes) : bytes_(bytes) {}
  std::span<std::byte> bytes_;
};

class SlabPool;

class SlabLease {
 public:
  SlabLease() = default;
  SlabLease(SlabLease&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), bytes_(std::exchange(other.bytes_, {})) {}
  SlabLease& operator=(SlabLease&& other) noexcept;
  ~SlabLease() { Reset(); }
  void Reset();
  bool valid() const { return pool_ != nullptr; }
  std::span<std::byte> bytes() const { return bytes_; }

 private:
  friend class SlabPool;
  SlabLease(SlabPool* pool, std::span<std::byte> bytes) : pool_(pool), bytes_(bytes) {}
  SlabPool* pool_ = nullptr;
  std::span<std::byte> bytes_;
};

class SlabPool {
 public:
  // `name` is the metric label ("fetch", "save"). kExhausted when the memory cannot be had.
  static Result<std::unique_ptr<SlabPool>> Create(std::string name, uint64_t slab_bytes,
                                                  uint32_t slab_count);
  // Aborts when a lease is still out: a slab would dangle.
  ~SlabPool();

  // An invalid lease when every slab is out.
  SlabLease TryTake();
  // All or nothing: fills every element of `leases`, or touches none and returns false.
  bool TryTakeAll(std::span<SlabLease> leases);

  const std::string& name() const { return name_; }
  std::span<std::byte> memory() const { return region_.bytes(); }  // that all slabs lie in
  uint64_t slab_bytes() const { return slab_bytes_; }
  uint32_t slab_count() const { return slab_count_; }
  uint32_t free_count() const { return free_count_.load(std::memory_order_relaxed); }

 private:
  friend class SlabLease;
  SlabPool() = default;
  void GiveBack(std::span<std::byte> slab);

  std::string name_;
  Region region_;
  uint64_t slab_bytes_ = 0;
  uint32_t slab_count_ = 0;
  std::vector<std::byte*> free_;
  std::atomic<uint32_t> free_count_ = 0;  // relaxed: a statistic; the owner thread alone decides
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_MEM_SLAB_POOL_H_
