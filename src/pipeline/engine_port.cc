#include "pipeline/engine_port.h"

#include <algorithm>
#include <array>
#include <string>
#include <thread>
#include <utility>

#include "base/log.h"
#include "base/units.h"
#include "format/kv_layout.h"
#include "pipeline/stage_work.h"

namespace shadowserve {
namespace {

constexpr size_t kBurst = 16;
// Whoever has not looked for longer than this was not running.
constexpr int64_t kPauseNs = 5 * kNsPerMs;
// A slot's bytes: a whole number of pages, so that blocks do not share cache lines.
constexpr size_t kRoomBytes = 64 * kKiB;
static_assert(kRoomBytes >= kBlockSymbolsMax);

uint64_t TagOf(uint32_t index, uint32_t round) {
  return uint64_t{round} << 32 | index;
}

}  // namespace

Result<LentMemory> LentMemory::Lend(BlockEngine* engine, std::span<std::byte> memory) {
  LentMemory lent;
  if (engine == nullptr) return lent;
  SS_TRY(engine->AddMemory(memory));
  lent.engine_ = engine;
  lent.memory_ = memory;
  return lent;
}

LentMemory::~LentMemory() {
  if (engine_ != nullptr) engine_->RemoveMemory(memory_);
}

LentMemory::LentMemory(LentMemory&& other) noexcept
    : engine_(std::exchange(other.engine_, nullptr)), memory_(other.memory_) {}

LentMemory& LentMemory::operator=(LentMemory&& other) noexcept {
  std::swap(engine_, other.engine_);
  std::swap(memory_, other.memory_);
  return *this;
}

Result<std::unique_ptr<EnginePort>> EnginePort::Create(const Options& options, Metrics* metrics) {
  const EngineLimits limits = options.engine->limits();
  if (limits.op_bytes_max < kBlockSymbolsTarget || limits.depth == 0) {
    return Status(StatusCode::kUnsupported, "codec engine " + options.engine->Describe() + ": " +
                                                std::to_string(limits.depth) + " operations of " +
                                                std::to_string(limits.op_bytes_max) +
                                                " bytes are too few: blocks have up to " +
                                                std::to_string(kBlockSymbolsTarget));
  }
  auto port = std::unique_ptr<EnginePort>(new EnginePort(options, metrics));
  SS_TRY_ASSIGN(std::unique_ptr<EngineQueue> queue, options.engine->OpenQueue());
  const uint32_t depth = std::min(limits.depth, kDepthMax);
  SS_TRY_ASSIGN(port->arena_, Region::Create(depth * kRoomBytes));
  SS_TRY_ASSIGN(port->lent_, LentMemory::Lend(options.engine, port->arena_.bytes()));
  port->queue_ = std::move(queue);
  port->slots_.resize(depth);
  port->free_.reserve(depth);
  port->waiting_.reserve(depth);
  for (uint32_t i = depth; i-- > 0;) {
    const size_t room = std::min<size_t>(kRoomBytes, limits.op_bytes_max);
    port->slots_[i].room = port->arena_.bytes().subspan(i * kRoomBytes, room);
    port->free_.push_back(i);
  }
  metrics->codec_engine_up.Set(1);
  return port;
}

EnginePort::~EnginePort() {
  if (queue_ == nullptr) return;
  // Whoever used the port has abandoned what it had, so only a gone engine has something left.
  if (gone_ || out_ > 0) {
    SS_CHECK(
        options_.engine->Stop(),
        "the codec engine does not stop, and the memory that it may write to is to be unmapped");
  }
  metrics_->codec_engine_up.Set(0);
  metrics_->codec_engine_inflight.Add(-counted_);
}

bool EnginePort::Takes(const BlockView& block) {
  CodecFallbackLabel reason = CodecFallbackLabel::kCount;
  const size_t coded = block.coded().size();
  if (gone_) {
    reason = CodecFallbackLabel::kGone;
  } else if (block.codec != CodecId::kDeflate) {
    reason = CodecFallbackLabel::kCodec;
  } else if (coded == 0 || coded > options_.engine->limits().op_bytes_max ||
             block.symbol_bytes == 0 || block.symbol_bytes > slots_[0].room.size()) {
    reason = CodecFallbackLabel::kSize;
  }
  if (reason == CodecFallbackLabel::kCount) return true;
  metrics_->codec_engine_fallbacks[reason].Add();
  return false;
}

void EnginePort::Submit(Client* client, const BlockView& block) {
  const uint32_t index = free_.back();
  free_.pop_back();
  Slot& slot = slots_[index];
  slot.state = State::kWaiting;
  slot.client = client;
  slot.block = block;
  ++slot.round;
  ++client->out;
  waiting_.push_back(index);
}

void EnginePort::Flush() {
  std::array<EngineOp, kBurst> ops;
  size_t taken = 0;
  while (!gone_ && taken < waiting_.size()) {
    const size_t count = std::min(waiting_.size() - taken, kBurst);
    for (size_t i = 0; i < count; ++i) {
      const uint32_t index = waiting_[taken + i];
      const Slot& slot = slots_[index];
      ops[i] = {slot.block.coded(), slot.room.first(slot.block.symbol_bytes),
                TagOf(index, slot.round)};
    }
    const size_t accepted = queue_->Submit(std::span(ops).first(count));
    for (size_t i = 0; i < accepted; ++i) {
      slots_[waiting_[taken + i]].state = State::kOut;
      slots_[waiting_[taken + i]].sent_ns = watched_ns_;
    }
    out_ += static_cast<uint32_t>(accepted);
    taken += accepted;
    if (accepted < count) break;
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(taken));
  // Not full, and still takes none: the rest must not wait for a completion that never comes.
  if (out_ == 0) RefuseWaiting();
  CountInflight();
}

void EnginePort::RefuseWaiting() {
  while (!waiting_.empty()) {
    const uint32_t index = waiting_.back();
    waiting_.pop_back();
    metrics_->codec_engine_fallbacks[CodecFallbackLabel::kRefused].Add();
    Finish(index, StatusCode::kUnavailable);
  }
}

bool EnginePort::Poll() {
  if (gone_) return false;
  if (!waiting_.empty()) Flush();
  if (out_ == 0) return false;
  const int64_t now_ns = clock_.NowNs();
  watched_ns_ += std::min(now_ns - polled_ns_, kPauseNs);
  polled_ns_ = now_ns;
  bool moved = false;
  std::array<EngineDone, kBurst> done;
  size_t count = 0;
  do {
    count = queue_->Poll(done);
    for (const EngineDone& one : std::span(done).first(count)) {
      if (gone_ || Complete(one)) continue;
      GoneBecause("it completes what was not asked");
    }
    moved |= count > 0;
  } while (count == done.size() && !gone_);
  if (gone_) return true;
  if (IsLate()) {
    GoneBecause("it does not answer");
    return true;
  }
  if (moved) {
    if (!waiting_.empty()) Flush();
    CountInflight();
  }
  return moved;
}

bool EnginePort::IsLate() const {
  return std::any_of(slots_.begin(), slots_.end(), [this](const Slot& slot) {
    return slot.state == State::kOut && watched_ns_ - slot.sent_ns > options_.answer_ns;
  });
}

// False when it is no answer to anything.
bool EnginePort::Complete(const EngineDone& done) {
  const auto index = static_cast<uint32_t>(done.tag);
  if (index >= slots_.size()) return false;
  Slot& slot = slots_[index];
  if (slot.state != State::kOut || done.tag != TagOf(index, slot.round)) return false;
  --out_;
  if (done.code == StatusCode::kOk) {
    metrics_->codec_engine_blocks.Add();
    metrics_->codec_engine_bytes[CodecBytesLabel::kCoded].Add(slot.block.coded().size());
    metrics_->codec_engine_bytes[CodecBytesLabel::kSymbols].Add(slot.block.symbol_bytes);
  } else {
    metrics_->codec_engine_fallbacks[CodecFallbackLabel::kFailed].Add();
  }
  Finish(index, done.code);
  return true;
}

void EnginePort::Finish(uint32_t index, StatusCode code) {
  Slot& slot = slots_[index];
  slot.state = State::kFinished;
  slot.code = code;
  slot.next = slot.client->finished;
  slot.client->finished = index;
}

void EnginePort::Free(uint32_t index) {
  slots_[index].state = State::kFree;
  slots_[index].client = nullptr;
  free_.push_back(index);
}

EnginePort::Finished EnginePort::TakeFinished(Client* client) {
  Slot& slot = slots_[client->finished];
  Finished finished;
  finished.slot = client->finished;
  finished.block = slot.block;
  if (slot.code == StatusCode::kOk) finished.symbols = slot.room.first(slot.block.symbol_bytes);
  slot.state = State::kTaken;
  client->finished = slot.next;
  return finished;
}

void EnginePort::Release(Client* client, uint32_t slot) {
  --client->out;
  Free(slot);
}

void EnginePort::Abandon(Client* client) {
  if (client->out == 0) return;
  while (client->finished != kNoSlot) Release(client, TakeFinished(client).slot);
  const auto is_theirs = [&](uint32_t index) { return slots_[index].client == client; };
  for (const uint32_t index : waiting_) {
    if (is_theirs(index)) Release(client, index);
  }
  std::erase_if(waiting_, [this](uint32_t index) { return slots_[index].state == State::kFree; });
  while (client->out > 0) {
    if (!Poll()) std::this_thread::yield();
    while (client->finished != kNoSlot) Release(client, TakeFinished(client).slot);
  }
}

void EnginePort::GoneBecause(std::string_view why) {
  gone_ = true;
  metrics_->codec_engine_up.Set(0);
  Log(LogLevel::kWarn,
      "codec engine {} is gone: {}; {} blocks and all later ones of thread {} go to software",
      options_.engine->Describe(), why, out_ + waiting_.size(), trace_thread);
  waiting_.clear();
  for (uint32_t index = 0; index < slots_.size(); ++index) {
    Slot& slot = slots_[index];
    if (slot.state != State::kWaiting && slot.state != State::kOut) continue;
    metrics_->codec_engine_fallbacks[CodecFallbackLabel::kGone].Add();
    Finish(index, StatusCode::kUnavailable);
  }
  CountInflight();
}

void EnginePort::CountInflight() {
  const int64_t inflight = gone_ ? 0 : static_cast<int64_t>(out_ + waiting_.size());
  metrics_->codec_engine_inflight.Add(inflight - std::exchange(counted_, inflight));
}

}  // namespace shadowserve
