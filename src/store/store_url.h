// Store URLs as people write them: scheme://authority/path?name=value&name=value
//
// The path and the option values may hold %XX escapes; an authority is passed on as written.
// Nothing is opened or resolved here. Error messages name the part that is wrong and never quote
// the authority, which may hold a password.
#ifndef SHADOWSERVE_STORE_STORE_URL_H_
#define SHADOWSERVE_STORE_STORE_URL_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace shadowserve {

constexpr size_t kStoreUrlBytesMax = 4096;

struct StoreUrlOption {
  std::string name;
  std::string value;
};

struct StoreUrl {
  std::string scheme;     // "disk", "redis+cluster", ...
  std::string authority;  // "user:password@host:port", may be empty
  std::string path;       // "" or begins with '/'
  std::vector<StoreUrlOption> options;
};

// kInvalidArgument names the part that is wrong: scheme, path or option.
Result<StoreUrl> ParseStoreUrl(std::string_view text);

// Names what is wrong with one.
Status BadStoreUrl(std::string what);

// Resolves %XX escapes; false for an incomplete one and for %00.
bool UnescapeUrlText(std::string_view text, std::string* out);

// Reads a URL's options by name, then refuses what is left over.
class StoreUrlOptions {
 public:
  explicit StoreUrlOptions(const StoreUrl& url) : scheme_(url.scheme), rest_(url.options) {}

  // Each leaves `*out` as it is when the option is not there.
  Status TakeByteSize(std::string_view name, uint64_t* out);  // at least 1
  Status TakeBool(std::string_view name, bool* out);          // 0 or 1
  Status TakeProbability(std::string_view name, double* out);
  Status TakeNumber(std::string_view name, uint64_t max, uint64_t* out);
  bool TakeText(std::string_view name, std::string* out);
  // kInvalidArgument names the first option that nobody took, and those that exist.
  Status RefuseRest() const;

 private:
  Status Bad(std::string_view name, std::string_view value, std::string_view expected) const;

  std::string scheme_;
  std::vector<StoreUrlOption> rest_;
  std::vector<std::string> known_;
};

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_STORE_URL_H_
