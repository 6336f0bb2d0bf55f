#include "bench/stage_runs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <thread>
#include <utility>

#include "device/stream_copy.h"
#include "flow/affinity.h"
#include "format/marker.h"
#include "pipeline/coders.h"

namespace shadowserve {
namespace {

// Each stage runs this many windows, after one that is not counted.
constexpr int kWindows = 5;
// Of the pipeline's window.
constexpr double kWindowShare = 0.3;

// Calls `work` (which returns the KV bytes it moved) for kWindows windows; the median rate.
template <typename Work>
double MedianRate(const BenchRig& rig, Work&& work) {
  const Clock& clock = rig.clock();
  const auto window_ns = static_cast<int64_t>(rig.options().window_seconds * kWindowShare *
                                              static_cast<double>(kNsPerSecond));
  std::array<double, kWindows> rates = {};
  for (int window = -1; window < kWindows; ++window) {
    const int64_t start_ns = clock.NowNs();
    uint64_t bytes = 0;
    int64_t now_ns = start_ns;
    while (now_ns - start_ns < window_ns) {
      bytes += work();
      now_ns = clock.NowNs();
    }
    if (window >= 0) {
      rates[static_cast<size_t>(window)] =
          static_cast<double>(bytes) / (static_cast<double>(now_ns - start_ns) * 1e-9);
    }
  }
  std::sort(rates.begin(), rates.end());
  return rates[kWindows / 2];
}

// An object as it came from the store.
struct Slot {
  SlabLease slab;
  std::array<std::byte, kMarkerBytes> marker;
  ObjectName name;
  uint64_t bytes = 0;
  uint32_t reads_left = 0;
};

// The stages of compute on one core.
class ComputeRun {
 public:
  // `core` of rig.options().cores counts from 0: each writes other pages than its neighbours.
  ComputeRun(const BenchRig& rig, std::span<const Slot> slots, uint32_t core)
      : rig_(rig),
        slots_(slots),
        core_(core),
        coders_(Coders::Create().value()),
        batch_(&coders_),
        write_at_(core) {}

  StageRates Stages() {
    StageRates rates;
    if (rig_.emulated_engine() == nullptr) {
      rates.decode = SegmentRate([this](SegmentReader& reader) {
        while (DecodeNext(reader)) {
        }
      });
      rates.decode_on_cores = rates.decode;
      rates.fused = FusedRate();
    } else {
      DecodeByEngine(&rates);
    }
    const SegmentShape shape = rig_.ShapeOf(slots_[0].name);
    SegmentReader reader = Open(slots_[0]);
    DecodeNext(reader);
    AimAt(core_ % rig_.options().chunks, shape, block_.range);
    rates.dequantize = MedianRate(rig_, [&] { return Dequantize(reader, shape, false); });
    uint32_t chunk = core_;
    rates.dequantize_into_pages = MedianRate(
        rig_, [&] { return DequantizeEverywhere(reader, shape, chunk++ % rig_.options().chunks); });
    rates.write = MedianRate(rig_, [this] { return Write(); });
    return rates;
  }

  CodecRates Codec() {
    CodecRates rates;
    SegmentReader reader = Open(slots_[0]);
    DecodeNext(reader);
    BlockCodec& codec = coders_.codec(rig_.options().lossless);
    const std::vector<std::byte> symbols(current_.begin(), current_.end());
    std::vector<std::byte> coded(symbols.size());
    const size_t used = codec.Encode(symbols, coded);
    if (used == 0) return rates;
    rates.ratio = static_cast<double>(symbols.size()) / static_cast<double>(used);
    rates.encode =
        MedianRate(rig_, [&] { return codec.Encode(symbols, coded) == used ? symbols.size() : 0; });
    // As many at a time as the pipeline takes.
    std::vector<CodedBlock> blocks(codec.blocks_side_by_side());
    std::vector<std::byte> out(blocks.size() * kSymbolStride);
    for (size_t i = 0; i < blocks.size(); ++i) {
      blocks[i] = {std::span(coded).first(used),
                   std::span(out).subspan(i * kSymbolStride, symbols.size()), OkStatus()};
    }
    rates.decode = MedianRate(rig_, [&] {
      codec.DecodeEach(blocks);
      return blocks[0].status.ok() ? symbols.size() * blocks.size() : 0;
    });
    return rates;
  }

