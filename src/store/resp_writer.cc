#include "store/resp_writer.h"

#include <charconv>
#include <cstring>

namespace shadowserve {
namespace {

constexpr size_t kDigitsMax = 20;

}  // namespace

void RespWriter::Append(std::string_view text) {
  fits_ = fits_ && text.size() <= out_.size() - size_;
  if (!fits_ || text.empty()) return;
  std::memcpy(out_.data() + size_, text.data(), text.size());
  size_ += text.size();
}

void RespWriter::Header(char sign, uint64_t count) {
  char digits[kDigitsMax + 3] = {sign};
  char* const end = std::to_chars(digits + 1, digits + 1 + kDigitsMax, count).ptr;
  end[0] = '\r';
  end[1] = '\n';
  Append({digits, static_cast<size_t>(end + 2 - digits)});
}

void RespWriter::Argument(std::string_view text) {
  Argument(text, {});
}

void RespWriter::Argument(std::string_view first, std::string_view second) {
  Header('$', first.size() + second.size());
  Append(first);
  Append(second);
  Append("\r\n");
}

void RespWriter::Number(uint64_t value) {
  char digits[kDigitsMax];
  char* const end = std::to_chars(digits, digits + kDigitsMax, value).ptr;
  Argument({digits, static_cast<size_t>(end - digits)});
}

std::string RespCommand(std::initializer_list<std::string_view> arguments) {
  size_t bytes = kDigitsMax + 3;
  for (const std::string_view argument : arguments) bytes += argument.size() + kDigitsMax + 5;
  std::string out(bytes, '\0');
  RespWriter writer(out);
  writer.Begin(arguments.size());
  for (const std::string_view argument : arguments) writer.Argument(argument);
  out.resize(writer.text().size());
  return out;
}

}  // namespace shadowserve
