// For the tests and benchmarks of stores: names, contents, temporary directories, and a driver that
// runs requests to their completion. Everything here may block and allocate.
#ifndef SHADOWSERVE_STORE_STORE_TEST_UTIL_H_
#define SHADOWSERVE_STORE_STORE_TEST_UTIL_H_

#include <poll.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "store/store.h"

namespace shadowserve {

using Bytes = std::vector<std::byte>;

inline ObjectName SegmentName(uint64_t number) {
  ObjectName name;
  name.key = Sha256(std::as_bytes(std::span(&number, 1)));
  name.profile = Profile::kLossless;
  name.codec = CodecId::kDeflate;
  name.first_layer = 4;
  name.layer_count = 2;
  return name;
}
inline ObjectName MarkerName(uint64_t number) {
  return SegmentName(number).AsKind(ObjectKind::kMarker);
}

// Contents that tell their name, version and place: any mixture is seen.
inline Bytes MakeContents(const ObjectName& name, size_t size, uint64_t version = 0) {
  Bytes bytes(size);
  uint64_t state = ObjectNameHash()(name) ^ (version * 0x9E3779B97F4A7C15u) ^ size;
  for (size_t i = 0; i < size; i += sizeof(state)) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t word = state ^ (state >> 29);
    std::memcpy(bytes.data() + i, &word, std::min(sizeof(word), size - i));
  }
  return bytes;
}

enum class TempPlace { kMemory, kDisk };

// In memory (tmpfs) where the machine has it: creating thousands of files on a busy disk takes
// seconds.
class TempDir {
 public:
  explicit TempDir(TempPlace place = TempPlace::kMemory) {
    const std::filesystem::path memory = "/dev/shm";
    const bool in_memory = place == TempPlace::kMemory && access(memory.c_str(), W_OK) == 0;
    const auto parent = in_memory ? memory : std::filesystem::temp_directory_path();
    std::string pattern = (parent / "ss-store-XXXXXX").string();
    SS_CHECK(mkdtemp(pattern.data()) != nullptr, "no temporary directory");
    path_ = pattern;
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class StoreDriver {
 public:
  explicit StoreDriver(Store* store) : store_(store) {}

  // Submits one request, retrying when the queue is full, and waits for everything in flight.
  StoreCompletion Run(StoreOp op, const ObjectName& name, std::span<std::byte> buffer = {}) {
    const uint64_t id = Start(op, name, buffer);
    Drain();
    return done_.at(id);
  }
  uint64_t Start(StoreOp op, const ObjectName& name, std::span<std::byte> buffer = {}) {
    const StoreRequest request{op, name, buffer, next_id_++};
    while (store_->Submit(std::span(&request, 1)) == 0) WaitAndPoll();
    ++inflight_;
    return request.user_data;
  }
  void Drain() {
    while (inflight_ > 0) WaitAndPoll();
  }
  StatusCode Put(const ObjectName& name, Bytes contents) {
    return Run(StoreOp::kPut, name, contents).code;
  }
  // A segment and its marker, as a save does it.
  StatusCode PutPair(uint64_t number, size_t size, uint64_t version = 0) {
    const StatusCode code =
        Put(SegmentName(number), MakeContents(SegmentName(number), size, version));
    if (code != StatusCode::kOk) return code;
    return Put(MarkerName(number), MakeContents(MarkerName(number), 64, version));
  }
  StatusCode Delete(const ObjectName& name) { return Run(StoreOp::kDelete, name).code; }
  // The contents, or nothing and the code.
  Bytes Get(const ObjectName& name, StatusCode* code, size_t buffer_size = 1 << 20) {
    Bytes buffer(buffer_size);
    const StoreCompletion done = Run(StoreOp::kGet, name, buffer);
    *code = done.code;
    buffer.resize(done.code == StatusCode::kOk ? done.bytes : 0);
    return buffer;
  }
  StatusCode GetCode(const ObjectName& name) {
    StatusCode code = StatusCode::kInternal;
    (void)Get(name, &code);
    return code;
  }
  bool Holds(const ObjectName& name, const Bytes& contents) {
    StatusCode code = StatusCode::kInternal;
    return Get(name, &code) == contents && code == StatusCode::kOk;
  }
  const std::map<uint64_t, StoreCompletion>& completions() const { return done_; }
  uint64_t twice() const { return twice_; }
  void WaitAndPoll() {
    if (store_->event_fd() >= 0) {
      pollfd event = {store_->event_fd(), POLLIN, 0};
      // A lost wake-up fails here instead of hanging until the test program is killed.
      SS_CHECK(poll(&event, 1, 30'000) == 1, "the store did not signal within 30 s");
    }
    std::array<StoreCompletion, 8> done;
    const size_t count = store_->Poll(done);
    inflight_ -= count;
    for (const StoreCompletion& completion : std::span(done).first(count)) {
      if (!done_.emplace(completion.user_data, completion).second) ++twice_;
    }
  }

 private:
  Store* store_;
  uint64_t next_id_ = 1;
  uint64_t inflight_ = 0;
  uint64_t twice_ = 0;
  std::map<uint64_t, StoreCompletion> done_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_STORE_TEST_UTIL_H_
