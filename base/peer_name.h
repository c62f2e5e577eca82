// What a peer is called where peers are counted and served fairly. Stateless, for any thread.
#pragma once

#include <sys/socket.h>

#include <string>

namespace tidegate {

// Who counts as one, without the port: an IPv4 address ("192.0.2.1"), 64 bits of an IPv6 address
// ("2001:db8::"; "::1" as it is), the user at a Unix socket ("uid:1000"). `peer` is what accept(2)
// said of the connected socket `fd`.
std::string PeerName(int fd, const sockaddr_storage& peer);

}  // namespace tidegate
