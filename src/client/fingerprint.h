// FingerprintFiles: SHA-256 over the contents of files, with a cache of single files' digests.
//
//   SHA-256("shadowserve files v1" | u32 count | per file, in the given order: SHA-256 of its
//   bytes)
//
// The cache is a text file, one line per file: "<device> <inode> <size> <mtime in ns> <64 hex
// digits>", first line "shadowserve digests v1". It is only a hint: lines that cannot be read are
// skipped, a missing or unwritable cache only costs time, and it is replaced as a whole (rename),
// never written in place. Who may write it may choose keys: it belongs in a directory of the
// engine's user. Reads with 1 MiB buffers; about the speed of SHA-256 (1.5-2 GB/s with its
// instructions). Thread-safe.
#ifndef SHADOWSERVE_CLIENT_FINGERPRINT_H_
#define SHADOWSERVE_CLIENT_FINGERPRINT_H_

#include <span>
#include <string>

#include "base/result.h"
#include "format/chunk_key.h"

namespace shadowserve {

// `cache_file` "" = no cache. kInvalidArgument names the file that cannot be read.
Result<Digest> FingerprintFiles(std::span<const std::string> paths, const std::string& cache_file);

}  // namespace shadowserve

#endif  // SHADOWSERVE_CLIENT_FINGERPRINT_H_
