#include "client/fingerprint.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"

namespace shadowserve {
namespace {

constexpr size_t kReadBytes = 1 << 20;
constexpr size_t kCacheLinesMax = 4096;
constexpr size_t kCacheBytesMax = 1 << 20;
constexpr std::string_view kCacheTitle = "shadowserve digests v1";
constexpr std::string_view kDomain = "shadowserve files v1";

// Device, inode, size, mtime: what tells that a file is still the one that was read.
std::string IdentityOf(const struct stat& info) {
  return fmt::format("{} {} {} {}", info.st_dev, info.st_ino, info.st_size,
                     info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec);
}

using Cache = std::map<std::string, std::string>;  // identity -> hex digest

Cache ReadCache(const std::string& path) {
  Cache cache;
  if (path.empty()) return cache;
  std::ifstream file(path);
  std::string text(kCacheBytesMax, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line) || line != kCacheTitle) return cache;
  while (cache.size() < kCacheLinesMax && std::getline(lines, line)) {
    const size_t space = line.rfind(' ');
    if (space == std::string::npos) continue;
    if (!DigestFromHex(std::string_view(line).substr(space + 1)).ok()) continue;
    cache[line.substr(0, space)] = line.substr(space + 1);
  }
  return cache;
}

bool WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

void WriteCache(const std::string& path, const Cache& cache) {
  std::string text(kCacheTitle);
  text += '\n';
  for (const auto& [identity, digest] : cache) text += identity + " " + digest + "\n";
  std::string temporary = path + ".XXXXXX";
  const UniqueFd fd(::mkstemp(temporary.data()));
  if (fd.valid() && WriteAll(fd.get(), text) && ::fsync(fd.get()) == 0 &&
      ::rename(temporary.c_str(), path.c_str()) == 0) {
    return;
  }
  Log(LogLevel::kWarn, "digest cache {} not written: {}", path, std::strerror(errno));
  if (fd.valid()) ::unlink(temporary.c_str());
}

Status CannotRead(const std::string& path, std::string_view why) {
  return Status(StatusCode::kInvalidArgument, fmt::format("cannot read {}: {}", path, why));
}

Result<Digest> HashFile(int fd, const std::string& path) {
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  const std::unique_ptr<std::byte[]> buffer(new std::byte[kReadBytes]);
  bool hashed = context != nullptr && EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  while (hashed) {
    const ssize_t count = ::read(fd, buffer.get(), kReadBytes);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return CannotRead(path, std::strerror(errno));
    if (count == 0) break;
    hashed = EVP_DigestUpdate(context.get(), buffer.get(), static_cast<size_t>(count)) == 1;
  }
  Digest digest{};
  hashed =
      hashed && EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(digest.data()),
                                   nullptr) == 1;
  if (!hashed) return CannotRead(path, "SHA-256 is not available");
  return digest;
}

// Of one file, from the cache or its bytes. Sets `*changed` when the cache has a new line.
Result<Digest> DigestOf(const std::string& path, Cache* cache, bool* changed) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat before = {};
  if (!fd.valid() || ::fstat(fd.get(), &before) != 0) return CannotRead(path, std::strerror(errno));
  if (!S_ISREG(before.st_mode)) return CannotRead(path, "no regular file");
  const std::string identity = IdentityOf(before);
  if (const auto found = cache->find(identity); found != cache->end()) {
    return DigestFromHex(found->second);
  }
  SS_TRY_ASSIGN(const Digest digest, HashFile(fd.get(), path));
  struct stat after = {};
  if (::fstat(fd.get(), &after) != 0 || IdentityOf(after) != identity) {
    return CannotRead(path, "it changed while it was read");
  }
  (*cache)[identity] = ToHex(digest);
  *changed = true;
  return digest;
}

}  // namespace

Result<Digest> FingerprintFiles(std::span<const std::string> paths, const std::string& cache_file) {
  Cache cache = ReadCache(cache_file);
  bool changed = false;
  const auto count = static_cast<uint32_t>(paths.size());
  std::vector<std::byte> bytes;
  for (const char letter : kDomain) bytes.push_back(static_cast<std::byte>(letter));
  for (unsigned shift = 0; shift < 32; shift += 8) {
    bytes.push_back(static_cast<std::byte>(count >> shift));
  }
  for (const std::string& path : paths) {
    SS_TRY_ASSIGN(const Digest digest, DigestOf(path, &cache, &changed));
    bytes.insert(bytes.end(), digest.begin(), digest.end());
  }
  while (cache.size() > kCacheLinesMax) cache.erase(cache.begin());
  if (changed && !cache_file.empty()) WriteCache(cache_file, cache);
  return Sha256(bytes);
}

}  // namespace shadowserve
