// ReadMarker on hostile bytes: what it accepts is exactly what WriteMarker writes, and with keys
// only what these sealed.
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/check.h"
#include "format/segment_testing.h"

namespace shadowserve {
namespace {

// The input laid over a sealed marker, its checksum made right or not.
void CheckSealed(std::span<const std::byte> input, bool repair, const ObjectName& name) {
  static const std::unique_ptr<Seal> seal = segment_testing::MakeSeal({7, 8});
  std::array<std::byte, kMarkerBytes> good;
  (void)WriteMarker({.segment_bytes = 5000, .segment_crc = 1}, name, good, seal.get());
  auto object = good;
  for (size_t i = 0; i < std::min(input.size(), object.size()); ++i) object[i] ^= input[i];
  if (repair) segment_testing::Put(object, 124, Crc32c(std::span(object).first(124)), 4);
  SS_CHECK(ReadMarker(object, name, seal.get()).ok() == (object == good), "a forged marker");
  SS_CHECK(!ReadMarker(input, name, seal.get()).ok(), "a marker forged from nothing");
}

}  // namespace
}  // namespace shadowserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  using segment_testing::Put;
  if (size == 0) return 0;
  constexpr SegmentShape kShape = {.layers = {0, 1}, .heads = 1, .head_dim = 1};
  const ObjectName name = segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kDeflate, 1)
                              .AsKind(ObjectKind::kMarker);
  const auto input = std::as_bytes(std::span(data + 1, size - 1));
  CheckSealed(input, data[0] % 2 == 0, name);
  std::vector<std::byte> object(input.begin(), input.end());
  if (data[0] % 2 == 0 && object.size() == kMarkerBytes) {
    const Digest digest = NameDigest(name);
    std::copy(digest.begin(), digest.end(), object.begin() + 24);
    if (data[0] % 4 == 0) {
      Put(object, 0, 0x00800001'6B6D5353, 8);
      std::fill(object.begin() + 20, object.begin() + 24, std::byte{0});
      std::fill(object.begin() + 56, object.begin() + 123, std::byte{0});
    }
    Put(object, 124, Crc32c(std::span(object).first(124)), 4);
  }
  const Result<Marker> marker = ReadMarker(object, name);
  if (!marker.ok()) {
    SS_CHECK(marker.status().code() == StatusCode::kCorrupt, marker.status().ToString());
    return 0;
  }
  std::array<std::byte, kMarkerBytes> again;
  const auto written = WriteMarker(*marker, name, again);
  SS_CHECK(std::equal(written.begin(), written.end(), object.begin(), object.end()),
           "read and written markers differ");
  return 0;
}
