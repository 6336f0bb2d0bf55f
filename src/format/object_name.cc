#include "format/object_name.h"

#include <charconv>
#include <cstring>

namespace shadowserve {
namespace {

constexpr std::string_view kPrefix = "ss1:{";
// Longest text: prefix 5, digits 64, "}:" 2, names 8 + 1 + 7, ":l" 2, 5 + 1 + 5, ":h" 2, 5 + 2 + 5,
// ":" 1, kind 4.
static_assert(5 + 64 + 2 + 16 + 2 + 11 + 2 + 12 + 1 + 4 <= kObjectNameTextMax);

std::string_view KindName(ObjectKind kind) {
  switch (kind) {
    case ObjectKind::kSegment:
      return "seg";
    case ObjectKind::kMarker:
      return "mark";
  }
  return "unknown";
}

// A name as text, on the stack: names are digested once per object read.
class NameText {
 public:
  explicit NameText(const ObjectName& name) {
    Add(kPrefix);
    AddHex(name.key);
    Add("}:");
    Add(ProfileName(name.profile));
    Add(".");
    Add(CodecName(name.codec));
    Add(":l");
    Add(name.first_layer);
    Add("+");
    Add(name.layer_count);
    Add(":h");
    Add(name.head_group);
    Add("of");
    Add(name.head_groups);
    Add(":");
    Add(KindName(name.kind));
  }
  std::string_view view() const { return {text_.data(), size_}; }

 private:
  void Add(std::string_view part) {
    std::memcpy(text_.data() + size_, part.data(), part.size());
    size_ += part.size();
  }
  void Add(uint16_t number) {
    const std::to_chars_result result =
        std::to_chars(text_.data() + size_, text_.data() + text_.size(), number);
    size_ = static_cast<size_t>(result.ptr - text_.data());
  }
  void AddHex(const ChunkKey& key) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    for (std::byte byte : key) {
      text_[size_++] = kDigits[std::to_integer<size_t>(byte >> 4)];
      text_[size_++] = kDigits[std::to_integer<size_t>(byte & std::byte{15})];
    }
  }

  std::array<char, kObjectNameTextMax> text_;
  size_t size_ = 0;
};

Status NotAName(std::string_view what) {
  return Status(StatusCode::kInvalidArgument, "object name: " + std::string(what));
}

// Eats text from the left; every method returns false and leaves the rest undefined on a mismatch.
class NameParser {
 public:
  explicit NameParser(std::string_view text) : rest_(text) {}

  bool Skip(std::string_view literal) {
    if (!rest_.starts_with(literal)) return false;
    rest_.remove_prefix(literal.size());
    return true;
  }
  bool Take(size_t count, std::string_view* out) {
    if (rest_.size() < count) return false;
    *out = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return true;
  }
  bool TakeUntil(char end, std::string_view* out) {
    const size_t at = rest_.find(end);
    return at != std::string_view::npos && Take(at, out) && Skip({&end, 1});
  }
  // Decimal without sign or leading zero.
  bool Number(uint16_t* out) {
    if (rest_.size() > 1 && rest_[0] == '0' && rest_[1] >= '0' && rest_[1] <= '9') return false;
    const std::from_chars_result result =
        std::from_chars(rest_.data(), rest_.data() + rest_.size(), *out);
    if (result.ec != std::errc()) return false;
    rest_.remove_prefix(static_cast<size_t>(result.ptr - rest_.data()));
    return true;
  }
  std::string_view rest() const { return rest_; }

