// The socket pair between a ConnectionGate and its server. The server sees this pair and not the
// client's socket: so the gate's end has a name that carries the client's address, and the server
// reads it as the address of its peer.
//
// The name lies in the kernel with the socket. Nothing has to be remembered or removed, and the
// number of a descriptor may be used again.
//
// Stateless, for any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace tidegate {

struct ServerPair {
  UniqueFd gate, server;  // stream sockets, non-blocking
};

// `client`: as LiveListener::Accepted names a peer; at most 64 bytes. nullopt if no descriptors are
// left. Where the kernel refuses the name, the pair works without it and the client is "" later.
std::optional<ServerPair> MakeServerPair(const std::string& client);

// The client's address, of what gRPC says about the server's end (grpc::ServerContext::peer()). ""
// for a socket that is no such pair.
std::string ClientOfPeer(std::string_view peer);

}  // namespace tidegate
