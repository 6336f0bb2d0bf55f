#include "app/auth_keys.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "base/plain_file.h"

namespace shadowserve {
namespace {

constexpr size_t kKeyFileBytesMax = 4096;

Status InvalidKeyFile(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

int HexValue(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  if (digit >= 'A' && digit <= 'F') return digit - 'A' + 10;
  return -1;
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r";
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

Result<AuthKey> ParseKey(std::string_view line) {
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return InvalidKeyFile("no ':' between id and key");
  AuthKey key;
  const std::string_view id = line.substr(0, colon);
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), key.id);
  if (error != std::errc() || end != id.data() + id.size() || key.id == 0) {
    return InvalidKeyFile("the id is no whole number from 1 to 4294967295");
  }
  const std::string_view hex = line.substr(colon + 1);
  if (hex.size() != 2 * key.secret.size()) {
    return InvalidKeyFile(fmt::format("the key has {} characters, not 64 hex digits", hex.size()));
  }
  for (size_t i = 0; i < key.secret.size(); ++i) {
    const int high = HexValue(hex[2 * i]);
    const int low = HexValue(hex[2 * i + 1]);
    if (high < 0 || low < 0) return InvalidKeyFile("the key has characters that are no hex digits");
    key.secret[i] = static_cast<std::byte>(high * 16 + low);
  }
  if (std::all_of(key.secret.begin(), key.secret.end(),
                  [&](std::byte byte) { return byte == key.secret[0]; })) {
    return InvalidKeyFile("the key is one byte repeated; make one with `openssl rand -hex 32`");
  }
  return key;
}

Result<std::string> ReadPrivateFile(const std::string& path) {
  SS_TRY_ASSIGN(PlainFile file, ReadPlainFile(path, kKeyFileBytesMax));
  if (file.owner != geteuid() && file.owner != 0) {
    return InvalidKeyFile(
        fmt::format("belongs to user {}; it must be this user's or root's", file.owner));
  }
  if ((file.permissions & 0077) != 0) {
    return InvalidKeyFile(fmt::format(
        "its mode {:04o} lets others than its owner at the keys; chmod 600", file.permissions));
  }
  return std::move(file.text);
}

}  // namespace

Result<std::vector<AuthKey>> ParseAuthKeys(std::string_view text) {
  std::vector<AuthKey> keys;
  for (size_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = Trim(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty() || line.front() == '#') continue;
    Result<AuthKey> key = ParseKey(line);
    if (!key.ok()) return std::move(key).status().WithContext(fmt::format("line {}", number));
    if (keys.size() == kAuthKeysMax) {
      return InvalidKeyFile(fmt::format("line {}: a third key; two at most", number));
    }
    if (!keys.empty() && keys.front().id == key->id) {
      return InvalidKeyFile(fmt::format("line {}: id {} comes twice", number, key->id));
    }
    keys.push_back(*key);
  }
  if (keys.empty()) return InvalidKeyFile("no key in it");
  return keys;
}

Result<std::vector<AuthKey>> ReadAuthKeys(const std::string& path) {
  const std::string context = "auth.key_file: " + path;
  Result<std::string> text = ReadPrivateFile(path);
  if (!text.ok()) return std::move(text).status().WithContext(context);
  Result<std::vector<AuthKey>> keys = ParseAuthKeys(*text);
  explicit_bzero(text->data(), text->size());
  if (!keys.ok()) return std::move(keys).status().WithContext(context);
  return keys;
}

}  // namespace shadowserve
