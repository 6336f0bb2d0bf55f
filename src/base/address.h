// Addresses of the control channel and of HTTP listeners, as people write them:
//   unix:///absolute/path   tcp://host:port   (control)      host:port   (HTTP)
// A host is a name, an IPv4 address or an IPv6 address in brackets. Nothing is resolved here.
#ifndef SHADOWSERVE_BASE_ADDRESS_H_
#define SHADOWSERVE_BASE_ADDRESS_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"

namespace shadowserve {

struct HostPort {
  std::string host;   // with its brackets, if any
  uint16_t port = 0;  // 0: let the system choose one (listeners only)
};

struct Address {
  std::string path;  // set: a Unix socket
  HostPort tcp;      // used when `path` is empty
};

// kInvalidArgument names the text and what is wrong with it.
Result<HostPort> ParseHostPort(std::string_view text);
Result<Address> ParseAddress(std::string_view text);

}  // namespace shadowserve

#endif  // SHADOWSERVE_BASE_ADDRESS_H_
