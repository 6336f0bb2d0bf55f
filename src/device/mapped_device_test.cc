// What `mapped` refuses: every descriptor that an engine could use to make the data plane fault or
// pay.
#include "device/mapped_device.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <numeric>
#include <string>
#include <vector>

#include "device/stream_copy.h"

namespace shadowserve {
namespace {

constexpr uint64_t kBytes = 64 << 10;
constexpr int kGoodSeals = F_SEAL_SHRINK | F_SEAL_GROW;

UniqueFd MakeMemory(uint64_t bytes, uint64_t allocated, int seals, unsigned flags = 0) {
  UniqueFd memory(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags));
  EXPECT_TRUE(memory.valid());
  EXPECT_EQ(::ftruncate(memory.get(), static_cast<off_t>(bytes)), 0);
  if (allocated > 0) {
    EXPECT_EQ(::fallocate(memory.get(), 0, 0, static_cast<off_t>(allocated)), 0);
  }
  EXPECT_EQ(::fcntl(memory.get(), F_ADD_SEALS, seals), 0);
  return memory;
}

KvExport MakeExport(UniqueFd memory, uint64_t bytes = kBytes, uint64_t offset = 0) {
  KvExport exported;
  exported.kind = "mapped";
  exported.region_bytes = bytes;
  exported.memory_offset = offset;
  exported.memory_fd = std::move(memory);
  return exported;
}

void ExpectRefused(KvExport exported, std::string_view why) {
  const Status status = OpenKvDevice(std::move(exported)).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find(why), std::string_view::npos) << status.ToString();
}

TEST(MappedDevice, MapsExactlyTheRegion) {
  UniqueFd memory = MakeMemory(kBytes, kBytes, kGoodSeals);
  const std::string text = "hello";
  ASSERT_EQ(::pwrite(memory.get(), text.data(), text.size(), 8192 + 64), 5);
  Result<std::unique_ptr<KvDevice>> device =
      OpenKvDevice(MakeExport(std::move(memory), 4097, 8192 + 64));
  ASSERT_TRUE(device.ok()) << device.status().ToString();
  EXPECT_EQ((*device)->direct().size(), 4097u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>((*device)->direct().data()), 5), text);
}

TEST(MappedDevice, RefusesAMemfdThatCouldShrinkOrGrow) {
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, 0)), "not sealed");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, F_SEAL_SHRINK)), "not sealed");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, F_SEAL_GROW)), "not sealed");
}

TEST(MappedDevice, RefusesARegionThatTheMemfdDoesNotHold) {
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, kGoodSeals), kBytes + 1), "does not hold");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, kGoodSeals), kBytes, 1), "does not hold");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, kGoodSeals), UINT64_MAX, 64),
                "does not hold");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, kGoodSeals), 64, UINT64_MAX - 32),
                "does not hold");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, kGoodSeals), 0), "empty");
}

TEST(MappedDevice, RefusesMemoryThatTheEngineNeverAllocated) {
  ExpectRefused(MakeExport(MakeMemory(uint64_t{1} << 40, 0, kGoodSeals), uint64_t{1} << 40),
                "holes");
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes / 2, kGoodSeals)), "holes");
}

TEST(MappedDevice, RefusesAMemfdThatMayNotBeWritten) {
  ExpectRefused(MakeExport(MakeMemory(kBytes, kBytes, kGoodSeals | F_SEAL_WRITE)), "mmap");
}

TEST(MappedDevice, RefusesHugePagesWhichFaultWhenTheirPoolIsEmpty) {
  UniqueFd memory(::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB));
  if (!memory.valid()) GTEST_SKIP() << "this kernel has no hugetlbfs: nothing to refuse";
  ASSERT_EQ(::ftruncate(memory.get(), 2 << 20), 0);
  ASSERT_EQ(::fcntl(memory.get(), F_ADD_SEALS, kGoodSeals), 0);
  ExpectRefused(MakeExport(std::move(memory)), "not a memfd");
}

TEST(MappedDevice, RefusesDescriptorsOfOtherKinds) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  const UniqueFd write_end(ends[1]);
  ExpectRefused(MakeExport(UniqueFd(ends[0])), "not a memfd");
  ExpectRefused(MakeExport(UniqueFd(::open("/dev/zero", O_RDWR | O_CLOEXEC))), "not a memfd");
  ExpectRefused(MakeExport(UniqueFd(::open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600))), "");
  ExpectRefused(MakeExport(UniqueFd()), "no descriptor");
}

TEST(KvDeviceTable, RefusesAKindThatDoesNotExist) {
  KvExport exported = MakeExport(UniqueFd());
  exported.kind = "telepathy";
  const Status status = OpenKvDevice(std::move(exported)).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("'telepathy'"), std::string_view::npos);
}

#ifndef SS_HAVE_UCX
TEST(KvDeviceTable, NamesTheRemedyForUcxWhenItIsNotBuilt) {
  KvExport exported = MakeExport(UniqueFd());
  exported.kind = "ucx";
  const Status status = OpenKvDevice(std::move(exported)).status();
  EXPECT_EQ(status.code(), StatusCode::kUnsupported);
  EXPECT_NE(status.message().find("SS_UCX_ROOT"), std::string_view::npos);
}
#endif

TEST(CopyPastCache, CopiesEveryByteAndNoneMoreAtAnyAlignment) {
  std::vector<std::byte> source(700);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i % 251 + 1);
  for (size_t to = 0; to < 66; to += 5) {
    for (size_t from = 0; from < 20; from += 3) {
      for (const size_t bytes : {0u, 1u, 63u, 64u, 65u, 200u, 513u}) {
        std::vector<std::byte> target(800);
        std::vector<std::byte> expected(800);
        std::copy_n(source.begin() + static_cast<ptrdiff_t>(from), bytes,
                    expected.begin() + static_cast<ptrdiff_t>(to));
        CopyPastCache(target.data() + to, source.data() + from, bytes);
        ASSERT_EQ(target, expected) << to << " " << from << " " << bytes;
      }
    }
  }
}

}  // namespace
}  // namespace shadowserve
