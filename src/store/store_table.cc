#include "store/store_table.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "store/disk_store.h"
#include "store/faulty_store.h"
#include "store/memory_store.h"
#include "store/redis_store.h"
#include "store/store_url.h"

namespace shadowserve {
namespace {

constexpr std::string_view kFaultyPrefix = "faulty+";

Status CheckDisk(const StoreUrl& url) {
  return ParseDiskStoreUrl(url).status();
}
Result<std::unique_ptr<Store>> OpenDisk(const StoreUrl& url, const StoreOptions& options) {
  SS_TRY_ASSIGN(DiskStoreOptions disk, ParseDiskStoreUrl(url));
  disk.cpus = options.cpus;
  return OpenDiskStore(disk);
}

Status CheckMemory(const StoreUrl& url) {
  return ParseMemoryStoreUrl(url).status();
}
Result<std::unique_ptr<Store>> OpenMemory(const StoreUrl& url, const StoreOptions&) {
  SS_TRY_ASSIGN(const MemoryStoreOptions memory, ParseMemoryStoreUrl(url));
  return MakeMemoryStore(memory);
}

Status CheckRedis(const StoreUrl& url) {
  return ParseRedisStoreUrl(url).status();
}
Result<std::unique_ptr<Store>> OpenRedis(const StoreUrl& url, const StoreOptions& options) {
  SS_TRY_ASSIGN(const RedisStoreOptions redis, ParseRedisStoreUrl(url));
  return OpenRedisStore(redis, options.servers);
}

struct StoreRow {
  std::string_view scheme;
  Status (*check)(const StoreUrl&);
  Result<std::unique_ptr<Store>> (*open)(const StoreUrl&, const StoreOptions&);
};

constexpr std::array<StoreRow, 6> kRows = {{
    {"disk", CheckDisk, OpenDisk},
    {"memory", CheckMemory, OpenMemory},
    {"redis", CheckRedis, OpenRedis},
    {"rediss", CheckRedis, OpenRedis},
    {"redis+cluster", CheckRedis, OpenRedis},
    {"rediss+cluster", CheckRedis, OpenRedis},
}};

Result<const StoreRow*> FindRow(std::string_view scheme) {
  const auto row = std::ranges::find(kRows, scheme, &StoreRow::scheme);
  if (row != kRows.end()) return &*row;
  std::string known;
  for (const StoreRow& each : kRows) known += std::string(each.scheme) + ", ";
  return Status(StatusCode::kInvalidArgument, "store URL: unknown scheme '" + std::string(scheme) +
                                                  "' (known: " + known + "faulty+<any of these>)");
}

}  // namespace

Status CheckStoreUrl(std::string_view url) {
  SS_TRY_ASSIGN(StoreUrl parsed, ParseStoreUrl(url));
  if (parsed.scheme.starts_with(kFaultyPrefix)) SS_TRY(TakeFaultOptions(&parsed).status());
  SS_TRY_ASSIGN(const StoreRow* const row, FindRow(parsed.scheme));
  return row->check(parsed);
}

Result<std::unique_ptr<Store>> OpenStore(std::string_view url, const StoreOptions& options) {
  SS_TRY_ASSIGN(StoreUrl parsed, ParseStoreUrl(url));
  const bool faulty = parsed.scheme.starts_with(kFaultyPrefix);
  FaultOptions faults;
  if (faulty) {
    SS_TRY_ASSIGN(faults, TakeFaultOptions(&parsed));
  }
  SS_TRY_ASSIGN(const StoreRow* const row, FindRow(parsed.scheme));
  SS_TRY_ASSIGN(std::unique_ptr<Store> store, row->open(parsed, options));
  if (!faulty) return store;
  return MakeFaultyStore(std::move(store), faults);
}

}  // namespace shadowserve
