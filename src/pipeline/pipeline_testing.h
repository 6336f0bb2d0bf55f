// For tests of the pipelines: an engine's KV memory in this process, events that are remembered,
// and a bench that drives both pipelines by hand over a real store.
#ifndef SHADOWSERVE_PIPELINE_PIPELINE_TESTING_H_
#define SHADOWSERVE_PIPELINE_PIPELINE_TESTING_H_

#include <gtest/gtest.h>
#include <sched.h>

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "pipeline/fetch_pipeline.h"
#include "pipeline/lookup_pipeline.h"
#include "pipeline/save_pipeline.h"
#include "store/store_decorator.h"
#include "store/store_table.h"

namespace shadowserve::testing {

// How often something is repeated: less under ThreadSanitizer, where each time takes ten times as
// long.
constexpr uint32_t Rounds(uint32_t wanted) {
#if defined(__SANITIZE_THREAD__)
  return wanted / 4;
#else
  return wanted;
#endif
}

// A region in this process: either stored into directly or reached by transfers that complete at
// Poll.
class LocalDevice final : public KvDevice {
 public:
  LocalDevice(std::span<std::byte> region, bool direct) : region_(region), direct_(direct) {}
  std::string_view kind() const override { return direct_ ? "mapped" : "process_vm"; }
  uint64_t region_bytes() const override { return region_.size(); }
  std::span<std::byte> direct() const override {
    return direct_ ? region_ : std::span<std::byte>();
  }
  size_t Submit(std::span<const Transfer> transfers) override {
    for (const Transfer& transfer : transfers) pending_.push_back(transfer);
    return transfers.size();
  }
  size_t Poll(std::span<TransferCompletion> completions) override {
    size_t count = 0;
    for (; count < completions.size() && !pending_.empty(); ++count) {
      const Transfer transfer = pending_.front();
      pending_.pop_front();
      for (const TransferRun& run : transfer.runs) {
        std::byte* remote = region_.subspan(run.offset, run.local.size()).data();
        if (transfer.write) std::memcpy(remote, run.local.data(), run.local.size());
        if (!transfer.write) std::memcpy(run.local.data(), remote, run.local.size());
      }
      completions[count] = TransferCompletion{transfer.user_data, StatusCode::kOk};
    }
    return count;
  }

 private:
  std::span<std::byte> region_;
  bool direct_;
  std::deque<Transfer> pending_;
};

enum class Form { kRows, kCpuVec };

// The KV heads of one tensor-parallel rank.
struct Heads {
  uint32_t first = 0;
  uint32_t count = 0;
};

// The layout of one rank's pages as vLLM makes it: [layer][page][head][cell].
inline PageLayout MakeLayout(const ModelShape& shape, uint32_t page_tokens, uint64_t pages,
                             Form form, Heads heads) {
  const uint64_t element = DtypeBytes(shape.dtype);
  const uint64_t cell = uint64_t{2} * page_tokens * shape.head_dim * element;
  PageLayout layout;
  layout.dtype = shape.dtype;
  layout.page_tokens = page_tokens;
  layout.page_count = pages;
  layout.first_head = heads.first;
  layout.heads = heads.count;
  layout.head_dim = shape.head_dim;
  layout.head_stride = cell;
  layout.page_stride = cell * heads.count;
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    layout.layer_offset.push_back(layer * pages * layout.page_stride);
  }
  if (form == Form::kRows) {
    layout.k = {0, 2 * shape.head_dim * element, element};
    layout.v = {shape.head_dim * element, 2 * shape.head_dim * element, element};
  } else {
    layout.k = {0, element, page_tokens * element};
    layout.v = {cell / 2, shape.head_dim * element, element};
  }
  return layout;
}

// One engine rank: memory, layout, and its registration.
struct EngineMemory {
  std::vector<std::byte> bytes;
  std::unique_ptr<RankMemory> rank;

