// Commands as RESP2 arrays of bulk strings: *<count>\r\n then $<bytes>\r\n<argument>\r\n for each.
// The bytes of a large argument are left out, to be sent from where they are.
#ifndef SHADOWSERVE_STORE_RESP_WRITER_H_
#define SHADOWSERVE_STORE_RESP_WRITER_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

namespace shadowserve {

// Appends to caller-owned memory and remembers when it did not fit. Not thread-safe.
class RespWriter {
 public:
  explicit RespWriter(std::span<char> out) : out_(out) {}

  // The header of a command of so many arguments, its name included.
  void Begin(uint64_t arguments) { Header('*', arguments); }
  void Argument(std::string_view text);
  // An argument in two parts, as one.
  void Argument(std::string_view first, std::string_view second);
  void Number(uint64_t value);
  // Header of an argument whose bytes the caller sends next, followed by EndOfRaw().
  void RawHeader(uint64_t bytes) { Header('$', bytes); }
  void EndOfRaw() { Append("\r\n"); }

  bool fits() const { return fits_; }
  std::string_view text() const { return {out_.data(), size_}; }

 private:
  void Header(char sign, uint64_t count);
  void Append(std::string_view text);

  std::span<char> out_;
  size_t size_ = 0;
  bool fits_ = true;
};

// One whole command. For the few that are not on the data path.
std::string RespCommand(std::initializer_list<std::string_view> arguments);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_RESP_WRITER_H_
