#include "store/memory_store.h"

#include <cstring>
#include <utility>
#include <vector>

#include "store/completion_queue.h"
#include "store/object_index.h"

namespace shadowserve {
namespace {

constexpr size_t kMemoryQueueDepth = 64;

class MemoryStore final : public Store {
 public:
  explicit MemoryStore(const MemoryStoreOptions& options) : options_(options) {}

  size_t Submit(std::span<const StoreRequest> requests) override {
    size_t accepted = 0;
    while (accepted < requests.size() && ready_.size() < kMemoryQueueDepth) {
      ready_.Push(Run(requests[accepted++]));
    }
    return accepted;
  }
  size_t Poll(std::span<StoreCompletion> completions) override {
    return ready_.PopInto(completions);
  }
  int event_fd() const override { return -1; }
  bool MayContain(const ObjectName& name) const override {
    return index_.Find(name) != ObjectIndex::kNone;
  }
  bool has_index() const override { return true; }
  Status List(const std::function<bool(const ObjectName&, uint64_t)>& visit) override {
    for (uint32_t id = index_.oldest(); id != ObjectIndex::kNone; id = index_.newer(id)) {
      if (!visit(index_.name(id), index_.bytes(id))) break;
    }
    return OkStatus();
  }
  StoreStats Stats() const override {
    return {index_.object_count(), index_.total_bytes(), options_.capacity_bytes, evicted_objects_};
  }
  std::string Describe() const override {
    return "memory://?capacity=" + FormatByteSize(options_.capacity_bytes);
  }

 private:
  StoreCompletion Run(const StoreRequest& request) {
    StoreCompletion done{request.user_data, StatusCode::kOk, 0};
    switch (request.op) {
      case StoreOp::kGet:
        Get(request, &done);
        break;
      case StoreOp::kPut:
        done.code = Put(request);
        break;
      case StoreOp::kDelete:
        Remove(request.name);
        break;
      case StoreOp::kExists:
        done.code = MayContain(request.name) ? StatusCode::kOk : StatusCode::kNotFound;
        break;
    }
    return done;
  }

  void Get(const StoreRequest& request, StoreCompletion* done) {
    const uint32_t id = index_.Find(request.name);
    if (id == ObjectIndex::kNone) {
      done->code = StatusCode::kNotFound;
      return;
    }
    index_.Touch(id);
    done->bytes = index_.bytes(id);
    if (done->bytes > request.buffer.size()) {
      done->code = StatusCode::kCorrupt;
    } else if (done->bytes > 0) {
      std::memcpy(request.buffer.data(), copies_[id].get(), done->bytes);
    }
  }

  StatusCode Put(const StoreRequest& request) {
    const uint64_t bytes = request.buffer.size();
    if (bytes > options_.capacity_bytes) return StatusCode::kExhausted;
    Remove(request.name);
    const uint32_t segment = index_.Find(request.name.AsKind(ObjectKind::kSegment));
    if (segment != ObjectIndex::kNone) index_.Touch(segment);  // must not make room for its marker
    while (index_.total_bytes() + bytes > options_.capacity_bytes) {
      Remove(index_.name(index_.NextVictim(index_.oldest())));
      ++evicted_objects_;
    }
    const uint32_t id = index_.Insert(request.name, bytes);
    if (id == ObjectIndex::kNone) return StatusCode::kExhausted;
    if (id >= copies_.size()) copies_.resize(id + 1);
    copies_[id] = std::make_unique_for_overwrite<std::byte[]>(bytes);
    if (bytes > 0) std::memcpy(copies_[id].get(), request.buffer.data(), bytes);
    return StatusCode::kOk;
  }

  void Remove(const ObjectName& name) {
    const uint32_t id = index_.Find(name);
    if (id == ObjectIndex::kNone) return;
    index_.Erase(id);
    copies_[id].reset();
  }

  const MemoryStoreOptions options_;
  ObjectIndex index_;
  std::vector<std::unique_ptr<std::byte[]>> copies_;  // by entry number of the index
  CompletionQueue<kMemoryQueueDepth> ready_;
  uint64_t evicted_objects_ = 0;
};

}  // namespace

Result<MemoryStoreOptions> ParseMemoryStoreUrl(const StoreUrl& url) {
  if (!url.authority.empty() || !url.path.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "store URL: memory has neither host nor path: write memory://?capacity=1GiB");
  }
  MemoryStoreOptions options;
  StoreUrlOptions reader(url);
  SS_TRY(reader.TakeByteSize("capacity", &options.capacity_bytes));
  SS_TRY(reader.RefuseRest());
  return options;
}

std::unique_ptr<Store> MakeMemoryStore(const MemoryStoreOptions& options) {
  return std::make_unique<MemoryStore>(options);
}

}  // namespace shadowserve