  EngineMemory(const ModelShape& shape, uint32_t page_tokens, uint64_t pages, Form form,
               bool direct)
      : EngineMemory(shape, page_tokens, pages, form, direct, {0, shape.kv_heads}) {}
  EngineMemory(const ModelShape& shape, uint32_t page_tokens, uint64_t pages, Form form,
               bool direct, Heads heads) {
    PageLayout layout = MakeLayout(shape, page_tokens, pages, form, heads);
    bytes.resize(layout.page_stride * pages * shape.layers);
    rank = RankMemory::Create(shape, std::move(layout),
                              std::make_unique<LocalDevice>(bytes, direct), uint64_t{5} << 20)
               .value();
  }
  // Deterministic, KV-like bits (no pattern that a wrong permutation would keep).
  void Fill(uint64_t seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
    for (size_t i = 0; i + 1 < bytes.size(); i += 2) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      const auto value = static_cast<uint16_t>(0x3c00 + (state >> 40) % 0x0400);
      std::memcpy(&bytes[i], &value, 2);
    }
  }
  uint16_t Value(uint64_t page, uint32_t layer, uint32_t head, bool v, uint32_t token,
                 uint32_t dim) const {
    const PageLayout& layout = rank->layout();
    const PlaneStride& stride = v ? layout.v : layout.k;
    uint16_t value = 0;
    std::memcpy(&value,
                &bytes[PlaneOffset(layout, page, layer, head, v) + token * stride.token_stride +
                       dim * stride.dim_stride],
                2);
    return value;
  }
};

// True when the two page tables hold the same values for tokens [first, tokens), in the heads of
// rank `a`.
inline bool SameTokens(const EngineMemory& a, const std::vector<uint32_t>& a_pages,
                       const EngineMemory& b, const std::vector<uint32_t>& b_pages, uint32_t first,
                       uint32_t tokens) {
  const ModelShape& shape = a.rank->shape();
  const uint32_t a_size = a.rank->layout().page_tokens;
  const uint32_t b_size = b.rank->layout().page_tokens;
  for (uint32_t token = first; token < tokens; ++token) {
    for (uint32_t layer = 0; layer < shape.layers; ++layer) {
      for (uint32_t i = 0; i < a.rank->layout().heads; ++i) {
        const uint32_t head = a.rank->layout().first_head + i;
        for (uint32_t dim = 0; dim < shape.head_dim; ++dim) {
          for (const bool v : {false, true}) {
            if (a.Value(a_pages[token / a_size], layer, head, v, token % a_size, dim) !=
                b.Value(b_pages[token / b_size], layer, head, v, token % b_size, dim)) {
              return false;
            }
          }
        }
      }
    }
  }
  return true;
}

struct Recorder final : PipelineEvents {
  std::map<uint64_t, LoadResult> loads;
  std::map<uint64_t, SaveResult> saves;
  std::vector<std::pair<uint64_t, bool>> reads;  // save id, last
  uint32_t repeated = 0;                         // completions that came twice

  void OnLoadDone(const LoadResult& result) override {
    repeated += loads.insert_or_assign(result.load_id, result).second ? 0 : 1;
  }
  void OnSaveRead(uint64_t save_id, bool last) override { reads.emplace_back(save_id, last); }
  void OnSaveDone(const SaveResult& result) override {
    repeated += saves.insert_or_assign(result.save_id, result).second ? 0 : 1;
  }
};

// A store whose contents nobody knows without asking, as those that others write to.
class UnindexedStore final : public StoreDecorator {
 public:
  using StoreDecorator::StoreDecorator;

  uint64_t asked = 0;               // questions accepted
  uint64_t fail_from = UINT64_MAX;  // number of the question from which on all fail
  size_t accept_max = SIZE_MAX;     // requests taken by one Submit, at most

