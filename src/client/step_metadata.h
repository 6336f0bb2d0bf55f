// What the scheduler half tells the worker halves in one engine step, as bytes.
//
//   u32 magic "SSM1" | u8 flags (bit 0: the workers grant) | u64 epoch
//   | u32 count, per new attempt: u64 attempt, u16 length, request id | u32 count, failed attempts
//   u64
// All little-endian. Both halves are this library in one deployment, but the bytes pass through
// other processes: decoding checks everything. Thread-safe.
#ifndef SHADOWSERVE_CLIENT_STEP_METADATA_H_
#define SHADOWSERVE_CLIENT_STEP_METADATA_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace shadowserve {

struct StepMetadata {
  struct NewLoad {
    uint64_t attempt = 0;
    std::string request_id;
    bool operator==(const NewLoad&) const = default;
  };
  uint64_t epoch = 0;
  bool grant = false;            // the workers say when pages may be written
  std::vector<NewLoad> loads;    // by attempt, rising
  std::vector<uint64_t> failed;  // on the scheduler's side

  bool empty() const { return loads.empty() && failed.empty(); }
  bool operator==(const StepMetadata&) const = default;
};

// "" when empty.
std::string EncodeStep(const StepMetadata& step);
// "" gives an empty step. kInvalidArgument: not such bytes.
Result<StepMetadata> DecodeStep(std::string_view bytes);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_STEP_METADATA_H_
