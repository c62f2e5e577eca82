#include "base/loopback.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"

namespace tidegate {

bool IsLoopback(const ListenAddress& address) {
  if (address.is_unix()) return true;
  std::string host = absl::AsciiStrToLower(address.host);
  if (absl::EndsWith(host, ".")) host.pop_back();  // the root's own name
  if (host == "localhost" || absl::EndsWith(host, ".localhost")) return true;
  if (host == "ip6-localhost" || host == "ip6-loopback") return true;
  in_addr v4 = {};
  if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
  in6_addr v6 = {};
  if (::inet_pton(AF_INET6, host.c_str(), &v6) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace tidegate
