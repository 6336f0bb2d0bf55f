#include "device/transfer_ring.h"

#include <algorithm>

namespace shadowserve {

size_t TransferRing::Accept(std::span<const Transfer> transfers) {
  const size_t accepted = std::min(transfers.size(), kTransfersMax - count_);
  for (size_t i = 0; i < accepted; ++i) {
    transfers_[(first_ + count_) % kTransfersMax] = transfers[i];
    ++count_;
  }
  return accepted;
}

bool TransferRing::InBounds() const {
  return std::all_of(First().runs.begin(), First().runs.end(), [this](const TransferRun& run) {
    return run.local.size() <= region_bytes_ && run.offset <= region_bytes_ - run.local.size();
  });
}

size_t TransferRing::TakePieces(std::span<TransferRun> pieces, uint64_t bytes_max) {
  size_t filled = 0;
  const std::span<const TransferRun> runs = First().runs;
  while (run_ < runs.size() && filled < pieces.size() && bytes_max > 0) {
    const TransferRun& run = runs[run_];
    const uint64_t bytes = std::min<uint64_t>(run.local.size() - run_offset_, bytes_max);
    if (bytes > 0) {
      pieces[filled++] = {run.offset + run_offset_, run.local.subspan(run_offset_, bytes)};
      bytes_max -= bytes;
      run_offset_ += bytes;
    }
    if (run_offset_ == run.local.size()) {
      ++run_;
      run_offset_ = 0;
    }
  }
  return filled;
}

TransferCompletion TransferRing::Complete(StatusCode code) {
  const TransferCompletion completion{First().user_data, code};
  first_ = (first_ + 1) % kTransfersMax;
  --count_;
  run_ = 0;
  run_offset_ = 0;
  return completion;
}

size_t CopyingDevice::Poll(std::span<TransferCompletion> completions) {
  size_t completed = 0;
  uint64_t bytes_left = kBytesPerPollMax;
  while (completed < completions.size() && !ring_.empty()) {
    if (!ring_.started() && !ring_.InBounds()) {
      completions[completed++] = ring_.Complete(StatusCode::kInvalidArgument);
      continue;
    }
    if (bytes_left == 0) break;
    const size_t count = ring_.TakePieces(pieces_, bytes_left);
    if (count == 0) {
      completions[completed++] = ring_.Complete(StatusCode::kOk);
      continue;
    }
    const std::span<const TransferRun> pieces = std::span(pieces_).first(count);
    for (const TransferRun& piece : pieces) bytes_left -= piece.local.size();
    const StatusCode code = Move(ring_.write(), pieces);
    if (code != StatusCode::kOk) completions[completed++] = ring_.Complete(code);
  }
  return completed;
}

}  // namespace shadowserve