 private:
  std::string_view rest_;
};

Status CheckNumbers(const ObjectName& name) {
  if (name.layer_count == 0 || uint32_t{name.first_layer} + name.layer_count > kLayersMax) {
    return NotAName("layer range");
  }
  if (name.head_groups > kHeadsMax || name.head_group >= name.head_groups) {
    return NotAName("head group");
  }
  return OkStatus();
}

uint64_t Load64(const void* bytes) {
  uint64_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

}  // namespace

std::string_view ProfileName(Profile profile) {
  switch (profile) {
    case Profile::kRaw:
      return "raw";
    case Profile::kLossless:
      return "lossless";
    case Profile::kQ8:
      return "q8";
    case Profile::kBalanced:
      return "balanced";
  }
  return "unknown";
}

std::string_view CodecName(CodecId codec) {
  switch (codec) {
    case CodecId::kNone:
      return "none";
    case CodecId::kDeflate:
      return "deflate";
    case CodecId::kZstd:
      return "zstd";
  }
  return "unknown";
}

Result<Profile> ParseProfile(std::string_view name) {
  std::string known;
  for (const Profile profile : kProfiles) {
    if (name == ProfileName(profile)) return profile;
    known += (known.empty() ? "" : ", ") + std::string(ProfileName(profile));
  }
  return Status(StatusCode::kUnsupported,
                "profile '" + std::string(name) + "' is not one of " + known);
}

Result<CodecId> ParseCodec(std::string_view name) {
  for (CodecId codec : {CodecId::kNone, CodecId::kDeflate, CodecId::kZstd}) {
    if (name == CodecName(codec)) return codec;
  }
  return Status(StatusCode::kUnsupported,
                "codec '" + std::string(name) + "' is not one of deflate, zstd, none");
}

std::string ToString(const ObjectName& name) {
  return std::string(NameText(name).view());
}

size_t CopyText(const ObjectName& name, std::span<char, kObjectNameTextMax> out) {
  const NameText text(name);
  std::memcpy(out.data(), text.view().data(), text.view().size());
  return text.view().size();
}

Result<ObjectName> ParseObjectName(std::string_view text) {
  NameParser parser(text);
  ObjectName name;
  std::string_view hex, profile, codec;
  if (!parser.Skip(kPrefix)) return NotAName("prefix");
  if (!parser.Take(2 * sizeof(ChunkKey), &hex)) return NotAName("chain key");
  const Result<Digest> key = DigestFromHex(hex);
  if (!key.ok() || !parser.Skip("}:")) return NotAName("chain key");
  name.key = *key;
  if (!parser.TakeUntil('.', &profile)) return NotAName("profile");
  if (!parser.TakeUntil(':', &codec)) return NotAName("codec");
  const Result<Profile> known_profile = ParseProfile(profile);
  const Result<CodecId> known_codec = ParseCodec(codec);
  if (!known_profile.ok()) return NotAName("profile");
  if (!known_codec.ok()) return NotAName("codec");
  name.profile = *known_profile;
  name.codec = *known_codec;
  if (!parser.Skip("l") || !parser.Number(&name.first_layer) || !parser.Skip("+") ||
      !parser.Number(&name.layer_count)) {
    return NotAName("layer range");
  }
  if (!parser.Skip(":h") || !parser.Number(&name.head_group) || !parser.Skip("of") ||
      !parser.Number(&name.head_groups) || !parser.Skip(":")) {
    return NotAName("head group");
  }
  if (parser.rest() == KindName(ObjectKind::kMarker)) {
    name.kind = ObjectKind::kMarker;
  } else if (parser.rest() != KindName(ObjectKind::kSegment)) {
    return NotAName("kind");
  }
  SS_TRY(CheckNumbers(name));
  return name;
}

Digest NameDigest(const ObjectName& name) {
  const NameText text(name);
  return Sha256(std::as_bytes(std::span(text.view())));
}

size_t ObjectNameHash::operator()(const ObjectName& name) const {
  // The key is a SHA-256 already; the other 16 bytes are folded in by an odd multiplier each
  // (2^64 / golden ratio, and a constant of SplitMix64), so that siblings of a chunk spread.
  const std::byte* tail = reinterpret_cast<const std::byte*>(&name) + sizeof(ChunkKey);
  uint64_t hash = Load64(name.key.data());
  hash = (hash ^ Load64(tail)) * 0x9E3779B97F4A7C15u;
  hash = (hash ^ (hash >> 32) ^ Load64(tail + 8)) * 0xBF58476D1CE4E5B9u;
  return static_cast<size_t>(hash ^ (hash >> 32));
}

}  // namespace shadowserve
