#include "base/peer_name.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace tidegate {
namespace {

std::string Ipv4Text(const void* address) {
  char text[INET_ADDRSTRLEN] = "";
  inet_ntop(AF_INET, address, text, sizeof(text));
  return text;
}

std::string UserName(int fd) {
  ucred peer = {};
  socklen_t bytes = sizeof(peer);
  const bool known = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0;
  return known ? absl::StrCat("uid:", peer.uid) : "unix";
}

}  // namespace

std::string PeerName(int fd, const sockaddr_storage& peer) {
  if (peer.ss_family == AF_INET) {
    return Ipv4Text(&reinterpret_cast<const sockaddr_in&>(peer).sin_addr);
  }
  if (peer.ss_family != AF_INET6) return UserName(fd);
  in6_addr address = reinterpret_cast<const sockaddr_in6&>(peer).sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&address)) return Ipv4Text(&address.s6_addr[12]);
  if (!IN6_IS_ADDR_LOOPBACK(&address)) std::memset(&address.s6_addr[8], 0, 8);
  char text[INET6_ADDRSTRLEN] = "";
  inet_ntop(AF_INET6, &address, text, sizeof(text));
  return text;
}

}  // namespace tidegate
