// What only the disk store promises: restarts, crashes, full and forbidden directories, other
// programs.
#include "store/disk_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <fstream>
#include <set>

#include "store/allocation_count_test.h"
#include "store/disk_layout.h"
#include "store/store_test_util.h"

namespace shadowserve {
namespace {

namespace fs = std::filesystem;
using Io = DiskStoreOptions::Io;

class DiskStoreTest : public testing::TestWithParam<Io> {
 protected:
  void SetUp() override {
    if (GetParam() == Io::kSync) return;
    const Result<std::unique_ptr<Store>> store = OpenDiskStore(Options());
    if (store.status().code() == StatusCode::kUnsupported) GTEST_SKIP() << store.status().message();
  }
  DiskStoreOptions Options() const {
    DiskStoreOptions options;
    options.path = dir_.path();
    options.io = GetParam();
    return options;
  }
  std::unique_ptr<Store> Open() { return Open(Options()); }
  static std::unique_ptr<Store> Open(const DiskStoreOptions& options) {
    Result<std::unique_ptr<Store>> store = OpenDiskStore(options);
    SS_CHECK(store.ok(), store.status().ToString());
    return std::move(store).value();
  }
  std::string FileOf(const ObjectName& name) const {
    return dir_.path() + "/" + std::string(ObjectPath(name).view());
  }
  void WriteFile(const std::string& relative, const std::string& text) const {
    const fs::path path = fs::path(dir_.path()) / relative;
    fs::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }

