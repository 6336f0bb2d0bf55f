#include "base/plain_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/unique_fd.h"

namespace shadowserve {
namespace {

Status Invalid(std::string message) {
  return Status(StatusCode::kInvalidArgument, std::move(message));
}

}  // namespace

Result<PlainFile> ReadPlainFile(const std::string& path, size_t bytes_max) {
  // Not blocking: a pipe in its place must not hold up the start.
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info = {};
  if (!fd.valid() || fstat(fd.get(), &info) != 0) {
    return Invalid(fmt::format("cannot read it: {}", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) return Invalid("not a plain file");
  PlainFile file{std::string(bytes_max + 1, '\0'), info.st_uid, info.st_mode & 07777};
  size_t size = 0;
  while (size < file.text.size()) {
    const ssize_t got = read(fd.get(), &file.text[size], file.text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Invalid(fmt::format("cannot read it: {}", std::strerror(errno)));
    if (got == 0) break;
    size += static_cast<size_t>(got);
  }
  if (size > bytes_max) return Invalid(fmt::format("longer than {} bytes", bytes_max));
  file.text.resize(size);
  return file;
}

}  // namespace shadowserve
