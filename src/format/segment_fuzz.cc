// SegmentReader and VerifySegment on hostile bytes. The first byte chooses profile and codec and
// whether checksums, size and name digest are made right first, so that the deep rules are reached.
// The same bytes go to a reader with keys, which accepts nothing but what they sealed.
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "format/segment_testing.h"

namespace shadowserve {
namespace {

using segment_testing::kHeaderBytes;
using segment_testing::kNameDigestAt;
using segment_testing::kTotalBytesAt;

constexpr SegmentShape kShape = {
    .layers = {2, 2}, .head_group = 1, .first_head = 1, .heads = 1, .head_dim = 2};

constexpr size_t kCodecs = 3;
constexpr size_t kForms = kProfiles.size() * kCodecs;

void Repair(std::span<std::byte> object, const ObjectName& name) {
  if (object.size() < kHeaderBytes) return;
  const Digest digest = NameDigest(name);
  std::copy(digest.begin(), digest.end(), object.begin() + kNameDigestAt);
  segment_testing::Put(object, kTotalBytesAt, object.size(), 8);
  segment_testing::Reseal(object);
}

void CheckOne(std::span<const std::byte> object, const ObjectName& name) {
  Result<SegmentReader> reader = SegmentReader::Open(object, name, kShape);
  const Status verified = VerifySegment(object, name);
  SS_CHECK(verified.ok() || verified.code() == StatusCode::kCorrupt, verified.ToString());
  if (!reader.ok()) {
    SS_CHECK(reader.status().code() == StatusCode::kCorrupt, reader.status().ToString());
    return;
  }
  // Header, table, side and blocks are the whole object, in order.
  const ProfileBytes bytes = *ProfileBytesOf(name.form(), kShape);
  const std::byte* next = object.data() + SegmentHeadBytes(kShape);
  SS_CHECK(reader->side().data() == next && reader->side().size() == bytes.side, "side");
  next += bytes.side;
  bool blocks_good = true;
  for (uint32_t i = 0; i < reader->block_count(); ++i) {
    const BlockView block = reader->NextBlock();
    SS_CHECK(block.stored.data() == next, "a gap between blocks");
    SS_CHECK(block.plain().size() == bytes.plain(block.range.elements), "plain");
    SS_CHECK(block.symbol_bytes == bytes.symbols(block.range.elements), "symbols");
    SS_CHECK(block.coded().size() <= block.symbol_bytes, "coded");
    next += block.stored.size();
    blocks_good = block.Verify().ok() && blocks_good;
  }
  SS_CHECK(next == object.data() + object.size(), "blocks do not end the object");
  SS_CHECK(verified.ok() == blocks_good, "VerifySegment and the reader differ");
}

bool SealedAccepts(std::vector<std::byte> object, const ObjectName& name, Seal* seal) {
  std::vector<std::byte> copy = object;
  const Status read = segment_testing::ReadAllSealed(object, name, kShape, seal);
  const Status verified = VerifySealedSegment(copy, name, seal);
  SS_CHECK(verified.ok() || verified.code() == StatusCode::kCorrupt, verified.ToString());
  SS_CHECK(read.ok() || read.code() == StatusCode::kCorrupt, read.ToString());
  SS_CHECK(read.ok() == verified.ok(), "VerifySealedSegment and the reader differ");
  return read.ok();
}

void CheckSealed(std::span<const std::byte> input, uint8_t mode, const ObjectName& name) {
  static const std::unique_ptr<Seal> seals[] = {
      segment_testing::MakeSeal({7, 8}, SealAlgorithm::kGmac),
      segment_testing::MakeSeal({8, 7}, SealAlgorithm::kAes256Gcm)};
  Seal* seal = seals[mode / kForms / 3 % 2].get();
  const std::vector<std::byte> good = segment_testing::BuildSegment(name, kShape, seal);
  std::vector<std::byte> object = good;
  for (size_t i = 0; i < std::min(input.size(), object.size()); ++i) object[i] ^= input[i];
  if (mode / kForms % 3 != 0) Repair(object, name);
  SS_CHECK(SealedAccepts(object, name, seal) == (object == good), "forged, or refused for nothing");
  object.assign(input.begin(), input.end());
  SS_CHECK(!SealedAccepts(object, name, seal), "forged from nothing");
}

}  // namespace
}  // namespace shadowserve

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace shadowserve;
  if (size == 0) return 0;
  const uint8_t mode = data[0];
  const ObjectName name =
      segment_testing::NameOf(kShape, kProfiles[mode % kProfiles.size()],
                              static_cast<CodecId>(mode / kProfiles.size() % kCodecs), 2);
  const auto input = std::as_bytes(std::span(data + 1, size - 1));
  std::vector<std::byte> object;
  if (mode >= 192) {
    // A good segment with the input laid over its start: close to valid from the first run on.
    object = segment_testing::BuildSegment(name, kShape);
    for (size_t i = 0; i < std::min(input.size(), object.size()); ++i) object[i] ^= input[i];
  } else {
    object.assign(input.begin(), input.end());
  }
  if (mode / kForms % 3 != 0) Repair(object, name);
  CheckOne(object, name);
  CheckSealed(input, mode, name);
  return 0;
}
