#include "client/step_metadata.h"

#include <cstddef>

namespace shadowserve {
namespace {

constexpr uint32_t kMagic = 0x314d5353;  // "SSM1"

template <typename Integer>
void Put(Integer value, std::string* out) {
  for (size_t i = 0; i < sizeof(value); ++i) {
    out->push_back(static_cast<char>(static_cast<unsigned char>(value >> (8 * i))));
  }
}

template <typename Integer>
bool Take(std::string_view* bytes, Integer* value) {
  if (bytes->size() < sizeof(Integer)) return false;
  uint64_t sum = 0;
  for (size_t i = 0; i < sizeof(Integer); ++i) {
    sum |= uint64_t{static_cast<unsigned char>((*bytes)[i])} << (8 * i);
  }
  bytes->remove_prefix(sizeof(Integer));
  *value = static_cast<Integer>(sum);
  return true;
}

bool TakeLoads(std::string_view* bytes, std::vector<StepMetadata::NewLoad>* loads) {
  uint32_t count = 0;
  if (!Take(bytes, &count) || count > bytes->size() / 10) return false;
  loads->resize(count);
  for (StepMetadata::NewLoad& load : *loads) {
    uint16_t length = 0;
    if (!Take(bytes, &load.attempt) || !Take(bytes, &length) || length > bytes->size()) {
      return false;
    }
    load.request_id = bytes->substr(0, length);
    bytes->remove_prefix(length);
  }
  return true;
}

bool TakeFailed(std::string_view* bytes, std::vector<uint64_t>* failed) {
  uint32_t count = 0;
  if (!Take(bytes, &count) || count != bytes->size() / 8) return false;
  failed->resize(count);
  for (uint64_t& attempt : *failed) {
    if (!Take(bytes, &attempt)) return false;
  }
  return bytes->empty();
}

}  // namespace

std::string EncodeStep(const StepMetadata& step) {
  if (step.empty()) return "";
  std::string out;
  Put(kMagic, &out);
  Put(static_cast<uint8_t>(step.grant ? 1 : 0), &out);
  Put(step.epoch, &out);
  Put(static_cast<uint32_t>(step.loads.size()), &out);
  for (const StepMetadata::NewLoad& load : step.loads) {
    Put(load.attempt, &out);
    Put(static_cast<uint16_t>(load.request_id.size()), &out);
    out += load.request_id;
  }
  Put(static_cast<uint32_t>(step.failed.size()), &out);
  for (const uint64_t attempt : step.failed) Put(attempt, &out);
  return out;
}

Result<StepMetadata> DecodeStep(std::string_view bytes) {
  StepMetadata step;
  if (bytes.empty()) return step;
  uint32_t magic = 0;
  uint8_t flags = 0;
  if (!Take(&bytes, &magic) || magic != kMagic || !Take(&bytes, &flags) ||
      !Take(&bytes, &step.epoch) || !TakeLoads(&bytes, &step.loads) ||
      !TakeFailed(&bytes, &step.failed)) {
    return Status(StatusCode::kInvalidArgument, "step metadata: not from this version");
  }
  step.grant = (flags & 1) != 0;
  return step;
}

}  // namespace shadowserve
