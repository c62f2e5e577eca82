#include "base/live_listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/peer_name.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

LiveListener::Outcome OutcomeOf(int error) {
  switch (error) {
    case EAGAIN:
      return LiveListener::Outcome::kNothing;
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      return LiveListener::Outcome::kNoDescriptors;
    case EBADF:
    case EINVAL:
    case ENOTSOCK:
    case EOPNOTSUPP:
      return LiveListener::Outcome::kDead;
    default:  // that one connection has failed
      return LiveListener::Outcome::kNothing;
  }
}

}  // namespace

absl::StatusOr<LiveListener> LiveListener::Create(const ListenAddress& address) {
  ASSIGN_OR_RETURN(ListeningSocket socket, Listen(address, kBacklog));
  return LiveListener(std::move(socket));
}

LiveListener::LiveListener(ListeningSocket socket) : socket_(std::move(socket)) {
  struct stat info = {};
  if (address().is_unix() && lstat(address().unix_path.c_str(), &info) == 0) {
    device_ = info.st_dev;
    inode_ = info.st_ino;
  }
}

LiveListener::~LiveListener() {
  if (socket_.fd.valid() && address().is_unix() && OwnsPath()) unlink(address().unix_path.c_str());
}

bool LiveListener::OwnsPath() const {
  struct stat info = {};
  return lstat(address().unix_path.c_str(), &info) == 0 && info.st_dev == device_ &&
         info.st_ino == inode_;
}

LiveListener::Accepted LiveListener::Accept() {
  sockaddr_storage peer = {};
  socklen_t bytes = sizeof(peer);
  UniqueFd fd(accept4(socket_.fd.get(), reinterpret_cast<sockaddr*>(&peer), &bytes,
                      SOCK_NONBLOCK | SOCK_CLOEXEC));
  if (!fd.valid()) return {OutcomeOf(errno), UniqueFd(), ""};
  if (!address().is_unix()) {
    const int on = 1;
    setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  std::string name = PeerName(fd.get(), peer);
  return {Outcome::kAccepted, std::move(fd), std::move(name)};
}

bool LiveListener::Lives() const {
  int listening = 0;
  socklen_t bytes = sizeof(listening);
  return getsockopt(socket_.fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &listening, &bytes) == 0 &&
         listening != 0 && (!address().is_unix() || OwnsPath());
}

absl::Status LiveListener::Revive() {
  socket_.fd.reset();  // or its address would be taken
  ASSIGN_OR_RETURN(ListeningSocket socket, Listen(address(), kBacklog));
  *this = LiveListener(std::move(socket));
  return absl::OkStatus();
}

}  // namespace tidegate
