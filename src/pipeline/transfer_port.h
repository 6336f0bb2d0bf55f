// The pipelines' way to devices that take transfers: tags completions with their owner and polls
// each device that has something in flight.
//
// Owner thread: the pipeline's.
#ifndef SHADOWSERVE_PIPELINE_TRANSFER_PORT_H_
#define SHADOWSERVE_PIPELINE_TRANSFER_PORT_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "device/kv_device.h"

namespace shadowserve {

class TransferListener {
 public:
  virtual ~TransferListener() = default;
  virtual void OnTransfer(uint64_t tag, StatusCode code) = 0;
};

class TransferPort {
 public:
  TransferPort(Metrics* metrics, const Clock* clock) : metrics_(metrics), clock_(clock) {}

  // False when the device takes no more now. `tag` (< 2^56) comes back to `listener`; runs and
  // local memory are lent until then.
  bool Submit(TransferListener* listener, KvDevice* device, bool write,
              std::span<const TransferRun> runs, uint64_t tag);
  // Delivers completions; true when there were any.
  bool Poll();
  bool idle() const { return devices_.empty(); }

 private:
  struct InFlight {
    KvDevice* device = nullptr;
    uint32_t count = 0;
  };
  uint64_t ListenerIndex(TransferListener* listener);

  Metrics* metrics_;
  const Clock* clock_;
  std::vector<TransferListener*> listeners_;
  std::vector<InFlight> devices_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_PIPELINE_TRANSFER_PORT_H_