  size_t Submit(std::span<const StoreRequest> requests) override {
    size_t accepted = 0;
    for (const StoreRequest& request : requests.first(std::min(requests.size(), accept_max))) {
      const bool question = request.op == StoreOp::kExists;
      if (question && asked >= fail_from) {
        failed_.push_back({request.user_data, StatusCode::kUnavailable, 0});
      } else if (inner().Submit(std::span(&request, 1)) != 1) {
        break;
      }
      asked += question ? 1 : 0;
      ++accepted;
    }
    return accepted;
  }
  size_t Poll(std::span<StoreCompletion> completions) override {
    size_t count = 0;
    for (; count < completions.size() && !failed_.empty(); failed_.pop_back()) {
      completions[count++] = failed_.back();
    }
    return count + inner().Poll(completions.subspan(count));
  }
  bool MayContain(const ObjectName&) const override { return true; }
  bool has_index() const override { return false; }

 private:
  std::vector<StoreCompletion> failed_;
};

inline std::unique_ptr<Store> OpenBenchStore(const std::string& url, bool indexed) {
  std::unique_ptr<Store> store = OpenStore(url, {}).value();
  return indexed ? std::move(store) : std::make_unique<UnindexedStore>(std::move(store));
}

// One CPU for each thread: those that this process may use, over and over.
inline std::vector<int> CrewCpus(uint32_t threads) {
  cpu_set_t allowed;
  SS_CHECK(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "no affinity");
  std::vector<int> cpus;
  for (size_t cpu = 0; cpus.size() < threads; cpu = (cpu + 1) % CPU_SETSIZE) {
    if (CPU_ISSET(cpu, &allowed)) cpus.push_back(static_cast<int>(cpu));
  }
  return cpus;
}

struct BenchOptions {
  uint32_t fetch_slabs = 8;
  uint32_t save_slabs = 4;
  uint32_t joins = 4;
  std::string store = "memory://?capacity=256MiB";
  bool indexed = true;
  bool by_hand = false;  // wrap it into a SteppedStore
  uint32_t crew = 0;     // threads that decode beside the test's own
  std::vector<AuthKey> keys = {};
  SealAlgorithm cipher = SealAlgorithm::kGmac;
  BlockEngine* engine = nullptr;
  int64_t engine_answer_ns = 60 * kNsPerSecond;  // real time: a slow machine is no vanished engine
};

// A key of one repeated byte.
inline AuthKey KeyOfByte(uint32_t id, uint8_t byte) {
  AuthKey key{.id = id};
  key.secret.fill(std::byte{byte});
  return key;
}

// Any store, but once `stepping` is set its reads of segments arrive only by hand, in pieces.
class SteppedStore final : public StoreDecorator {
 public:
  using StoreDecorator::StoreDecorator;

  bool stepping = false;
  bool waiting() const { return read_.has_value(); }
  // Puts the first `bytes` of the object into the reader's buffer.
  void Arrive(size_t bytes) {
    std::memcpy(read_->buffer.data(), object_.data(), bytes);
    if (read_->arrived != nullptr) *read_->arrived = bytes;
  }
  void End(StatusCode code, uint64_t bytes) {
    ended_ = StoreCompletion{read_->user_data, code, bytes};
    read_.reset();
  }
  std::vector<std::byte>& object() { return object_; }

  size_t Submit(std::span<const StoreRequest> requests) override {
    const StoreRequest& request = requests[0];
    if (!stepping || request.op != StoreOp::kGet || request.name.kind != ObjectKind::kSegment) {
      return inner().Submit(requests.first(1));
    }
    if (read_.has_value()) return 0;
    object_.resize(request.buffer.size());
    StoreCompletion done;
    const StoreRequest get{StoreOp::kGet, request.name, object_, UINT64_MAX};
    EXPECT_EQ(inner().Submit(std::span(&get, 1)), 1u);
    for (bool found = false; !found;) {
      if (inner().Poll(std::span(&done, 1)) == 0) continue;
      found = done.user_data == UINT64_MAX;
      if (!found) others_.push_back(done);
    }
    EXPECT_EQ(done.code, StatusCode::kOk);
    object_.resize(done.bytes);
    read_ = request;
    return 1;
  }
  size_t Poll(std::span<StoreCompletion> completions) override {
    if (!others_.empty()) {
      completions[0] = others_.front();
      others_.pop_front();
      return 1;
    }
    if (!ended_.has_value()) return inner().Poll(completions);
    completions[0] = *ended_;
    ended_.reset();
    return 1;
  }

