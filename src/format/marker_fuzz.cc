// ReadMarker on hostile bytes: what it accepts is exactly what WriteMarker writes.
#include <array>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "format/segment_testing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  using segment_testing::Put;
  if (size == 0) return 0;
  constexpr SegmentShape kShape = {.layers = {0, 1}, .heads = 1, .head_dim = 1};
  const ObjectName name = segment_testing::NameOf(kShape, Profile::kQ8, CodecId::kDeflate, 1)
                              .AsKind(ObjectKind::kMarker);
  const auto input = std::as_bytes(std::span(data + 1, size - 1));
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