 private:
  SegmentReader Open(const Slot& slot) {
    Result<SegmentReader> reader = SegmentReader::Open(slot.slab.bytes().first(slot.bytes),
                                                       slot.name, rig_.ShapeOf(slot.name));
    SS_CHECK(reader.ok(), reader.status().message());
    blocks_left_ = reader->block_count();
    return std::move(reader).value();
  }
  bool VerifyNext(SegmentReader& reader) {
    if (blocks_left_ == 0) return false;
    --blocks_left_;
    block_ = reader.NextBlock();
    SS_CHECK(block_.Verify().ok(), "a block of our own");
    return true;
  }
  void DecodeBatch() {
    SS_CHECK(batch_.Decode().ok(), "blocks of our own");
    block_ = batch_.block(0);
    current_ = batch_.symbols(0);
  }
  void Decode() {
    batch_.Clear();
    batch_.Add(block_);
    DecodeBatch();
  }
  // The next blocks, as many as are decoded together; the first of them is then the current one.
  bool DecodeNext(SegmentReader& reader) {
    batch_.Clear();
    while (batch_.has_room() && VerifyNext(reader)) batch_.Add(block_);
    if (batch_.size() == 0) return false;
    DecodeBatch();
    return true;
  }

  // KV bytes per second of `work` on the segments in turn.
  template <typename Work>
  double SegmentRate(Work&& work) {
    size_t slot = core_;
    return MedianRate(rig_, [&] {
      const Slot& next = slots_[slot++ % slots_.size()];
      SegmentReader reader = Open(next);
      shape_ = rig_.ShapeOf(next.name);
      work(reader);
      return shape_.raw_bytes();
    });
  }

  double FusedRate() {
    uint32_t chunk = core_;
    return SegmentRate([&](SegmentReader& reader) {
      while (DecodeNext(reader)) {
        for (uint32_t i = 0; i < batch_.size(); ++i) {
          block_ = batch_.block(i);
          current_ = batch_.symbols(i);
          AimAt(chunk % rig_.options().chunks, shape_, block_.range);
          Dequantize(reader, shape_, true);
        }
      }
      StoreFence();
      ++chunk;
    });
  }

  void DecodeByEngine(StageRates* rates) {
    Metrics unread;
    EnginePort::Options options;
    options.engine = rig_.emulated_engine();
    options.answer_ns = EmulatedEngine::kAnswerNs;
    const std::unique_ptr<EnginePort> port = EnginePort::Create(options, &unread).value();
    EnginePort::Client client;
    const auto is_engines = [&] { return block_.codec != CodecId::kNone && port->Takes(block_); };
    const auto collect = [&] {
      port->Flush();
      port->Poll();
      while (client.finished != EnginePort::kNoSlot) {
        port->Release(&client, port->TakeFinished(&client).slot);
      }
    };
    // Blocks of several segments are under way, as in the pipeline.
    rates->decode = SegmentRate([&](SegmentReader& reader) {
      while (VerifyNext(reader)) {
        if (!is_engines()) {
          Decode();
          continue;
        }
        while (!port->has_room()) collect();
        port->Submit(&client, block_);
      }
      collect();
    });
    port->Abandon(&client);
    rates->decode_on_cores = SegmentRate([&](SegmentReader& reader) {
      while (VerifyNext(reader)) {
        if (!is_engines()) Decode();
      }
    });
  }