 private:
  std::optional<StoreRequest> read_;
  std::optional<StoreCompletion> ended_;
  std::deque<StoreCompletion> others_;  // of other requests, met while a segment was read
  std::vector<std::byte> object_;
};

// Both pipelines over one store, turned by hand: no thread, time stands still until told.
struct PipelineBench {
  ManualClock clock;
  Metrics metrics;
  Recorder events;
  std::unique_ptr<Store> store;
  StorePort port;
  LookupPipeline lookup;
  TransferPort transfers;
  std::unique_ptr<Seal> seal;  // null without keys
  std::unique_ptr<SlabPool> fetch_slabs;
  std::unique_ptr<SlabPool> save_slabs;
  LentMemory wire;                   // fetch_slabs', to the engine
  std::unique_ptr<DecodeCrew> crew;  // null: the test's thread does everything
  std::unique_ptr<FetchPipeline> fetch;
  std::unique_ptr<TenantQuota> quota;  // null: no tenant has one
  std::unique_ptr<SavePipeline> save;
  bool confirm = true;  // answer OnSaveRead at once...
  bool held = true;     // ...with this
  size_t reads_answered = 0;

  FetchPipeline::Options fetch_options;
  uint32_t crew_threads;

  explicit PipelineBench(const BenchOptions& options = {})
      : store(MakeStore(options)),
        port(store.get(), &metrics, &clock),
        lookup(&port),
        transfers(&metrics, &clock),
        fetch_slabs(SlabPool::Create("fetch", uint64_t{5} << 20, options.fetch_slabs).value()),
        save_slabs(SlabPool::Create("save", uint64_t{5} << 20, options.save_slabs).value()),
        wire(LentMemory::Lend(options.engine, fetch_slabs->memory()).value()),
        fetch_options{.joins_inflight_max = options.joins,
                      .engine = options.engine,
                      .engine_answer_ns = options.engine_answer_ns},
        crew_threads(options.crew) {
    Rekey(options.keys, options.cipher);
  }

  // What a restart with another key file does. REQUIRES: nothing in flight.
  void Rekey(const std::vector<AuthKey>& keys, SealAlgorithm cipher = SealAlgorithm::kGmac) {
    fetch.reset();
    save.reset();
    seal.reset();
    if (!keys.empty()) seal = Seal::Create(keys, cipher).value();
    crew.reset();
    if (crew_threads > 0) {
      crew = DecodeCrew::Create(CrewCpus(crew_threads), keys, cipher, &metrics, &clock,
                                fetch_options.engine_port())
                 .value();
    }
    fetch = FetchPipeline::Create(fetch_options, fetch_slabs.get(), &port, &transfers, &metrics,
                                  &clock, &events, seal.get(), crew.get())
                .value();
    save = SavePipeline::Create(save_slabs.get(), &port, &transfers, &metrics, &clock, &events,
                                seal.get(), quota.get())
               .value();
  }
  // REQUIRES: nothing in flight.
  void LimitTenants(const TenantQuota::Options& options) {
    save.reset();
    quota = std::make_unique<TenantQuota>(options, &clock);
    Rekey({});
  }

