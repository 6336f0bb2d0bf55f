#include "client/kv_export.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>

namespace shadowserve {
namespace {

constexpr size_t kBytes = (size_t{40} << 20) + 321;

KvExportOptions Kinds(std::vector<std::string> kinds) {
  KvExportOptions options;
  options.kinds = std::move(kinds);
  return options;
}

struct Free {
  void operator()(std::byte* memory) const { std::free(memory); }
};
using Malloced = std::unique_ptr<std::byte, Free>;

Malloced MakeMalloced(size_t bytes) {
  Malloced memory(static_cast<std::byte*>(std::malloc(bytes)));
  for (size_t i = 0; i < bytes; i += 97) memory.get()[i] = static_cast<std::byte>(i / 97 % 256);
  return memory;
}

bool HoldsItsBytes(const std::byte* memory, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 97) {
    if (memory[i] != static_cast<std::byte>(i / 97 % 256)) return false;
  }
  return true;
}

TEST(KvExporter, MapsMallocedMemoryInPlaceWithItsContents) {
  const Malloced memory = MakeMalloced(kBytes);
  const auto exporter = KvExporter::Create({memory.get(), kBytes}, Kinds({"mapped"}));
  ASSERT_TRUE(exporter.ok()) << exporter.status().ToString();
  EXPECT_TRUE(HoldsItsBytes(memory.get(), kBytes));
  const KvExportInfo& info = (*exporter)->info();
  EXPECT_EQ(info.kind, "mapped");
  EXPECT_EQ(info.region_bytes, kBytes);
  EXPECT_EQ(info.memory_offset, reinterpret_cast<uint64_t>(memory.get()) % 4096);
  // A store to the region is one to the memfd.
  const std::byte mark{0xa5};
  memory.get()[kBytes - 1] = mark;
  std::byte seen{};
  ASSERT_EQ(::pread((*exporter)->memory_fd(), &seen, 1,
                    static_cast<off_t>(info.memory_offset + kBytes - 1)),
            1);
  EXPECT_EQ(seen, mark);
}

TEST(KvExporter, SealsItsMemoryAndAllocatesAllOfIt) {
  const Malloced memory = MakeMalloced(kBytes);
  const auto exporter = KvExporter::Create({memory.get(), kBytes}, Kinds({"mapped"}));
  ASSERT_TRUE(exporter.ok());
  const int fd = (*exporter)->memory_fd();
  EXPECT_EQ(::fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL),
            F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  EXPECT_NE(::ftruncate(fd, 4096), 0);
  struct stat info {};
  ASSERT_EQ(::fstat(fd, &info), 0);
  EXPECT_GE(info.st_blocks * 512, info.st_size);
  EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
}

TEST(KvExporter, LeavesOrdinaryMemoryThatCanBeFreedWhenItGoes) {
  Malloced memory = MakeMalloced(kBytes);
  {
    const auto exporter = KvExporter::Create({memory.get(), kBytes}, Kinds({"mapped"}));
    ASSERT_TRUE(exporter.ok());
  }
  EXPECT_TRUE(HoldsItsBytes(memory.get(), kBytes));
  std::memset(memory.get(), 1, kBytes);
  memory.reset();
  EXPECT_TRUE(HoldsItsBytes(MakeMalloced(kBytes).get(), kBytes));  // the allocator is sound
}

TEST(KvExporter, MapsAPartOfAnArrayAndKeepsItsNeighbours) {
  const Malloced memory = MakeMalloced(kBytes);
  const std::span<std::byte> part(memory.get() + 1000003, (2 << 20) + 17);
  const auto exporter = KvExporter::Create(part, Kinds({"mapped"}));
  ASSERT_TRUE(exporter.ok()) << exporter.status().ToString();
  EXPECT_TRUE(HoldsItsBytes(memory.get(), kBytes));
}

// A mapping of its own, freed at the end.
std::span<std::byte> Map(size_t bytes, int rights, int flags, int fd) {
  void* at = ::mmap(nullptr, bytes, rights, flags, fd, 0);
  EXPECT_NE(at, MAP_FAILED);
  return {static_cast<std::byte*>(at), bytes};
}

TEST(KvExporter, RefusesMemoryThatIsNotThisProcesssOwn) {
  const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const std::span<std::byte> mappings[] = {
      Map(65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1),
      Map(65536, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get()),
      Map(65536, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1)};
  for (const std::span<std::byte> mapping : mappings) {
    const auto exporter = KvExporter::Create(mapping.first(8192), Kinds({"mapped"}));
    EXPECT_EQ(exporter.status().code(), StatusCode::kUnsupported);
    EXPECT_NE(exporter.status().message().find("not private anonymous"), std::string_view::npos);
    ::munmap(mapping.data(), mapping.size());
  }
}

TEST(KvExporter, RefusesMemoryThatReachesBeyondOneMapping) {
  const std::span<std::byte> memory =
      Map(16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  ASSERT_EQ(::mprotect(memory.data() + 8 * 4096, 8 * 4096, PROT_READ), 0);
  const auto exporter = KvExporter::Create(memory.subspan(100, 10 * 4096), Kinds({"mapped"}));
  EXPECT_EQ(exporter.status().code(), StatusCode::kUnsupported);
  EXPECT_NE(exporter.status().message().find("beyond one mapping"), std::string_view::npos);
  ::munmap(memory.data(), memory.size());
}

TEST(KvExporter, RefusesToMapTheSameMemoryTwice) {
  const Malloced memory = MakeMalloced(kBytes);
  ASSERT_TRUE(KvExporter::Create({memory.get(), kBytes}, Kinds({"mapped"})).ok());
  EXPECT_EQ(KvExporter::Create({memory.get(), kBytes}, Kinds({"mapped"})).status().code(),
            StatusCode::kUnsupported);
}

TEST(KvExporter, FallsBackToTheNextKindAndSaysWhy) {
  const std::span<std::byte> shared =
      Map(65536, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
  const auto exporter = KvExporter::Create(shared, Kinds({"mapped", "process_vm"}));
  ASSERT_TRUE(exporter.ok());
  EXPECT_EQ((*exporter)->info().kind, "process_vm");
  EXPECT_EQ((*exporter)->info().address, reinterpret_cast<uint64_t>(shared.data()));
  EXPECT_EQ((*exporter)->memory_fd(), -1);
  EXPECT_TRUE((*exporter)->passed_over().starts_with("mapped: "));
  ::munmap(shared.data(), shared.size());
}

TEST(KvExporter, PutsTheProbeValueWhereItSays) {
  const Malloced memory = MakeMalloced(kBytes);
  const auto exporter = KvExporter::Create({memory.get(), kBytes}, Kinds({"process_vm"}));
  ASSERT_TRUE(exporter.ok());
  uint64_t value = 0;
  std::memcpy(&value, reinterpret_cast<const void*>((*exporter)->info().probe_address),
              sizeof(value));
  EXPECT_EQ(value, (*exporter)->info().probe_value);
}

TEST(KvExporter, RefusesAnUnknownKindAndAnEmptyRegion) {
  std::byte byte{};
  EXPECT_EQ(KvExporter::Create({&byte, 1}, Kinds({"telepathy"})).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(KvExporter::Create({}, Kinds({"process_vm"})).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(KvExporter::Create({&byte, 1}, Kinds({})).status().code(),
            StatusCode::kInvalidArgument);
}

// The engine's process must stay free of UCX unless it is asked for.
TEST(KvExporter, OpensNoUcxForOtherKinds) {
  const Malloced memory = MakeMalloced(kBytes);
  ASSERT_TRUE(KvExporter::Create({memory.get(), kBytes}, Kinds({"mapped"})).ok());
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    EXPECT_EQ(line.find("libucp"), std::string::npos) << line;
  }
}

}  // namespace
}  // namespace shadowserve