  void AimAt(uint32_t chunk, const SegmentShape& shape, const BlockRange& range) {
    pieces_.clear();
    rig_.rank().AppendPieces(shape, range, rig_.TargetPages(chunk), 0,
                             rig_.rank().device().direct(), &pieces_);
  }
  uint64_t Dequantize(const SegmentReader& reader, const SegmentShape& shape, bool streaming) {
    coders_.quantizer(rig_.form())
        .DequantizeBlock(shape, block_.range, reader.side(), block_.plain(), current_, pieces_,
                         streaming);
    return PieceBytes(pieces_, shape);
  }
  // The first block's symbols to where the same block of every layer range goes.
  uint64_t DequantizeEverywhere(const SegmentReader& reader, const SegmentShape& shape,
                                uint32_t chunk) {
    uint64_t bytes = 0;
    for (uint32_t range = 0; range < rig_.rank().range_count(); ++range) {
      const SegmentShape other = SegmentShapeOf(rig_.options().model, range, 0);
      if (other.layers.count != shape.layers.count) continue;
      AimAt(chunk, other, block_.range);
      bytes += Dequantize(reader, shape, true);
    }
    StoreFence();
    return bytes;
  }
  static constexpr size_t kRun = 64 * kKiB;
  uint64_t Write() {
    const std::span<std::byte> region = rig_.rank().device().direct();
    const size_t run = std::min(kRun, region.size());
    // A stride that visits all of the region, no two neighbours after each other.
    write_at_ = (write_at_ + 389) % (region.size() / run);
    CopyPastCache(region.data() + write_at_ * run, source_.data(), run);
    return run;
  }

  const BenchRig& rig_;
  const std::span<const Slot> slots_;
  const uint32_t core_;
  Coders coders_;
  std::vector<std::byte> source_ = std::vector<std::byte>(kRun);
  BlockBatch batch_;
  BlockView block_;
  SegmentShape shape_;
  uint32_t blocks_left_ = 0;
  std::span<const std::byte> current_;
  std::vector<PlanePiece> pieces_;
  size_t write_at_;
};

// Runs the stages; on the data plane's thread, but for the compute of further cores.
class StageRunner {
 public:
  StageRunner(BenchRig& rig, DataPlane& plane) : rig_(rig), plane_(plane), names_(rig.Segments()) {
    const size_t slots =
        std::min<size_t>({rig.options().joins, plane.fetch_slabs().free_count(), names_.size()});
    for (size_t i = 0; i < slots; ++i) slots_.push_back({plane.fetch().TakeSlab(), {}, {}, 0, 0});
    near_slots_ = std::min<size_t>(slots, 2);
  }

  Status Network(double* rate) {
    for (const size_t depth : {slots_.size(), near_slots_}) {
      for (size_t i = 0; i < depth; ++i) Ask(i);
      *rate = std::max(*rate, MedianRate(rig_, [this] { return PollStore(true); }));
      while (inflight_ > 0) (void)PollStore(false);
    }
    return status_;
  }

  // All cores at once, each its own part; the rates are sums.
  void Compute(StageRates* rates) {
    const std::vector<int>& cores = rig_.options().cores;
    rates->cores = std::max(1U, static_cast<uint32_t>(cores.size()));
    const size_t slots = std::min<size_t>(slots_.size(), size_t{2} * rates->cores);
    std::vector<StageRates> each(rates->cores);
    std::vector<std::thread> threads;
    const auto run = [&](uint32_t core) {
      each[core] = ComputeRun(rig_, std::span(slots_).first(slots), core).Stages();
    };
    for (uint32_t core = 1; core < rates->cores; ++core) {
      threads.emplace_back([&, core] {
        // An error was told by the data plane's own threads.
        (void)PinThisThread(std::span(&cores[core], 1));
        run(core);
      });
    }
    run(0);
    for (std::thread& thread : threads) thread.join();
    for (const StageRates& one : each) {
      rates->decode += one.decode;
      rates->decode_on_cores += one.decode_on_cores;
      rates->dequantize += one.dequantize;
      rates->dequantize_into_pages += one.dequantize_into_pages;
      rates->write += one.write;
      rates->fused += one.fused;
    }
    uint64_t kv_bytes = 0;
    uint64_t wire_bytes = 0;
    for (const Slot& slot : slots_) {
      kv_bytes += rig_.ShapeOf(slot.name).raw_bytes();
      wire_bytes += slot.bytes;
    }
    rates->kv_bytes_per_wire_byte = static_cast<double>(kv_bytes) / static_cast<double>(wire_bytes);
  }

  CodecRates Codec() { return ComputeRun(rig_, slots_, 0).Codec(); }

