#include "bench/bench_rig.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <future>
#include <utility>

#include "bench/emulated_link.h"
#include "bench/kv_sample.h"
#include "codec/plugin_engine.h"
#include "store/store_table.h"

namespace shadowserve {
namespace {

constexpr int64_t kLoadDeadlineNs = 60 * kNsPerSecond;

// As vLLM makes it: [layer][page][head][cell].
PageLayout LayoutOf(const BenchOptions& options, uint64_t pages) {
  const ModelShape& model = options.model;
  const uint64_t element = DtypeBytes(model.dtype);
  const uint64_t cell = uint64_t{2} * options.page_tokens * model.head_dim * element;
  PageLayout layout;
  layout.dtype = model.dtype;
  layout.page_tokens = options.page_tokens;
  layout.page_count = pages;
  layout.heads = model.kv_heads;
  layout.head_dim = model.head_dim;
  layout.head_stride = cell;
  layout.page_stride = cell * model.kv_heads;
  for (uint32_t layer = 0; layer < model.layers; ++layer) {
    layout.layer_offset.push_back(layer * pages * layout.page_stride);
  }
  if (options.pages == BenchPages::kRows) {
    layout.k = {0, 2 * model.head_dim * element, element};
    layout.v = {model.head_dim * element, 2 * model.head_dim * element, element};
  } else {
    layout.k = {0, element, options.page_tokens * element};
    layout.v = {cell / 2, model.head_dim * element, element};
  }
  return layout;
}

}  // namespace

Result<std::unique_ptr<BenchRig>> BenchRig::Create(const BenchOptions& options,
                                                   std::vector<int> spare_cpus) {
  auto rig = std::unique_ptr<BenchRig>(new BenchRig(options, std::move(spare_cpus)));
  SS_TRY(rig->Start());
  return rig;
}

Status BenchRig::OpenStoreDirectory() {
  store_url_ = options_.store_url;
  if (!store_url_.empty()) return OkStatus();
  std::error_code error;
  std::string path = std::filesystem::temp_directory_path(error) / "shadowctl-bench-XXXXXX";
  if (error || ::mkdtemp(path.data()) == nullptr) {
    return Status(StatusCode::kUnavailable, "cannot make a temporary directory: " + path);
  }
  directory_ = path;
  store_url_ = "disk://" + path + "?capacity=64GiB";
  return OkStatus();
}

Status BenchRig::MakeEngine(std::unique_ptr<RankMemory>* rank) {
  const uint32_t per_chunk = kChunkTokens / options_.page_tokens;
  const uint32_t count = options_.chunks * per_chunk * 2;
  PageLayout layout = LayoutOf(options_, count);
  const uint64_t bytes = layout.page_stride * count * options_.model.layers;
  SS_TRY_ASSIGN(memory_, Region::Create(bytes));
  KvExportOptions export_options;
  export_options.kinds = {"mapped"};
  SS_TRY_ASSIGN(exporter_, KvExporter::Create(memory_.bytes().first(bytes), export_options));
  KvExport exported;
  exported.kind = exporter_->info().kind;
  exported.region_bytes = exporter_->info().region_bytes;
  exported.memory_offset = exporter_->info().memory_offset;
  exported.memory_fd = UniqueFd(::fcntl(exporter_->memory_fd(), F_DUPFD_CLOEXEC, 0));
  SS_TRY_ASSIGN(std::unique_ptr<KvDevice> device, OpenKvDevice(std::move(exported)));
  SS_TRY_ASSIGN(*rank, RankMemory::Create(options_.model, std::move(layout), std::move(device),
                                          kSlabBytesDefault));
  // A page table that has been in use for a while: no two neighbours follow each other.
  for (uint32_t i = 0; i < count; ++i) pages_.push_back(i);
  uint64_t state = 12345;
  for (uint32_t i = count; i > 1; --i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    std::swap(pages_[i - 1], pages_[(state >> 33) % i]);
  }
  return OkStatus();
}

Status BenchRig::Start() {
  SS_TRY(OpenStoreDirectory());
  std::unique_ptr<RankMemory> rank;
  SS_TRY(MakeEngine(&rank));
  rank_ = rank.get();
  // Names of this run only: whatever else the store holds is left alone.
  const std::string run = std::to_string(::getpid()) + "." + std::to_string(clock_.NowNs());
  for (uint32_t chunk = 0; chunk < options_.chunks; ++chunk) {
    const std::string number = std::to_string(chunk);
    const std::string_view parts[] = {"shadowctl bench", run, number};
    keys_.push_back(RootKey(parts));
  }
  StoreOptions store_options;
  store_options.cpus = options_.cores;
  SS_TRY_ASSIGN(std::unique_ptr<Store> store, OpenStore(store_url_, store_options));
  if (options_.link_gigabits_per_s > 0) {
    SS_TRY_ASSIGN(store, MakeLinkedStore(std::move(store), options_.link_gigabits_per_s, &clock_));
  }
  DataPlane::Options plane;
  plane.slab_bytes = kSlabBytesDefault;
  plane.save_slabs = SaveSlabs(kSlabBudgetDefault, kSlabBytesDefault, kSaveShareDefault);
  plane.fetch_slabs =
      static_cast<uint32_t>(kSlabBudgetDefault / kSlabBytesDefault) - plane.save_slabs;
  plane.fetch.joins_inflight_max = options_.joins;
  if (!options_.engine_device.empty()) {
    SS_TRY_ASSIGN(codec_engine_, OpenPluginEngine({.device = options_.engine_device,
                                                   .queues = DataPlane::Threads(options_.cores),
                                                   .depth = EnginePort::kDepthMax}));
    plane.fetch.engine = codec_engine_.get();
  }
  if (options_.card != nullptr) {
    emulated_engine_ = std::make_unique<EmulatedEngine>(*options_.card, spare_cpus_, &clock_);
    emulated_memory_ =
        std::make_unique<EmulatedMemory>(options_.card->memory_bytes_per_s, &metrics_, &clock_);
    SS_TRY_ASSIGN(store, MakeThrottledStore(std::move(store), emulated_memory_.get()));
    plane.fetch.engine = emulated_engine_.get();
    plane.fetch.engine_answer_ns = EmulatedEngine::kAnswerNs;
  }
  plane.cpus = options_.cores;
  SS_TRY_ASSIGN(plane_, DataPlane::Create(plane, std::move(store), &metrics_, &clock_, this));
  SS_TRY(plane_->fetch().CheckFits(*rank));
  plane_->AddRank(kRankId, std::move(rank));
  plane_->Start();
  return OkStatus();
}

BenchRig::~BenchRig() {
  if (plane_ != nullptr) {
    if (directory_.empty()) RemoveObjects();
    plane_->Stop();
    plane_.reset();
  }
  std::error_code ignored;
  if (!directory_.empty()) std::filesystem::remove_all(directory_, ignored);
}

void BenchRig::OnPlane(const std::function<void(DataPlane&)>& work) {
  std::promise<void> done;
  SS_CHECK(plane_->Post([&] {
    work(*plane_);
    done.set_value();
  }),
           "the bench alone posts");
  done.get_future().wait();
}

void BenchRig::RemoveObjects() {
  std::vector<ObjectName> names = Segments();
  for (size_t i = names.size(); i > 0; --i) {
    names.push_back(names[i - 1].AsKind(ObjectKind::kMarker));
  }
  OnPlane([&names](DataPlane& plane) {
    size_t left = names.size();
    while (!names.empty() || left > 0) {
      if (!names.empty()) {
        const StoreRequest request{StoreOp::kDelete, names.back(), {}, 0};
        if (plane.store().Submit(std::span(&request, 1)) == 1) names.pop_back();
      }
      StoreCompletion done;
      left -= plane.store().Poll(std::span(&done, 1));
    }
  });
}

std::span<const uint32_t> BenchRig::SourcePages(uint32_t chunk) const {
  const uint32_t per_chunk = rank_->pages_per_chunk();
  return std::span(pages_).subspan(size_t{chunk} * per_chunk, per_chunk);
}

std::span<const uint32_t> BenchRig::TargetPages(uint32_t chunk) const {
  const uint32_t per_chunk = rank_->pages_per_chunk();
  return std::span(pages_).subspan(size_t{options_.chunks + chunk} * per_chunk, per_chunk);
}

std::vector<ObjectName> BenchRig::Segments() const {
  std::vector<ObjectName> names;
  for (const ChunkKey& key : keys_) {
    for (uint32_t range = 0; range < rank_->range_count(); ++range) {
      for (uint32_t group = 0; group < rank_->group_count(); ++group) {
        const SegmentShape shape = SegmentShapeOf(options_.model, range, group);
        names.push_back({.key = key,
                         .profile = options_.profile,
                         .codec = options_.lossless,
                         .first_layer = static_cast<uint16_t>(shape.layers.first),
                         .layer_count = static_cast<uint16_t>(shape.layers.count),
                         .head_group = static_cast<uint16_t>(group),
                         .head_groups = static_cast<uint16_t>(options_.model.head_groups)});
      }
    }
  }
  return names;
}

SegmentShape BenchRig::ShapeOf(const ObjectName& name) const {
  return SegmentShapeOf(options_.model, name.first_layer / LayersPerRange(options_.model),
                        name.head_group);
}

uint64_t BenchRig::kv_bytes() const {
  return uint64_t{options_.chunks} * kChunkTokens * options_.model.layers * 2 *
         options_.model.kv_heads * options_.model.head_dim * DtypeBytes(options_.model.dtype);
}

void BenchRig::WriteSourcePages() {
  const auto quantizer = MakeQuantizer({Profile::kRaw, CodecId::kNone}).value();
  std::vector<uint16_t> values;
  std::vector<PlanePiece> pieces;
  uint64_t seed = 1;
  for (uint32_t chunk = 0; chunk < options_.chunks; ++chunk) {
    for (uint32_t range = 0; range < rank_->range_count(); ++range) {
      const SegmentShape shape = SegmentShapeOf(options_.model, range, 0);
      for (uint32_t b = 0; b < BlockCount(shape); ++b) {
        const BlockRange block = BlockAt(shape, b);
        // One plane's values at a time, cut to the block's tokens.
        values.resize(size_t{kChunkTokens} * shape.head_dim * block.planes);
        for (uint32_t plane = 0; plane < block.planes; ++plane) {
          const size_t elements = size_t{kChunkTokens} * shape.head_dim;
          FillKvPlane(seed++, PlaneAt(shape, block.first_plane + plane).value, shape.head_dim,
                      std::span(values).subspan(plane * elements, elements));
        }
        pieces.clear();
        rank_->AppendPieces(shape, block, SourcePages(chunk), 0, rank_->device().direct(), &pieces);
        quantizer->DequantizeBlock(shape, block, {}, {},
                                   std::as_bytes(std::span(values).first(block.elements)), pieces,
                                   true);
      }
    }
  }
  StoreFence();
}

Result<double> BenchRig::FillStore() {
  WriteSourcePages();
  const int64_t start_ns = clock_.NowNs();
  for (uint32_t chunk = 0; chunk < options_.chunks; ++chunk) {
    SaveSpec spec;
    spec.save_id = chunk + 1;
    spec.rank = rank_;
    spec.form = form();
    spec.key = keys_[chunk];
    const auto pages = SourcePages(chunk);
    spec.pages.assign(pages.begin(), pages.end());
    {
      const std::lock_guard lock(mutex_);
      ++saves_left_;
    }
    Status started;
    OnPlane([&](DataPlane& plane) { started = plane.save().Start(std::move(spec)); });
    SS_TRY(started);
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return saves_left_ == 0; });
  if (saves_dropped_ > 0) {
    return Status(StatusCode::kUnavailable,
                  "the store did not take " + std::to_string(saves_dropped_) +
                      " chunks; is its capacity above " + FormatByteSize(kv_bytes()) + "?");
  }
  return static_cast<double>(kv_bytes()) / (static_cast<double>(clock_.NowNs() - start_ns) * 1e-9);
}

