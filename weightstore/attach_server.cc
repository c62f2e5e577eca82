#include "weightstore/attach_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "proto/store/v1/shm_layout.h"

namespace tidegate {
namespace {

constexpr std::chrono::milliseconds kAcceptRetry(100);  // where descriptors have run out
constexpr size_t kPeersMax = 64;                        // connections, attached or not

absl::StatusOr<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path '", path, "' must have 1 to ",
                                                   sizeof(address.sun_path) - 1, " characters"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

// Connecting needs write permission: with other users allowed, CheckPeer() is the guard.
absl::StatusOr<UniqueFd> Listen(const std::string& path, bool for_others) {
  ASSIGN_OR_RETURN(const sockaddr_un address, Address(path));
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  UniqueFd probe(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!probe.valid()) return absl::ErrnoToStatus(errno, "socket");
  if (::connect(probe.get(), generic, sizeof(address)) == 0) {
    return absl::AlreadyExistsError(absl::StrCat("another tidegate-store listens on ", path,
                                                 "; stop it or use another --socket"));
  }
  struct stat info;
  if (::lstat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) {
      return absl::FailedPreconditionError(absl::StrCat(path, " exists and is not a socket"));
    }
    ::unlink(path.c_str());
    LogInfo("replacing the socket ", path, " that an earlier store left: nobody listens on it");
  }
  UniqueFd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener.valid()) return absl::ErrnoToStatus(errno, "socket");
  if (::bind(listener.get(), generic, sizeof(address)) != 0 ||
      ::chmod(path.c_str(), for_others ? 0666 : 0660) != 0 || ::listen(listener.get(), 16) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot listen on ", path));
  }
  return listener;
}

// Sends the answer and, if it is OK, the descriptors.
void Answer(int fd, const store::v1::AttachResponse& response, const AttachGrant* grant) {
  const std::string bytes = response.SerializeAsString();
  iovec data = {const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kAttachDescriptors * sizeof(int))] = {};
  if (grant != nullptr) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(kAttachDescriptors * sizeof(int));
    const int fds[kAttachDescriptors] = {grant->region_fd, grant->session_fd, grant->kick_fd,
                                         grant->pack_fd};
    std::memcpy(CMSG_DATA(header), fds, sizeof(fds));
  }
  if (::sendmsg(fd, &message, MSG_NOSIGNAL) < 0) LogWarning("attach answer: ", strerror(errno));
}

}  // namespace

AttachServer::AttachServer(std::string path, std::vector<uint32_t> allowed_uids,
                           AttachDelegate* delegate)
    : path_(std::move(path)), allowed_uids_(std::move(allowed_uids)), delegate_(delegate) {}

absl::StatusOr<std::unique_ptr<AttachServer>> AttachServer::Create(
    const std::string& path, std::vector<uint32_t> allowed_uids, AttachDelegate* delegate) {
  auto server =
      std::unique_ptr<AttachServer>(new AttachServer(path, std::move(allowed_uids), delegate));
  ASSIGN_OR_RETURN(server->listener_, Listen(path, !server->allowed_uids_.empty()));
  server->removed_at_end_ = RemovedAtEnd(path);
  server->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!server->wake_.valid()) return absl::ErrnoToStatus(errno, "eventfd");
  return server;
}

AttachServer::~AttachServer() { Stop(); }

void AttachServer::Start() {
  thread_ = std::thread([this] { Run(); });
}

void AttachServer::Stop() {
  if (!listener_.valid()) return;
  stopping_ = true;
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof(one)) < 0) LogWarning("attach wake: ", strerror(errno));
  if (thread_.joinable()) thread_.join();
  peers_.clear();
  listener_.reset();
  removed_at_end_ = RemovedAtEnd();
  ::unlink(path_.c_str());
}

