// TransferRing: the transfers that a device has accepted and not yet completed, in order, and how
// far the first one has come. Shared by the devices, so that acceptance, bounds and progress are
// one piece of code. Owner thread: the device's. Allocates nothing.
#ifndef SHADOWSERVE_DEVICE_TRANSFER_RING_H_
#define SHADOWSERVE_DEVICE_TRANSFER_RING_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "device/kv_device.h"

namespace shadowserve {

class TransferRing {
 public:
  static constexpr size_t kTransfersMax = 256;

  explicit TransferRing(uint64_t region_bytes) : region_bytes_(region_bytes) {}

  // Accepts a prefix, as much as there is room for.
  size_t Accept(std::span<const Transfer> transfers);
  bool empty() const { return count_ == 0; }

  // Below: of the first transfer. REQUIRES !empty().
  bool write() const { return First().write; }
  // Every run lies inside the region (nothing of the transfer may be moved otherwise).
  bool InBounds() const;
  // Takes the next bytes to be moved: at most pieces.size() parts of runs, at most `bytes_max`
  // bytes. Returns how many pieces were filled; 0: all of the transfer was taken.
  size_t TakePieces(std::span<TransferRun> pieces, uint64_t bytes_max);
  bool started() const { return run_ != 0 || run_offset_ != 0; }
  // Ends the first transfer.
  TransferCompletion Complete(StatusCode code);

 private:
  const Transfer& First() const { return transfers_[first_]; }

  uint64_t region_bytes_;
  std::array<Transfer, kTransfersMax> transfers_;
  size_t first_ = 0;
  size_t count_ = 0;
  size_t run_ = 0;           // of the first transfer: the next run to take from
  uint64_t run_offset_ = 0;  // bytes of it that were taken
};

// A device whose moves are calls that return when the bytes are in place: Poll does the work, at
// most kBytesPerPollMax per call.
class CopyingDevice : public KvDevice {
 public:
  static constexpr uint64_t kBytesPerPollMax = uint64_t{4} << 20;
  static constexpr size_t kPiecesMax = 256;

  uint64_t region_bytes() const final { return region_bytes_; }
  size_t Submit(std::span<const Transfer> transfers) final { return ring_.Accept(transfers); }
  size_t Poll(std::span<TransferCompletion> completions) final;

 protected:
  explicit CopyingDevice(uint64_t region_bytes)
      : region_bytes_(region_bytes), ring_(region_bytes) {}
  // Moves all pieces or says why not. Their offsets are checked already.
  virtual StatusCode Move(bool write, std::span<const TransferRun> pieces) = 0;

 private:
  uint64_t region_bytes_;
  TransferRing ring_;
  std::array<TransferRun, kPiecesMax> pieces_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_TRANSFER_RING_H_