void BenchRig::OnSaveRead(uint64_t save_id, bool) {
  (void)plane_->Post([this, save_id] { plane_->save().Confirm(save_id, true); });
}

void BenchRig::OnSaveDone(const SaveResult& result) {
  const std::lock_guard lock(mutex_);
  if (result.outcome != SaveOutcome::kStored) ++saves_dropped_;
  --saves_left_;
  changed_.notify_all();
}

// REQUIRES: mutex_ held.
LoadSpec BenchRig::NextLoad() {
  LoadSpec spec;
  spec.load_id = next_load_id_++;
  spec.rank = rank_;
  spec.form = form();
  spec.keys = keys_;
  const size_t half = pages_.size() / 2;
  spec.pages.assign(pages_.begin() + static_cast<ptrdiff_t>(half), pages_.end());
  spec.granted = true;
  spec.deadline_ns = clock_.NowNs() + kLoadDeadlineNs;
  return spec;
}

void BenchRig::PostLoad() {
  (void)plane_->Post([this] {
    LoadSpec spec;
    {
      const std::lock_guard lock(mutex_);
      spec = NextLoad();
    }
    const Status started = plane_->fetch().Start(std::move(spec));
    SS_CHECK(started.ok(), started.message());
  });
}

void BenchRig::StartLoads() {
  const std::lock_guard lock(mutex_);
  loading_ = true;
  for (; loads_inflight_ < kLoads; ++loads_inflight_) PostLoad();
}

