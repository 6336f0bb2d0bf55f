// Device `process_vm`: cross-memory copy system calls. Needs the ptrace right over the engine
// worker and a pid namespace that shows it.
#ifndef SHADOWSERVE_DEVICE_PROCESS_VM_DEVICE_H_
#define SHADOWSERVE_DEVICE_PROCESS_VM_DEVICE_H_

#include "device/kv_device.h"

namespace shadowserve {

Result<std::unique_ptr<KvDevice>> OpenProcessVmDevice(KvExport exported);

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_PROCESS_VM_DEVICE_H_
