#include "store/host_resolver.h"

#include <netdb.h>

#include <cstring>

namespace shadowserve {

struct HostResolver::Work {
  std::string host;
  std::string port;
  addrinfo hints = {};
  gaicb request = {};
  bool numeric = false;  // answered by Start
};

HostResolver::HostResolver() = default;

HostResolver::~HostResolver() {
  // What cannot be cancelled writes into its memory later: that stays behind.
  if (work_ == nullptr) return;
  if (work_->numeric) {
    freeaddrinfo(work_->request.ar_result);
    return;
  }
  if (gai_cancel(&work_->request) == EAI_NOTCANCELED) (void)work_.release();
}

std::string BareHost(const HostPort& host) {
  if (host.host.starts_with('[')) return host.host.substr(1, host.host.size() - 2);
  return host.host;
}

void HostResolver::Start(const HostPort& host) {
  work_ = std::make_unique<Work>();
  work_->host = BareHost(host);
  work_->port = std::to_string(host.port);
  work_->hints.ai_socktype = SOCK_STREAM;
  work_->hints.ai_flags = AI_NUMERICSERV;
  work_->request.ar_name = work_->host.c_str();
  work_->request.ar_service = work_->port.c_str();
  work_->request.ar_request = &work_->hints;
  addrinfo numeric = work_->hints;
  numeric.ai_flags |= AI_NUMERICHOST;
  work_->numeric = getaddrinfo(work_->host.c_str(), work_->port.c_str(), &numeric,
                               &work_->request.ar_result) == 0;
  if (work_->numeric) return;
  work_->request.ar_result = nullptr;
  gaicb* requests[] = {&work_->request};
  // Refused (no memory, no thread): gai_error then says so, since nothing is in progress.
  (void)getaddrinfo_a(GAI_NOWAIT, requests, 1, nullptr);
}

bool HostResolver::Poll(std::vector<SocketAddress>* addresses, std::string* error) {
  const int state = work_->numeric ? 0 : gai_error(&work_->request);
  if (state == EAI_INPROGRESS) return false;
  addresses->clear();
  for (const addrinfo* at = work_->request.ar_result; at != nullptr; at = at->ai_next) {
    if (addresses->size() == kAddressesMax || at->ai_addrlen > sizeof(sockaddr_storage)) break;
    SocketAddress& address = addresses->emplace_back();
    std::memcpy(&address.storage, at->ai_addr, at->ai_addrlen);
    address.bytes = at->ai_addrlen;
  }
  if (addresses->empty()) {
    *error = "host name: " + std::string(state == 0 ? "no address" : gai_strerror(state));
  }
  if (work_->request.ar_result != nullptr) freeaddrinfo(work_->request.ar_result);
  work_.reset();
  return true;
}

}  // namespace shadowserve
