#include "store/store_url.h"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "base/units.h"

namespace shadowserve {

Status BadStoreUrl(std::string what) {
  return Status(StatusCode::kInvalidArgument, "store URL: " + std::move(what));
}

namespace {

constexpr size_t kSchemeBytesMax = 64;

bool IsSchemeText(std::string_view text) {
  if (text.empty() || text.size() > kSchemeBytesMax) return false;
  return std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.';
  });
}

// Nothing that could break a log line or a system call: printable and no space (bytes >= 0x80 are
// parts of UTF-8 paths).
bool IsPlainText(std::string_view text) {
  return std::ranges::all_of(text, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte > 0x20 && byte != 0x7F;
  });
}

Status ParseOptions(std::string_view query, std::vector<StoreUrlOption>* options) {
  while (!query.empty()) {
    const std::string_view part = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), part.size() + 1));
    const size_t equals = part.find('=');
    const std::string name(part.substr(0, equals));
    if (equals == std::string_view::npos || name.empty()) {
      return BadStoreUrl("option '" + std::string(part) + "' is not name=value");
    }
    const auto same = [&name](const StoreUrlOption& option) { return option.name == name; };
    if (std::ranges::any_of(*options, same)) {
      return BadStoreUrl("option '" + name + "' is given twice");
    }
    StoreUrlOption option{name, {}};
    if (!UnescapeUrlText(part.substr(equals + 1), &option.value)) {
      return BadStoreUrl("option '" + name + "': bad % escape");
    }
    options->push_back(std::move(option));
  }
  return OkStatus();
}

}  // namespace

bool UnescapeUrlText(std::string_view text, std::string* out) {
  out->clear();
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out->push_back(text[i]);
      continue;
    }
    unsigned char byte = 0;
    if (text.size() - i < 3) return false;
    const char* const end = text.data() + i + 3;
    const auto [stop, error] = std::from_chars(text.data() + i + 1, end, byte, 16);
    if (error != std::errc() || stop != end || byte == 0) return false;
    out->push_back(static_cast<char>(byte));
    i += 2;
  }
  return true;
}

Result<StoreUrl> ParseStoreUrl(std::string_view text) {
  if (text.size() > kStoreUrlBytesMax) return BadStoreUrl("longer than 4096 bytes");
  if (!IsPlainText(text)) return BadStoreUrl("holds a space or a control character");
  const size_t colon = text.find("://");
  if (colon == std::string_view::npos || !IsSchemeText(text.substr(0, colon))) {
    return BadStoreUrl("scheme: expected something like disk:///directory or memory://");
  }
  StoreUrl url;
  url.scheme = text.substr(0, colon);
  text.remove_prefix(colon + 3);
  const size_t question = text.find('?');
  const std::string_view place = text.substr(0, question);
  const size_t slash = std::min(place.find('/'), place.size());
  url.authority = place.substr(0, slash);
  if (!UnescapeUrlText(place.substr(slash), &url.path)) return BadStoreUrl("path: bad % escape");
  if (question != std::string_view::npos) {
    SS_TRY(ParseOptions(text.substr(question + 1), &url.options));
  }
  return url;
}

bool StoreUrlOptions::TakeText(std::string_view name, std::string* out) {
  known_.emplace_back(name);
  const auto at = std::ranges::find(rest_, name, &StoreUrlOption::name);
  if (at == rest_.end()) return false;
  *out = std::move(at->value);
  rest_.erase(at);
  return true;
}

Status StoreUrlOptions::Bad(std::string_view name, std::string_view value,
                            std::string_view expected) const {
  return BadStoreUrl("option '" + std::string(name) + "': '" + std::string(value) + "' is not " +
                     std::string(expected));
}

Status StoreUrlOptions::TakeByteSize(std::string_view name, uint64_t* out) {
  std::string value;
  if (!TakeText(name, &value)) return OkStatus();
  const Result<uint64_t> size = ParseByteSize(value);
  if (!size.ok() || *size == 0) return Bad(name, value, "a size (examples: 512MiB, 10GiB)");
  *out = *size;
  return OkStatus();
}

Status StoreUrlOptions::TakeBool(std::string_view name, bool* out) {
  std::string value;
  if (!TakeText(name, &value)) return OkStatus();
  if (value != "0" && value != "1") return Bad(name, value, "0 or 1");
  *out = value == "1";
  return OkStatus();
}

Status StoreUrlOptions::TakeProbability(std::string_view name, double* out) {
  std::string value;
  if (!TakeText(name, &value)) return OkStatus();
  double number = 0;
  const char* const end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, number);
  // Written so that NaN fails too.
  if (error != std::errc() || stop != end || !(number >= 0 && number <= 1)) {
    return Bad(name, value, "a probability from 0 to 1");
  }
  *out = number;
  return OkStatus();
}

Status StoreUrlOptions::TakeNumber(std::string_view name, uint64_t max, uint64_t* out) {
  std::string value;
  if (!TakeText(name, &value)) return OkStatus();
  uint64_t number = 0;
  const char* const end = value.data() + value.size();
  const auto [stop, error] = std::from_chars(value.data(), end, number);
  if (error != std::errc() || stop != end || number > max) {
    return Bad(name, value, "a whole number up to " + std::to_string(max));
  }
  *out = number;
  return OkStatus();
}

Status StoreUrlOptions::RefuseRest() const {
  if (rest_.empty()) return OkStatus();
  std::string known;
  for (const std::string& name : known_) known += (known.empty() ? "" : ", ") + name;
  return BadStoreUrl("unknown option '" + rest_.front().name + "' of " + scheme_ +
                     (known.empty() ? " (it has none)" : " (known: " + known + ")"));
}

}  // namespace shadowserve