  TempDir dir_;
};

TEST_P(DiskStoreTest, KeepsItsObjectsOverARestart) {
  {
    const auto store = Open();
    StoreDriver driver(store.get());
    for (uint64_t i = 0; i < 20; ++i) ASSERT_EQ(driver.PutPair(i, 5000 + i), StatusCode::kOk);
  }
  const auto store = Open();
  StoreDriver driver(store.get());
  EXPECT_EQ(store->Stats().objects, 40u);
  for (uint64_t i = 0; i < 20; ++i) {
    EXPECT_TRUE(driver.Holds(SegmentName(i), MakeContents(SegmentName(i), 5000 + i)));
    EXPECT_TRUE(driver.Holds(MarkerName(i), MakeContents(MarkerName(i), 64)));
  }
}

TEST_P(DiskStoreTest, OrdersObjectsByTheirModificationAfterARestart) {
  {
    const auto store = Open();
    StoreDriver driver(store.get());
    for (uint64_t i = 0; i < 4; ++i) ASSERT_EQ(driver.PutPair(i, 2000), StatusCode::kOk);
  }
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(5);
  fs::last_write_time(FileOf(SegmentName(2)), old);
  fs::last_write_time(FileOf(MarkerName(2)), old);
  DiskStoreOptions options = Options();
  options.capacity_bytes = 7000;
  const auto store = Open(options);
  EXPECT_FALSE(store->MayContain(SegmentName(2)));
  EXPECT_FALSE(store->MayContain(MarkerName(2)));
  EXPECT_TRUE(store->MayContain(SegmentName(0)));
  EXPECT_FALSE(fs::exists(FileOf(SegmentName(2))));
}

TEST_P(DiskStoreTest, NotesAUseInTheModificationTime) {
  const auto old = fs::file_time_type::clock::now() - std::chrono::hours(5);
  {
    const auto store = Open();
    StoreDriver driver(store.get());
    ASSERT_EQ(driver.PutPair(1, 2000), StatusCode::kOk);
  }
  fs::last_write_time(FileOf(SegmentName(1)), old);
  const auto store = Open();
  StoreDriver driver(store.get());
  ASSERT_EQ(driver.GetCode(SegmentName(1)), StatusCode::kOk);
  EXPECT_GT(fs::last_write_time(FileOf(SegmentName(1))), old);
  // Not for every get: the second within 15 minutes leaves the time alone. (A new quarter of an
  // hour may begin in between, hence three tries.)
  int left_alone = 0;
  for (int i = 0; i < 3; ++i) {
    fs::last_write_time(FileOf(SegmentName(1)), old);
    ASSERT_EQ(driver.GetCode(SegmentName(1)), StatusCode::kOk);
    left_alone += fs::last_write_time(FileOf(SegmentName(1))) == old ? 1 : 0;
  }
  EXPECT_GE(left_alone, 2);
}

TEST_P(DiskStoreTest, DropsHalvesOfChunksAndUnfinishedFilesAtStart) {
  {
    const auto store = Open();
    StoreDriver driver(store.get());
    for (uint64_t i = 0; i < 3; ++i) ASSERT_EQ(driver.PutPair(i, 1000), StatusCode::kOk);
  }
  fs::remove(FileOf(MarkerName(0)));
  fs::remove(FileOf(SegmentName(1)));
  WriteFile("tmp/ss1-5.part", "cut short");
  const auto store = Open();
  EXPECT_FALSE(store->MayContain(SegmentName(0)));
  EXPECT_FALSE(store->MayContain(MarkerName(1)));
  EXPECT_TRUE(store->MayContain(SegmentName(2)));
  EXPECT_EQ(store->Stats().objects, 2u);
  EXPECT_FALSE(fs::exists(FileOf(SegmentName(0))));
  EXPECT_FALSE(fs::exists(FileOf(MarkerName(1))));
  EXPECT_TRUE(fs::is_empty(dir_.path() + "/tmp"));
}

TEST_P(DiskStoreTest, LeavesForeignFilesAlone) {
  const std::string hex(64, 'a');
  const std::set<std::string> foreign = {"notes.txt",
                                         "tmp/mine",
                                         "aa/x",
                                         "aa/" + hex + ".raw.none.l0+1.h0of1.seg.bak",
                                         "ab/" + hex + ".raw.none.l0+1.h0of1.seg",
                                         "sub/aa/file"};
  for (const std::string& file : foreign) WriteFile(file, "foreign");
  const std::string as_folder = "aa/" + hex + ".raw.none.l0+1.h0of1.seg";
  fs::create_directories(dir_.path() + "/" + as_folder);
  const auto store = Open();
  EXPECT_EQ(store->Stats().objects, 0u);
  for (const std::string& file : foreign) EXPECT_TRUE(fs::exists(dir_.path() + "/" + file)) << file;
  EXPECT_TRUE(fs::exists(dir_.path() + "/" + as_folder));
}

TEST_P(DiskStoreTest, RefusesADirectoryThatIsInUse) {
  const auto store = Open();
  const Status second = OpenDiskStore(Options()).status();
  EXPECT_EQ(second.code(), StatusCode::kUnavailable);
  EXPECT_EQ(second.message(),
            "store directory '" + dir_.path() + "': in use by another data plane");
}

TEST_P(DiskStoreTest, NamesADirectoryThatCannotBe) {
  WriteFile("file", "");
  DiskStoreOptions options = Options();
  options.path += "/file/store";
  const Status status = OpenDiskStore(options).status();
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(options.path));
}

TEST_P(DiskStoreTest, MissesWhatOthersDeleted) {
  const auto store = Open();
  StoreDriver driver(store.get());
  ASSERT_EQ(driver.PutPair(1, 1000), StatusCode::kOk);
  fs::remove(FileOf(SegmentName(1)));
  EXPECT_TRUE(store->MayContain(SegmentName(1)));
  EXPECT_EQ(driver.GetCode(SegmentName(1)), StatusCode::kNotFound);
  EXPECT_FALSE(store->MayContain(SegmentName(1)));
  EXPECT_EQ(driver.Delete(MarkerName(1)), StatusCode::kOk);
}

TEST_P(DiskStoreTest, ReportsTheSizeThatAFileReallyHas) {
  const auto store = Open();
  StoreDriver driver(store.get());
  ASSERT_EQ(driver.PutPair(1, 1000), StatusCode::kOk);
  fs::resize_file(FileOf(SegmentName(1)), 300);
  Bytes buffer(1000);
  EXPECT_EQ(driver.Run(StoreOp::kGet, SegmentName(1), buffer).bytes, 300u);
  fs::resize_file(FileOf(SegmentName(1)), 1001);
  EXPECT_EQ(driver.Run(StoreOp::kGet, SegmentName(1), buffer).code, StatusCode::kCorrupt);
}

TEST_P(DiskStoreTest, GoesOnWhenItsFoldersAreDeleted) {
  const auto store = Open();
  StoreDriver driver(store.get());
  ASSERT_EQ(driver.PutPair(1, 1000), StatusCode::kOk);
  for (const auto& entry : fs::directory_iterator(dir_.path())) fs::remove_all(entry.path());
  EXPECT_EQ(driver.GetCode(SegmentName(1)), StatusCode::kNotFound);
  ASSERT_EQ(driver.PutPair(1, 2000), StatusCode::kOk);
  EXPECT_TRUE(driver.Holds(SegmentName(1), MakeContents(SegmentName(1), 2000)));
}

TEST_P(DiskStoreTest, IsUnavailableForPutsWhenItsDirectoryIsGone) {
  const auto store = Open();
  StoreDriver driver(store.get());
  ASSERT_EQ(driver.PutPair(1, 1000), StatusCode::kOk);
  fs::remove_all(dir_.path());
  EXPECT_EQ(driver.GetCode(SegmentName(1)), StatusCode::kNotFound);
  EXPECT_EQ(driver.PutPair(2, 1000), StatusCode::kUnavailable);
}

TEST_P(DiskStoreTest, AllocatesNothingForGetsAndReplacements) {
  const auto store = Open();
  StoreDriver driver(store.get());
  for (uint64_t i = 0; i < 8; ++i) ASSERT_EQ(driver.PutPair(i, 50'000), StatusCode::kOk);
  Bytes buffer(60'000);
  std::vector<StoreRequest> requests;
  for (uint64_t i = 0; i < 8; ++i) {
    requests.push_back({StoreOp::kGet, SegmentName(i), buffer, i});
    requests.push_back({StoreOp::kPut, MarkerName(i), std::span(buffer).first(64), i});
    requests.push_back({StoreOp::kGet, SegmentName(i + 100), buffer, i});
  }
  const size_t before = CountAllocations().calls;
  size_t completed = 0;
  for (int round = 0; round < 20; ++round) {
    size_t accepted = 0;
    while (accepted < requests.size() || completed % requests.size() != 0) {
      accepted += store->Submit(std::span(requests).subspan(accepted));
      std::array<StoreCompletion, 4> done;
      completed += store->Poll(done);
    }
  }
  EXPECT_EQ(CountAllocations().calls, before);
  EXPECT_EQ(completed, 20 * requests.size());
}

// Runs `body` in a child process and returns its exit status: 0 when no expectation failed there.
template <typename Body>
int InChild(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    body();
    std::fflush(nullptr);
    _exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = -1;
  SS_CHECK(waitpid(child, &status, 0) == child, "waitpid");
  return status;
}

// Puts pairs of ever new versions and says so after each.
[[noreturn]] void PutForever(const DiskStoreOptions& options, int report) {
  Result<std::unique_ptr<Store>> store = OpenDiskStore(options);
  if (!store.ok()) _exit(3);
  StoreDriver driver(store->get());
  for (uint64_t version = 0;; ++version) {
    std::array<Bytes, 6> contents;
    for (uint64_t i = 0; i < 6; ++i) {
      contents[i] = MakeContents(SegmentName(i), 100'000, version);
      (void)driver.Start(StoreOp::kPut, SegmentName(i), contents[i]);
    }
    driver.Drain();
    for (uint64_t i = 0; i < 6; ++i) {
      (void)driver.Put(MarkerName(i), MakeContents(MarkerName(i), 64, version));
    }
    if (write(report, &version, sizeof(version)) != sizeof(version)) _exit(4);
  }
}

TEST_P(DiskStoreTest, HoldsOnlyWholeObjectsAfterKills) {
  constexpr uint64_t kVersionsMax = 1000;
  uint64_t found = 0;
  for (int round = 0; round < 8; ++round) {
    int report[2];
    ASSERT_EQ(pipe2(report, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child == 0) PutForever(Options(), report[1]);
    close(report[1]);
    uint64_t version = 0;
    for (int i = 0; i <= round % 3; ++i) {
      ASSERT_EQ(read(report[0], &version, sizeof(version)), ssize_t{sizeof(version)});
    }
    ASSERT_EQ(kill(child, SIGKILL), 0);  // somewhere in the puts of the next version
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    close(report[0]);

    const auto store = Open();
    StoreDriver driver(store.get());
    for (uint64_t i = 0; i < 6; ++i) {
      StatusCode code = StatusCode::kInternal;
      const Bytes read = driver.Get(SegmentName(i), &code);
      if (code == StatusCode::kNotFound) continue;
      ASSERT_EQ(code, StatusCode::kOk);
      bool whole = false;
      for (uint64_t v = 0; v < kVersionsMax && !whole; ++v) {
        whole = read == MakeContents(SegmentName(i), 100'000, v);
      }
      EXPECT_TRUE(whole) << "round " << round << " object " << i;
      EXPECT_TRUE(store->MayContain(MarkerName(i)));
      ++found;
    }
    EXPECT_TRUE(fs::is_empty(dir_.path() + "/tmp"));
  }
  EXPECT_GT(found, 0u);
}

TEST_P(DiskStoreTest, IsExhaustedByAFileSizeLimitAndServesReads) {
  const int status = InChild([this] {
    const auto store = Open();
    StoreDriver driver(store.get());
    ASSERT_EQ(driver.PutPair(1, 5000), StatusCode::kOk);
    signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {10'000, 10'000};
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    EXPECT_EQ(driver.PutPair(2, 50'000), StatusCode::kExhausted);
    EXPECT_FALSE(store->MayContain(SegmentName(2)));
    EXPECT_TRUE(fs::is_empty(dir_.path() + "/tmp"));
    EXPECT_TRUE(driver.Holds(SegmentName(1), MakeContents(SegmentName(1), 5000)));
    EXPECT_EQ(driver.PutPair(3, 5000), StatusCode::kOk);
  });
  EXPECT_EQ(status, 0);
}

TEST_P(DiskStoreTest, IsExhaustedByAFullDiskAndServesReads) {
  const TempDir mount_point;
  if (mount("tmpfs", mount_point.path().c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "cannot mount a small tmpfs here: " << std::strerror(errno);
  }
  {
    DiskStoreOptions options = Options();
    options.path = mount_point.path();
    const auto store = Open(options);
    StoreDriver driver(store.get());
    ASSERT_EQ(driver.PutPair(1, 300'000), StatusCode::kOk);
    EXPECT_EQ(driver.PutPair(2, 1'500'000), StatusCode::kExhausted);
    EXPECT_FALSE(store->MayContain(SegmentName(2)));
    EXPECT_TRUE(driver.Holds(SegmentName(1), MakeContents(SegmentName(1), 300'000)));
    EXPECT_EQ(driver.PutPair(3, 300'000), StatusCode::kOk);
  }
  EXPECT_EQ(umount2(mount_point.path().c_str(), MNT_DETACH), 0);
}

TEST_P(DiskStoreTest, ServesReadsFromADirectoryThatItMayNotWrite) {
  {
    const auto store = Open();
    StoreDriver driver(store.get());
    ASSERT_EQ(driver.PutPair(1, 1000), StatusCode::kOk);
    ASSERT_EQ(driver.PutPair(2, 1000), StatusCode::kOk);
  }
  fs::permissions(dir_.path(), fs::perms(0555));
  for (const auto& entry : fs::directory_iterator(dir_.path())) {
    fs::permissions(entry.path(), fs::perms(entry.is_directory() ? 0555 : 0444));
  }
  const int status = InChild([this] {
    if (geteuid() == 0) {  // who may write everywhere
      ASSERT_EQ(setuid(65534), 0);
    }
    DiskStoreOptions options = Options();
    options.capacity_bytes = 2200;
    const auto store = Open(options);
    StoreDriver driver(store.get());
    EXPECT_EQ(driver.Put(MarkerName(3), Bytes(64)), StatusCode::kUnavailable);
    // This one would have to evict first: nothing may be forgotten for it.
    EXPECT_EQ(driver.PutPair(4, 2000), StatusCode::kUnavailable);
    EXPECT_EQ(store->Stats().objects, 4u);
    EXPECT_TRUE(driver.Holds(SegmentName(1), MakeContents(SegmentName(1), 1000)));
  });
  EXPECT_EQ(status, 0);
  fs::permissions(dir_.path(), fs::perms(0755));
  for (const auto& entry : fs::directory_iterator(dir_.path())) {
    fs::permissions(entry.path(), fs::perms(0755));
  }
}

TEST_P(DiskStoreTest, TellsHowMuchOfAReadHasArrived) {
  const auto store = Open();
  StoreDriver driver(store.get());
  constexpr size_t kSize = 1'500'000;
  ASSERT_EQ(driver.PutPair(1, kSize), StatusCode::kOk);
  const Bytes expected = MakeContents(SegmentName(1), kSize);
  Bytes buffer(kSize + 100);
  uint64_t arrived = 0;
  const StoreRequest get{StoreOp::kGet, SegmentName(1), buffer, 7, &arrived};
  ASSERT_EQ(store->Submit(std::span(&get, 1)), 1u);
  size_t steps = 0;
  StoreCompletion done;
  for (uint64_t last = 0; store->Poll(std::span(&done, 1)) == 0; last = arrived) {
    ASSERT_GE(arrived, last);
    ASSERT_LE(arrived, kSize);
    ASSERT_EQ(std::memcmp(buffer.data(), expected.data(), arrived), 0);
    steps += arrived > last ? 1 : 0;
    pollfd event = {store->event_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&event, 1, 30'000), 1);
  }
  EXPECT_EQ(done.code, StatusCode::kOk);
  EXPECT_EQ(done.bytes, kSize);
  EXPECT_EQ(arrived, kSize);
  EXPECT_GE(steps, 2u);
  EXPECT_EQ(std::memcmp(buffer.data(), expected.data(), kSize), 0);
}

TEST_P(DiskStoreTest, SignalsWhileCompletionsAreLeft) {
  const auto store = Open();
  StoreDriver driver(store.get());
  for (uint64_t i = 0; i < 8; ++i) ASSERT_EQ(driver.PutPair(i, 900'000), StatusCode::kOk);
  std::vector<Bytes> buffers(8, Bytes(1 << 20));
  for (uint64_t i = 0; i < 8; ++i) {
    const StoreRequest get{StoreOp::kGet, SegmentName(i), buffers[i], i};
    ASSERT_EQ(store->Submit(std::span(&get, 1)), 1u);
  }
  for (size_t completed = 0; completed < 8;) {
    pollfd event = {store->event_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&event, 1, 30'000), 1);
    StoreCompletion done;
    completed += store->Poll(std::span(&done, 1));
  }
  // And falls silent: a caller that waits for it does not spin. One Poll may be needed to clear it.
  StoreCompletion none;
  EXPECT_EQ(store->Poll(std::span(&none, 1)), 0u);
  pollfd event = {store->event_fd(), POLLIN, 0};
  EXPECT_EQ(poll(&event, 1, 0), 0);
}

// A caller that polls without waiting takes results before the kernel's workers, who create files,
// have told of them.
TEST_P(DiskStoreTest, StaysSilentAfterTheLastCompletion) {
  const auto store = Open();
  Bytes contents = MakeContents(SegmentName(1), 1000);
  for (uint64_t i = 0; i < 400; ++i) {
    const StoreRequest put{StoreOp::kPut, SegmentName(i % 8), contents, i};
    ASSERT_EQ(store->Submit(std::span(&put, 1)), 1u);
    StoreCompletion done;
    while (store->Poll(std::span(&done, 1)) == 0) {
    }
    ASSERT_EQ(done.code, StatusCode::kOk);
    ASSERT_EQ(store->Poll(std::span(&done, 1)), 0u);
    pollfd event = {store->event_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&event, 1, 1), 0) << i;
  }
}

TEST_P(DiskStoreTest, BindsTheKernelsWorkersToTheGivenCpus) {
  // In a child: workers belong to the thread that submits and outlive a store by some seconds, so
  // those of earlier tests would be seen here too.
  const int status = InChild([this] {
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
    size_t cpu = CPU_SETSIZE - 1;
    while (!CPU_ISSET(cpu, &allowed)) --cpu;
    DiskStoreOptions options = Options();
    options.cpus = {static_cast<int>(cpu)};
    const auto store = Open(options);
    StoreDriver driver(store.get());
    ASSERT_EQ(driver.PutPair(1, 1000), StatusCode::kOk);
    // Workers show up as threads of this process, named iou-wrk-<thread>. Creating a file always
    // takes one.
    int workers = 0;
    for (const auto& task : fs::directory_iterator("/proc/self/task")) {
      std::string name;
      std::ifstream comm(task.path() / "comm");
      std::getline(comm, name);
      cpu_set_t set;
      const pid_t id = std::stoi(task.path().filename());
      if (!name.starts_with("iou-wrk") || sched_getaffinity(id, sizeof(set), &set) != 0) continue;
      ++workers;
      EXPECT_TRUE(CPU_ISSET(cpu, &set) && CPU_COUNT(&set) == 1) << name;
    }
    EXPECT_EQ(workers > 0, GetParam() == Io::kUring);
  });
  EXPECT_EQ(status, 0);
}

INSTANTIATE_TEST_SUITE_P(Io, DiskStoreTest, testing::Values(Io::kUring, Io::kSync),
                         [](const auto& test) {
                           return test.param == Io::kUring ? "uring" : "sync";
                         });

}  // namespace
}  // namespace shadowserve