Status BenchRig::StopLoads() {
  std::unique_lock lock(mutex_);
  loading_ = false;
  changed_.wait(lock, [this] { return loads_inflight_ == 0; });
  return load_status_;
}

void BenchRig::OnLoadDone(const LoadResult& result) {
  const std::lock_guard lock(mutex_);
  if (load_status_.ok()) load_status_ = result.status;
  if (loading_ && load_status_.ok()) return PostLoad();
  --loads_inflight_;
  changed_.notify_all();
}

void BenchRig::OnSegmentLoaded(int64_t asked_ns) {
  const int64_t latency_ns = clock_.NowNs() - asked_ns;
  const std::lock_guard lock(mutex_);
  if (latencies_ns_.size() < kLatenciesMax) latencies_ns_.push_back(latency_ns);
}

std::vector<int64_t> BenchRig::TakeLatencies() {
  const std::lock_guard lock(mutex_);
  return std::exchange(latencies_ns_, {});
}

bool BenchRig::LoadedPagesEqualSaved() const {
  const PageLayout& layout = rank_->layout();
  const std::byte* const region = rank_->device().direct().data();
  const size_t half = pages_.size() / 2;
  for (const uint64_t layer : layout.layer_offset) {
    for (size_t i = 0; i < half; ++i) {
      const std::byte* const saved = region + layer + pages_[i] * layout.page_stride;
      const std::byte* const loaded = region + layer + pages_[half + i] * layout.page_stride;
      if (std::memcmp(saved, loaded, layout.page_stride) != 0) return false;
    }
  }
  return true;
}

}  // namespace shadowserve
