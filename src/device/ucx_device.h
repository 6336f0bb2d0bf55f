// Device `ucx`: puts and gets of UCX >= 1.22, opened at run time; over shared hosts by cma (which
// needs the ptrace right, as process_vm does), over RDMA where a site's UCX has it.
//
// Wire form of KvExport::ucx_remote_key (client/kv_export_ucx.cc writes it):
//   {region_key_bytes u32, little-endian} {region key} {probe page key}
// UCX parses the keys and the worker address, and trusts what stands inside: accept this kind only
// from engines that are trusted (`mapped` needs no trust).
#ifndef SHADOWSERVE_DEVICE_UCX_DEVICE_H_
#define SHADOWSERVE_DEVICE_UCX_DEVICE_H_

#include "device/kv_device.h"

namespace shadowserve {

// Bounded: a transport that answers no put and get within 500 ms without the engine's help is
// refused (kUnsupported), as is an older UCX.
Result<std::unique_ptr<KvDevice>> OpenUcxDevice(KvExport exported, const KvDeviceOptions& options);

}  // namespace shadowserve

#endif  // SHADOWSERVE_DEVICE_UCX_DEVICE_H_
