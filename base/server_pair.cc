#include "base/server_pair.h"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace tidegate {
namespace {

constexpr int kPairBufferBytes = 64 << 10;

// Of an abstract name: begins with a zero byte, has no file, and goes with its socket. Both parts
// have only characters that a URI takes as they are.
constexpr char kPrefix[] = "tidegate-client/";
constexpr size_t kNumberDigits = 16;
constexpr size_t kClientBytesMax = 64;
constexpr char kScheme[] = "unix-abstract:";  // as gRPC 1.51 writes such a name

// Other processes of the machine share the space of names. A random number makes ours unique, and
// nobody can take one before us.
void Name(int fd, const std::string& client) {
  uint64_t number = 0;
  if (getrandom(&number, sizeof(number), GRND_NONBLOCK) != sizeof(number)) return;
  const std::string name = absl::StrCat(kPrefix, absl::Hex(number, absl::kZeroPad16), "/", client);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path + 1, name.data(), name.size());
  const size_t bytes = offsetof(sockaddr_un, sun_path) + 1 + name.size();
  [[maybe_unused]] const int named =
      bind(fd, reinterpret_cast<const sockaddr*>(&address), static_cast<socklen_t>(bytes));
}

}  // namespace

std::optional<ServerPair> MakeServerPair(const std::string& client) {
  CHECK(client.size() <= kClientBytesMax);
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return std::nullopt;
  }
  for (const int fd : ends) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &kPairBufferBytes, sizeof(kPairBufferBytes));
  }
  Name(ends[0], client);
  return ServerPair{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::string ClientOfPeer(std::string_view peer) {
  for (const std::string_view begin : {std::string_view(kScheme), std::string_view(kPrefix)}) {
    if (!peer.starts_with(begin)) return "";
    peer.remove_prefix(begin.size());
  }
  if (peer.size() <= kNumberDigits || peer[kNumberDigits] != '/') return "";
  return std::string(peer.substr(kNumberDigits + 1));
}

}  // namespace tidegate
