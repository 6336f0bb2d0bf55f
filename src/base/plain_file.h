// Small files that an operator names: keys, certificates. Read whole, whoever stands in their
// place.
#ifndef SHADOWSERVE_BASE_PLAIN_FILE_H_
#define SHADOWSERVE_BASE_PLAIN_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <string>

#include "base/result.h"

namespace shadowserve {

struct PlainFile {
  std::string text;
  uid_t owner = 0;
  mode_t permissions = 0;  // the lower 12 bits of its mode
};

// kInvalidArgument, without the path: it cannot be read, is no plain file, or is longer than
// `bytes_max`. Never waits for a pipe.
Result<PlainFile> ReadPlainFile(const std::string& path, size_t bytes_max);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_PLAIN_FILE_H_