void AttachServer::Run() {
  std::vector<pollfd> polled;
  while (!stopping_) {
    polled = {{listener_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
    for (const auto& [fd, peer] : peers_) polled.push_back({fd, POLLIN, 0});
    if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) {
      LogError("poll on the attach socket: ", strerror(errno));
      return;
    }
    for (size_t i = 2; i < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      const auto at = peers_.find(polled[i].fd);
      // Whoever has left while we could not answer gets no session.
      const bool gone = !at->second.attached && (polled[i].revents & POLLHUP) != 0;
      if (!gone && HandlePeer(at->second)) continue;
      if (at->second.attached) delegate_->OnDetach(at->second.session);
      peers_.erase(at);
    }
    if (polled[0].revents & POLLIN) AcceptPeer();
  }
}

void AttachServer::AcceptPeer() {
  UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.valid()) {
    const int error = errno;
    if (error == EAGAIN || error == EINTR || error == ECONNABORTED) return;
    // The connection stays in the queue and wakes poll() at once: not faster than this.
    refused_log_.Warning("cannot accept an engine: ", strerror(error));
    std::this_thread::sleep_for(kAcceptRetry);
    return;
  }
  if (peers_.size() >= kPeersMax) {
    Refuse(socket.get(), absl::ResourceExhaustedError(
                             absl::StrCat("the store has ", kPeersMax, " connections already")));
    return;
  }
  if (const absl::Status allowed = CheckPeer(socket.get()); !allowed.ok()) {
    Refuse(socket.get(), allowed);
    return;
  }
  const int fd = socket.get();
  peers_[fd].socket = std::move(socket);
}

void AttachServer::Refuse(int fd, const absl::Status& why) {
  refused_log_.Warning("refused an engine: ", why.message());
  delegate_->OnRefused();
  store::v1::AttachResponse response;
  response.set_code(static_cast<int32_t>(why.code()));
  // Protobuf strings must be UTF-8; a path in a message need not be.
  constexpr size_t kMaxMessageBytes = 2000;
  response.set_message(Printable({why.message().data(), why.message().size()}, kMaxMessageBytes));
  Answer(fd, response, nullptr);
}

absl::Status AttachServer::CheckPeer(int fd) const {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) {
    return absl::ErrnoToStatus(errno, "SO_PEERCRED");
  }
  const bool allowed =
      peer.uid == 0 || peer.uid == ::geteuid() ||
      std::find(allowed_uids_.begin(), allowed_uids_.end(), peer.uid) != allowed_uids_.end();
  if (allowed) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(
      "user id ", peer.uid, " may not attach; start the store with --allow-uid ", peer.uid));
}

bool AttachServer::HandlePeer(Peer& peer) {
  char buffer[4096];
  // MSG_TRUNC: the size of the whole message, also where it is larger than the buffer.
  const ssize_t bytes = ::recv(peer.socket.get(), buffer, sizeof(buffer), MSG_TRUNC);
  if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) return true;
  if (bytes > 0 && peer.attached) {
    refused_log_.Warning("the engine of session ", peer.session,
                         " talks out of turn on its socket; its session ends");
  }
  if (bytes <= 0 || peer.attached) return false;
  store::v1::AttachRequest request;
  absl::StatusOr<AttachGrant> grant = absl::InvalidArgumentError("malformed attach request");
  if (static_cast<size_t>(bytes) <= sizeof(buffer) &&
      request.ParseFromArray(buffer, static_cast<int>(bytes))) {
    if (request.protocol_version() == kControlVersion) {
      grant = delegate_->OnAttach(request);
    } else {
      grant = absl::FailedPreconditionError(
          absl::StrCat("engine speaks control version ", request.protocol_version(), ", the store ",
                       kControlVersion, "; run both from the same release"));
    }
  }
  if (!grant.ok()) {
    Refuse(peer.socket.get(), grant.status());
    return false;
  }
  peer.attached = true;
  peer.session = grant->session;
  store::v1::AttachResponse response;
  response.set_region_bytes(grant->region_bytes);
  response.set_session_bytes(grant->session_bytes);
  Answer(peer.socket.get(), response, &*grant);
  return true;
}

}  // namespace tidegate