  static std::unique_ptr<Store> MakeStore(const BenchOptions& options) {
    std::unique_ptr<Store> store = OpenBenchStore(options.store, options.indexed);
    if (options.by_hand) store = std::make_unique<SteppedStore>(std::move(store));
    return store;
  }
  // REQUIRES: options.by_hand.
  SteppedStore& stepped() { return static_cast<SteppedStore&>(*store); }

  bool Turn() {
    bool moved = lookup.Turn();
    moved |= port.Poll();
    moved |= transfers.Poll();
    moved |= fetch->Turn();
    if (!moved) moved = save->Turn();
    while (confirm && reads_answered < events.reads.size()) {
      save->Confirm(events.reads[reads_answered++].first, held);
      moved = true;
    }
    return moved;
  }
  bool steps_out() const { return crew != nullptr && crew->jobs_out() > 0; }
  // Until nothing moves any more. Disk stores complete a little later: a bound on idle turns.
  void Settle() {
    for (int idle = 0; idle < 2000;) {
      const bool busy = port.inflight() > 0 || steps_out() || fetch->engine_busy();
      idle = Turn() || busy ? 0 : idle + 1;
    }
  }

  void SaveChunk(uint64_t id, const EngineMemory& engine, const ChunkKey& key,
                 std::vector<uint32_t> pages, StoredForm form) {
    SaveSpec spec;
    spec.save_id = id;
    spec.rank = engine.rank.get();
    spec.form = form;
    spec.key = key;
    spec.pages = std::move(pages);
    ASSERT_TRUE(save->Start(std::move(spec)).ok());
  }
  void LoadChunks(uint64_t id, const EngineMemory& engine, std::vector<ChunkKey> keys,
                  std::vector<uint32_t> pages, StoredForm form, uint32_t first_token = 0,
                  bool granted = true) {
    LoadSpec spec;
    spec.load_id = id;
    spec.rank = engine.rank.get();
    spec.form = form;
    spec.keys = std::move(keys);
    spec.pages = std::move(pages);
    spec.first_token = first_token;
    spec.granted = granted;
    spec.deadline_ns = clock.NowNs() + kNsPerSecond;
    ASSERT_TRUE(fetch->Start(std::move(spec)).ok());
  }
  std::vector<ObjectName> Objects() const {
    std::vector<ObjectName> names;
    EXPECT_TRUE(store
                    ->List([&](const ObjectName& name, uint64_t) {
                      names.push_back(name);
                      return true;
                    })
                    .ok());
    return names;
  }
  void Delete(const ObjectName& name) {
    const StoreRequest request{StoreOp::kDelete, name, {}, 0};
    ASSERT_EQ(store->Submit(std::span(&request, 1)), 1u);
    StoreCompletion done;
    while (store->Poll(std::span(&done, 1)) == 0) {
    }
  }
  // Replaces an object by what `change` makes of its bytes.
  void Tamper(const ObjectName& name, const std::function<void(std::vector<std::byte>&)>& change) {
    std::vector<std::byte> bytes(uint64_t{5} << 20);
    const StoreRequest get{StoreOp::kGet, name, bytes, 0};
    StoreCompletion done;
    ASSERT_EQ(store->Submit(std::span(&get, 1)), 1u);
    while (store->Poll(std::span(&done, 1)) == 0) {
    }
    ASSERT_EQ(done.code, StatusCode::kOk);
    bytes.resize(done.bytes);
    change(bytes);
    const StoreRequest put{StoreOp::kPut, name, bytes, 0};
    ASSERT_EQ(store->Submit(std::span(&put, 1)), 1u);
    while (store->Poll(std::span(&done, 1)) == 0) {
    }
    ASSERT_EQ(done.code, StatusCode::kOk);
  }
};

inline ChunkKey KeyOf(uint32_t n) {
  const std::string text = "chunk " + std::to_string(n);
  const std::string_view view = text;
  return RootKey(std::span(&view, 1));
}

}  // namespace shadowserve::testing

#endif  // SHADOWSERVE_PIPELINE_PIPELINE_TESTING_H_
