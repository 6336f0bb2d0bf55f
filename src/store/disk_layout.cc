#include "store/disk_layout.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string>

namespace shadowserve {
namespace {

constexpr std::string_view kDigits = "0123456789abcdef";
constexpr std::string_view kTempPrefix = "ss1-";
constexpr std::string_view kTempSuffix = ".part";
constexpr size_t kHexDigits = 2 * sizeof(ChunkKey);

class PathWriter {
 public:
  PathWriter& operator<<(std::string_view part) {
    std::memcpy(path_.text.data() + size_, part.data(), part.size());
    size_ += part.size();
    return *this;
  }
  PathWriter& operator<<(uint32_t number) {
    char* const end = path_.text.data() + path_.text.size();
    size_ = static_cast<size_t>(std::to_chars(path_.text.data() + size_, end, number).ptr -
                                path_.text.data());
    return *this;
  }
  PathWriter& Hex(std::byte byte) {
    path_.text[size_++] = kDigits[std::to_integer<size_t>(byte >> 4)];
    path_.text[size_++] = kDigits[std::to_integer<size_t>(byte & std::byte{15})];
    return *this;
  }
  const DiskPath& path() const { return path_; }

 private:
  // Longest: shard 3, digits 64, profile and codec 1 + 8 + 1 + 7, layers 2 + 5 + 1 + 5, heads
  // 2 + 5 + 2 + 5, kind 5: 116 bytes. Profiles may grow names by 40 more.
  DiskPath path_;
  size_t size_ = 0;
};

}  // namespace

DiskPath ObjectPath(const ObjectName& name) {
  PathWriter writer;
  writer.Hex(name.key[0]) << "/";
  for (std::byte byte : name.key) writer.Hex(byte);
  writer << "." << ProfileName(name.profile) << "." << CodecName(name.codec);
  writer << ".l" << name.first_layer << "+" << name.layer_count;
  writer << ".h" << name.head_group << "of" << name.head_groups;
  writer << (name.kind == ObjectKind::kMarker ? ".mark" : ".seg");
  return writer.path();
}

DiskPath TempPath(uint32_t number) {
  PathWriter writer;
  writer << kDiskTempDir << "/" << kTempPrefix << number << kTempSuffix;
  return writer.path();
}

DiskPath ShardPath(uint32_t shard) {
  PathWriter writer;
  writer.Hex(static_cast<std::byte>(shard));
  return writer.path();
}

Result<ObjectName> ParseObjectPath(std::string_view shard, std::string_view file) {
  const Status foreign(StatusCode::kInvalidArgument, "not the path of an object");
  if (file.size() <= kHexDigits + 1 || file.size() >= DiskPath::kBytesMax) return foreign;
  // <hex>.<profile>.<codec>.<layers>.<heads>.<kind>: the first and the third to fifth '.' were ':'.
  std::string text = "ss1:{" + std::string(file.substr(0, kHexDigits)) + "}:";
  if (file[kHexDigits] != '.') return foreign;
  uint32_t dots = 0;
  for (char c : file.substr(kHexDigits + 1)) {
    if (c == ':') return foreign;
    if (c == '.') ++dots;
    text.push_back(c == '.' && dots > 1 ? ':' : c);
  }
  SS_TRY_ASSIGN(const ObjectName name, ParseObjectName(text));
  // Strict: the file must be exactly where this name's object would be.
  if (ObjectPath(name).view() != std::string(shard) + "/" + std::string(file)) return foreign;
  return name;
}

bool IsTempFile(std::string_view file) {
  if (!file.starts_with(kTempPrefix) || !file.ends_with(kTempSuffix)) return false;
  if (file.size() <= kTempPrefix.size() + kTempSuffix.size()) return false;
  file.remove_prefix(kTempPrefix.size());
  file.remove_suffix(kTempSuffix.size());
  return std::ranges::all_of(file, [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace shadowserve
