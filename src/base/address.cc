#include "base/address.h"

#include <sys/un.h>

#include <algorithm>
#include <charconv>

namespace shadowserve {
namespace {

Status Bad(std::string_view text, std::string_view why) {
  return Status(StatusCode::kInvalidArgument,
                "'" + std::string(text) + "' is no address: " + std::string(why));
}

bool HostCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}

bool Ipv6Character(char c) {
  return (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F') || (c >= '0' && c <= '9') || c == ':' ||
         c == '.';
}

bool GoodHost(std::string_view host) {
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    const std::string_view inner = host.substr(1, host.size() - 2);
    return std::all_of(inner.begin(), inner.end(), Ipv6Character);
  }
  return !host.empty() && std::all_of(host.begin(), host.end(), HostCharacter);
}

}  // namespace

Result<HostPort> ParseHostPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return Bad(text, "write host:port");
  const std::string_view host = text.substr(0, colon);
  if (!GoodHost(host)) return Bad(text, "bad host (an IPv6 address needs brackets)");
  const std::string_view digits = text.substr(colon + 1);
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    return Bad(text, "the port must be a number up to 65535");
  }
  return HostPort{std::string(host), port};
}

Result<Address> ParseAddress(std::string_view text) {
  constexpr std::string_view kUnix = "unix://";
  constexpr std::string_view kTcp = "tcp://";
  Address address;
  if (text.starts_with(kUnix)) {
    address.path = std::string(text.substr(kUnix.size()));
    if (!address.path.starts_with('/')) return Bad(text, "write unix:///absolute/path");
    if (address.path.size() >= sizeof(sockaddr_un::sun_path)) {
      return Bad(text, "the path is longer than a Unix socket takes (107 bytes)");
    }
    return address;
  }
  if (!text.starts_with(kTcp)) return Bad(text, "write unix:///path or tcp://host:port");
  Result<HostPort> tcp = ParseHostPort(text.substr(kTcp.size()));
  if (!tcp.ok()) return std::move(tcp).status();
  address.tcp = std::move(tcp).value();
  return address;
}

}  // namespace shadowserve
