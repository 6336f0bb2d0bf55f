#include "pipeline/transfer_port.h"

#include <algorithm>
#include <array>

namespace shadowserve {
namespace {

constexpr uint64_t kTransferTagBits = 56;

StageLabel StageOf(bool write) {
  return write ? StageLabel::kWrite : StageLabel::kRead;
}

}  // namespace

uint64_t TransferPort::ListenerIndex(TransferListener* listener) {
  const auto found = std::find(listeners_.begin(), listeners_.end(), listener);
  if (found == listeners_.end()) {
    listeners_.push_back(listener);
    return listeners_.size() - 1;
  }
  return static_cast<uint64_t>(found - listeners_.begin());
}

bool TransferPort::Submit(TransferListener* listener, KvDevice* device, bool write,
                          std::span<const TransferRun> runs, uint64_t tag) {
  const int64_t start_ns = clock_->NowNs();
  const Transfer transfer{write, runs, ListenerIndex(listener) << kTransferTagBits | tag};
  const bool accepted = device->Submit(std::span(&transfer, 1)) == 1;
  metrics_->stage_busy[StageOf(write)].AddNs(clock_->NowNs() - start_ns);
  if (!accepted) return false;
  uint64_t bytes = 0;
  for (const TransferRun& run : runs) bytes += run.local.size();
  metrics_->stage_bytes[StageOf(write)].Add(2 * bytes);
  metrics_->stage_inflight[StageLabel::kWrite].Add(1);
  const auto found = std::find_if(devices_.begin(), devices_.end(),
                                  [device](const InFlight& d) { return d.device == device; });
  if (found == devices_.end()) {
    devices_.push_back({device, 1});
  } else {
    ++found->count;
  }
  return true;
}

bool TransferPort::Poll() {
  bool moved = false;
  std::array<TransferCompletion, 8> completions;
  for (size_t i = 0; i < devices_.size();) {
    const int64_t start_ns = clock_->NowNs();
    const size_t count = devices_[i].device->Poll(completions);
    metrics_->stage_busy[StageLabel::kWrite].AddNs(clock_->NowNs() - start_ns);
    devices_[i].count -= static_cast<uint32_t>(count);
    if (devices_[i].count == 0) {
      devices_[i] = devices_.back();
      devices_.pop_back();
    } else {
      ++i;
    }
    for (const TransferCompletion& done : std::span(completions).first(count)) {
      metrics_->stage_inflight[StageLabel::kWrite].Add(-1);
      listeners_[done.user_data >> kTransferTagBits]->OnTransfer(
          done.user_data & ((uint64_t{1} << kTransferTagBits) - 1), done.code);
      moved = true;
    }
  }
  return moved;
}

}  // namespace shadowserve
