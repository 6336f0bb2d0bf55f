// The key file of `auth.key_file`: one or two lines `id:key`, the id in decimal (1 to 4294967295),
// the key as 64 hex digits (256 bits). Empty lines and lines that start with # are skipped. The
// first key signs, both verify. Read once at start, never again.
#ifndef SHADOWSERVE_APP_AUTH_KEYS_H_
#define SHADOWSERVE_APP_AUTH_KEYS_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "format/seal.h"

namespace shadowserve {

// kInvalidArgument names the line and what is wrong with it, never a key.
Result<std::vector<AuthKey>> ParseAuthKeys(std::string_view text);

// kInvalidArgument, one line that names auth.key_file and the path: it cannot be read, is no plain
// file, belongs to another user (root may own it), or others than its owner may read or write it.
Result<std::vector<AuthKey>> ReadAuthKeys(const std::string& path);

}  // namespace shadowserve

#endif  // SHADOWSERVE_APP_AUTH_KEYS_H_
