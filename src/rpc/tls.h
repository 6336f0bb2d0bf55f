// Mutual TLS of a control channel over TCP: both ends show a certificate, and each takes only one
// that an authority of its own `ca_file` has signed.
#ifndef SHADOWSERVE_RPC_TLS_H_
#define SHADOWSERVE_RPC_TLS_H_

#include <optional>
#include <string>

#include "base/address.h"
#include "base/result.h"

namespace shadowserve {

// Paths of PEM files; all three or none.
struct TlsFiles {
  std::string ca_file;    // authorities that sign the other end's certificate
  std::string cert_file;  // this end's certificate, then those between it and the authority
  std::string key_file;   // its private key; no business of other users

  bool empty() const { return ca_file.empty() && cert_file.empty() && key_file.empty(); }
};

// kInvalidArgument: some but not all of them are set, or they are set for a Unix socket.
Status CheckTlsFiles(const TlsFiles& files, const Address& address);

struct TlsIdentity {
  std::string authorities;
  std::string certificates;
  std::string key;
};
// Reads and checks the files; nothing when there are none. kInvalidArgument names the file and what
// is wrong with it: not readable, no PEM of its kind, a key of another certificate, or one that
// every user can read.
Result<std::optional<TlsIdentity>> ReadTlsFiles(const TlsFiles& files);

}  // namespace shadowserve

#endif  // SHADOWSERVE_RPC_TLS_H_
