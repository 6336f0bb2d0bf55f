#include "device/process_vm_device.h"

#include <fmt/format.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "device/engine_process.h"
#include "device/transfer_ring.h"

namespace shadowserve {
namespace {

Status Unavailable(std::string_view what, int error) {
  return Status(StatusCode::kUnavailable, fmt::format("KV device 'process_vm': {}: {}: {}", what,
                                                      std::strerror(error), kPtraceRemedy));
}

class ProcessVmDevice final : public CopyingDevice {
 public:
  ProcessVmDevice(const KvExport& exported, EngineProcess process)
      : CopyingDevice(exported.region_bytes),
        pid_(exported.pid),
        address_(exported.address),
        process_(std::move(process)) {}

  std::string_view kind() const override { return "process_vm"; }
  std::span<std::byte> direct() const override { return {}; }

  bool Alive() const { return process_.Alive(); }

 private:
  StatusCode Move(bool write, std::span<const TransferRun> pieces) override {
    if (!Alive()) return StatusCode::kUnavailable;
    for (size_t i = 0; i < pieces.size(); ++i) {
      local_[i] = {pieces[i].local.data(), pieces[i].local.size()};
      remote_[i] = {reinterpret_cast<void*>(address_ + pieces[i].offset), pieces[i].local.size()};
    }
    size_t first = 0;
    while (first < pieces.size()) {
      const ssize_t moved = write ? ::process_vm_writev(pid_, &local_[first], pieces.size() - first,
                                                        &remote_[first], pieces.size() - first, 0)
                                  : ::process_vm_readv(pid_, &local_[first], pieces.size() - first,
                                                       &remote_[first], pieces.size() - first, 0);
      if (moved < 0 && errno == EINTR) continue;
      // EFAULT: the region is not the engine's memory any more.
      if (moved <= 0) return StatusCode::kUnavailable;
      // A transfer may stop anywhere: go on from there.
      for (auto left = static_cast<size_t>(moved); left > 0;) {
        const size_t step = std::min(left, local_[first].iov_len);
        for (iovec* part : {&local_[first], &remote_[first]}) {
          part->iov_base = static_cast<std::byte*>(part->iov_base) + step;
          part->iov_len -= step;
        }
        left -= step;
        if (local_[first].iov_len == 0) ++first;
      }
    }
    return StatusCode::kOk;
  }

  pid_t pid_;
  uint64_t address_;
  EngineProcess process_;
  std::array<iovec, kPiecesMax> local_;
  std::array<iovec, kPiecesMax> remote_;
};

// Nothing of the region may lie outside what a user address can be: the sums below must not wrap.
bool IsUserRange(uint64_t address, uint64_t bytes) {
  constexpr uint64_t kUserEnd = uint64_t{1} << 56;
  return address != 0 && address < kUserEnd && bytes <= kUserEnd - address;
}

}  // namespace

Result<std::unique_ptr<KvDevice>> OpenProcessVmDevice(KvExport exported) {
  if (exported.pid <= 0) {
    return Unavailable("the engine worker is in another pid namespace", ESRCH);
  }
  if (!IsUserRange(exported.address, exported.region_bytes) ||
      !IsUserRange(exported.probe_address, sizeof(uint64_t))) {
    return Status(StatusCode::kInvalidArgument, "KV device 'process_vm': no such address range");
  }
  Result<EngineProcess> process = EngineProcess::Watch(exported.pid);
  if (!process.ok()) {
    return Status(StatusCode::kUnavailable, fmt::format("KV device 'process_vm': {}: {}",
                                                        process.status().message(), kPtraceRemedy));
  }
  uint64_t value = 0;
  const iovec local{&value, sizeof(value)};
  const iovec remote{reinterpret_cast<void*>(exported.probe_address), sizeof(value)};
  const ssize_t got = ::process_vm_readv(exported.pid, &local, 1, &remote, 1, 0);
  if (got < 0) return Unavailable(fmt::format("probe of engine worker {}", exported.pid), errno);
  auto device = std::make_unique<ProcessVmDevice>(exported, std::move(process).value());
  // In this order: the pid was the engine's when the probe was read if it is the engine's now.
  if (got != sizeof(value) || value != exported.probe_value || !device->Alive()) {
    return Status(StatusCode::kUnavailable,
                  fmt::format("KV device 'process_vm': process {} is not the engine worker: {}",
                              exported.pid, kPtraceRemedy));
  }
  return std::unique_ptr<KvDevice>(std::move(device));
}

}  // namespace shadowserve
