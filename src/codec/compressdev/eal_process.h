// DPDK's EAL in this process: started at most once, at the first device that is opened.
//
// EAL takes over arguments, affinity, signals and log of a process. The first three are put back;
// of the log only the last line is kept, which tells why something was refused.
#ifndef SHADOWSERVE_CODEC_COMPRESSDEV_EAL_PROCESS_H_
#define SHADOWSERVE_CODEC_COMPRESSDEV_EAL_PROCESS_H_

#include <rte_compressdev.h>

#include <array>
#include <cstddef>
#include <mutex>
#include <string>

namespace shadowserve::compressdev {

// Writes one line into `error`; always -1.
int Refuse(char* error, size_t error_bytes, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// " (what EAL or a driver said last)", or nothing.
std::string Because();

// Made on the spot, without a bus.
bool IsSoftware(const std::string& device);

struct Eal {
  bool tried = false;
  std::string failure;
  std::array<bool, RTE_COMPRESS_MAX_DEVS> in_use = {};  // by device number
};
extern std::mutex eal_mutex;
extern Eal eal;  // guarded by eal_mutex

// 0 when it runs and knows the device's bus. EAL cannot be told of another bus later. REQUIRES:
// eal_mutex is held.
int StartEal(const std::string& device, char* error, size_t error_bytes);

}  // namespace shadowserve::compressdev

#endif  // SHADOWSERVE_CODEC_COMPRESSDEV_EAL_PROCESS_H_