 private:
  void Ask(size_t index) {
    Slot& slot = slots_[index];
    slot.name = names_[next_name_++ % names_.size()];
    slot.reads_left = 2;
    const StoreRequest reads[] = {
        {StoreOp::kGet, slot.name.AsKind(ObjectKind::kMarker), slot.marker, index * 2},
        {StoreOp::kGet, slot.name, slot.slab.bytes(), index * 2 + 1}};
    unsent_.insert(unsent_.end(), std::begin(reads), std::end(reads));
    Send();
  }
  void Send() {
    while (!unsent_.empty() && plane_.store().Submit(std::span(&unsent_.front(), 1)) == 1) {
      unsent_.erase(unsent_.begin());
      ++inflight_;
    }
  }
  uint64_t PollStore(bool ask_again) {
    std::array<StoreCompletion, 32> completions;
    const size_t count = plane_.store().Poll(completions);
    uint64_t kv_bytes = 0;
    for (const StoreCompletion& done : std::span(completions).first(count)) {
      --inflight_;
      Slot& slot = slots_[done.user_data / 2];
      if (done.code != StatusCode::kOk) {
        status_ = Status(done.code, "store: " + ToString(slot.name));
      }
      if (done.user_data % 2 == 1) slot.bytes = done.bytes;
      if (--slot.reads_left > 0) continue;
      kv_bytes += rig_.ShapeOf(slot.name).raw_bytes();
      if (ask_again) Ask(done.user_data / 2);
    }
    Send();
    return kv_bytes;
  }

  BenchRig& rig_;
  DataPlane& plane_;
  std::vector<ObjectName> names_;
  std::vector<Slot> slots_;
  size_t near_slots_ = 0;
  std::vector<StoreRequest> unsent_;
  size_t next_name_ = 0;
  size_t inflight_ = 0;
  Status status_;
};

}  // namespace

double StageRates::slowest() const {
  return std::min({network, decode, dequantize, write});
}

double StageRates::serial_bound() const {
  const double n = cores;
  return n / (1 / network + n / decode_on_cores + n / dequantize + n / write);
}

double StageRates::cores_bound() const {
  return cores / (1 / network + 1 / compute_of_one_core());
}

double StageRates::fused_ratio() const {
  return fused * (1 / decode + 1 / dequantize_into_pages);
}

double StageRates::compute_of_one_core() const {
  const double n = cores;
  return 1 / (n / decode_on_cores + n / dequantize_into_pages);
}

uint32_t StageRates::decode_cores() const {
  return static_cast<uint32_t>(std::ceil(network / compute_of_one_core()));
}

uint32_t StageRates::cores_for_link(double gigabits_per_s) const {
  const double kv_bytes = gigabits_per_s * 1e9 / 8 * kv_bytes_per_wire_byte;
  if (kv_bytes > network) return 0;
  return static_cast<uint32_t>(std::ceil(kv_bytes / network + kv_bytes / compute_of_one_core()));
}

Result<StageRates> RunStages(BenchRig& rig) {
  StageRates rates;
  Status status;
  rig.OnPlane([&](DataPlane& plane) {
    StageRunner runner(rig, plane);
    status = runner.Network(&rates.network);
    if (status.ok()) runner.Compute(&rates);
  });
  SS_TRY(status);
  return rates;
}

Result<StageRates> RunStore(BenchRig& rig) {
  StageRates rates;
  Status status;
  rig.OnPlane([&](DataPlane& plane) {
    StageRunner runner(rig, plane);
    status = runner.Network(&rates.network);
  });
  SS_TRY(status);
  return rates;
}

Result<CodecRates> RunCodec(BenchRig& rig) {
  CodecRates rates;
  Status status;
  if (rig.options().lossless == CodecId::kNone) {
    return Status(StatusCode::kInvalidArgument, "bench codec: --lossless none is no codec");
  }
  rig.OnPlane([&](DataPlane& plane) {
    StageRunner runner(rig, plane);
    double network = 0;
    status = runner.Network(&network);
    if (status.ok()) rates = runner.Codec();
  });
  SS_TRY(status);
  return rates;
}

}  // namespace shadowserve
