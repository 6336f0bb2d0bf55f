// HostResolver: a host name's addresses without waiting for them (getaddrinfo_a of glibc, which
// does the waiting on a thread of its own that goes when it is done). Owner thread: the store's.
#ifndef SHADOWSERVE_STORE_HOST_RESOLVER_H_
#define SHADOWSERVE_STORE_HOST_RESOLVER_H_

#include <memory>
#include <string>
#include <vector>

#include "base/address.h"
#include "store/redis_connection.h"

namespace shadowserve {

class HostResolver {
 public:
  static constexpr size_t kAddressesMax = 8;

  HostResolver();
  HostResolver(const HostResolver&) = delete;
  HostResolver& operator=(const HostResolver&) = delete;
  ~HostResolver();

  // REQUIRES: not busy().
  void Start(const HostPort& host);
  // True when the answer is there: `addresses` are then filled, or empty with `error`.
  bool Poll(std::vector<SocketAddress>* addresses, std::string* error);
  bool busy() const { return work_ != nullptr; }

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

// "[::1]" without its brackets; other hosts as they are.
std::string BareHost(const HostPort& host);

}  // namespace shadowserve

#endif  // SHADOWSERVE_STORE_HOST_RESOLVER_H_
