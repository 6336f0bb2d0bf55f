// Names of stored objects. A name says which KV (chain key), in which form (profile, codec), and
// which part of it (layer range, head group); `kind` tells the segment from its marker.
//
// As text (store keys, digests, logs), pure ASCII, lower case:
//   ss1:{<key>}:<profile>.<codec>:l<first>+<count>:h<group>of<groups>:<seg|mark>
// with the chain key as 64 hex digits and numbers in decimal without leading zeros. The braces are
// a Redis Cluster hash tag: all objects of a chunk live in one slot.
#ifndef SHADOWSERVE_FORMAT_OBJECT_NAME_H_
#define SHADOWSERVE_FORMAT_OBJECT_NAME_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "format/chunk_key.h"
#include "format/kv_layout.h"

namespace shadowserve {

// A profile is a quantizer (contract.md, "Profiles"); the codec is the lossless coder behind it.
// Numbers are stored: never reuse one.
enum class Profile : uint8_t { kRaw = 1, kLossless = 2, kQ8 = 3, kBalanced = 4 };
inline constexpr std::array kProfiles = {Profile::kRaw, Profile::kLossless, Profile::kQ8,
                                         Profile::kBalanced};
enum class CodecId : uint8_t { kNone = 0, kDeflate = 1, kZstd = 2 };
// Whether the profile gives back every bit.
constexpr bool IsExact(Profile profile) {
  return profile == Profile::kRaw || profile == Profile::kLossless;
}
std::string_view ProfileName(Profile profile);
std::string_view CodecName(CodecId codec);
Result<Profile> ParseProfile(std::string_view name);
Result<CodecId> ParseCodec(std::string_view name);

// In which form KV is stored. The codec matters to the quantizer too: see IsPacked (segment.h).
struct StoredForm {
  Profile profile = Profile::kLossless;
  CodecId codec = CodecId::kZstd;
  bool operator==(const StoredForm&) const = default;
};

enum class ObjectKind : uint8_t { kSegment = 1, kMarker = 2 };

// 48 bytes, no padding, comparable and hashable as bytes.
struct ObjectName {
  ChunkKey key = {};
  Profile profile = Profile::kRaw;
  CodecId codec = CodecId::kNone;
  ObjectKind kind = ObjectKind::kSegment;
  uint8_t reserved = 0;
  uint16_t first_layer = 0;
  uint16_t layer_count = 0;
  uint16_t head_group = 0;
  uint16_t head_groups = 1;
  uint32_t reserved2 = 0;

  bool operator==(const ObjectName&) const = default;
  StoredForm form() const { return {profile, codec}; }
  ObjectName AsKind(ObjectKind other) const {
    ObjectName copy = *this;
    copy.kind = other;
    return copy;
  }
};
static_assert(sizeof(ObjectName) == 48);

// No name's text is longer.
constexpr size_t kObjectNameTextMax = 128;
std::string ToString(const ObjectName& name);
// The same text into `out`, without allocating; returns its length.
size_t CopyText(const ObjectName& name, std::span<char, kObjectNameTextMax> out);
// The exact inverse of ToString; kInvalidArgument for any other text.
Result<ObjectName> ParseObjectName(std::string_view text);
// SHA-256 of ToString(name): binds an object's contents to its name.
Digest NameDigest(const ObjectName& name);

struct ObjectNameHash {
  size_t operator()(const ObjectName& name) const;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_FORMAT_OBJECT_NAME_H_
