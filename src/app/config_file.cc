#include "app/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <toml++/toml.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/unique_fd.h"

namespace shadowserve {
namespace {

constexpr size_t kFileBytesMax = 1 << 20;

Status InvalidFile(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

Status WrongType(const ConfigKey& key, std::string_view wanted) {
  return InvalidFile(fmt::format("{}: write {}", key.name(), wanted));
}

Result<std::string> TextOf(const ConfigKey& key, const toml::node& node) {
  const auto* text = node.as_string();
  const auto* integer = node.as_integer();
  const auto* real = node.as_floating_point();
  switch (key.type) {
    case ValueType::kText:
      if (text == nullptr) return WrongType(key, "text in quotes");
      return text->get();
    case ValueType::kSize:
      if (text != nullptr) return text->get();
      if (integer == nullptr) return WrongType(key, "a size such as \"256MiB\"");
      return std::to_string(integer->get());
    case ValueType::kCount:
      if (integer == nullptr) return WrongType(key, "a whole number without quotes");
      return std::to_string(integer->get());
    case ValueType::kNumber:
      if (integer != nullptr) return std::to_string(integer->get());
      if (real == nullptr) return WrongType(key, "a number without quotes");
      return fmt::format("{}", real->get());
    case ValueType::kMode:
      if (text != nullptr) return text->get();
      if (integer == nullptr || integer->get() < 0) {
        return WrongType(key, "octal permissions such as \"0660\"");
      }
      return fmt::format("{:o}", integer->get());
  }
  return WrongType(key, "a value");
}

Status AddValue(std::string name, const toml::node& node, std::vector<FileValue>& values) {
  const ConfigKey* key = FindConfigKey(name);
  if (key == nullptr) return InvalidFile(fmt::format("unknown key '{}'", name));
  SS_TRY_ASSIGN(std::string text, TextOf(*key, node));
  values.push_back({key, std::move(text)});
  return OkStatus();
}

bool IsSection(std::string_view name) {
  const auto keys = ConfigKeys();
  return std::any_of(keys.begin(), keys.end(),
                     [&](const ConfigKey& key) { return key.section == name; });
}

Result<std::vector<FileValue>> ValuesOf(const toml::table& root) {
  std::vector<FileValue> values;
  for (const auto& [name, node] : root) {
    const toml::table* section = node.as_table();
    if (section == nullptr) {
      SS_TRY(AddValue(std::string(name.str()), node, values));
      continue;
    }
    if (!IsSection(name.str())) return InvalidFile(fmt::format("unknown section '{}'", name.str()));
    for (const auto& [key, value] : *section) {
      SS_TRY(AddValue(fmt::format("{}.{}", name.str(), key.str()), value, values));
    }
  }
  return values;
}

Result<std::string> ReadFile(const std::string& path) {
  const auto failed = [&](std::string_view what) {
    return InvalidFile(fmt::format("{}: cannot read the config file: {}", path, what));
  };
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return failed(std::strerror(errno));
  std::string text(kFileBytesMax + 1, '\0');
  size_t length = 0;
  while (length < text.size()) {
    const ssize_t got = ::read(fd.get(), text.data() + length, text.size() - length);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(std::strerror(errno));
    if (got == 0) break;
    length += static_cast<size_t>(got);
  }
  if (length > kFileBytesMax) return failed("it is larger than 1 MiB");
  text.resize(length);
  return text;
}

}  // namespace

Result<std::vector<FileValue>> ParseConfigText(std::string_view toml, std::string_view source) {
  try {
    const toml::table root = toml::parse(toml, source);
    Result<std::vector<FileValue>> values = ValuesOf(root);
    if (!values.ok()) return std::move(values).status().WithContext(source);
    return values;
  } catch (const toml::parse_error& error) {
    return InvalidFile(
        fmt::format("{}:{}: {}", source, error.source().begin.line, error.description()));
  }
}

Result<std::vector<FileValue>> ReadConfigFile(const std::string& path) {
  SS_TRY_ASSIGN(const std::string text, ReadFile(path));
  return ParseConfigText(text, path);
}

}  // namespace shadowserve
