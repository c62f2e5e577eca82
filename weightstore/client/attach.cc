#include "weightstore/client/attach.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "proto/store/v1/control.pb.h"
#include "proto/store/v1/shm_layout.h"

namespace tidegate {
namespace {

constexpr std::chrono::seconds kAttachTimeout{5};

absl::StatusOr<UniqueFd> Connect(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(
        absl::StrCat("store socket path '", path, "' must have 1 to 107 characters"));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  // Without waiting: a store that is stopped accepts nobody, and its queue becomes full.
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, "socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) {
    return fd;
  }
  const int error = errno;
  if (error == EACCES || error == EPERM) {
    return absl::PermissionDeniedError(
        absl::StrCat("may not connect to the store at ", path, ": ", strerror(error)));
  }
  if (error == EPROTOTYPE) {
    return absl::FailedPreconditionError(absl::StrCat(
        path, " is not the attach socket of a tidegate-store (its gRPC socket ends in .grpc)"));
  }
  if (error == EAGAIN) {
    return absl::UnavailableError(
        absl::StrCat("the store at ", path, " accepts no connections: is it stopped?"));
  }
  return absl::UnavailableError(absl::StrCat("no tidegate-store listens on ", path, " (",
                                             strerror(error),
                                             "); start it, or check --store-socket"));
}

// The store's refusal, with a code that means the same to the engine: INVALID_ARGUMENT would be a
// flag of the engine's.
absl::Status Refusal(const store::v1::AttachResponse& response) {
  const auto code = static_cast<absl::StatusCode>(response.code());
  const std::string message = Printable(response.message(), 2000);
  switch (code) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kResourceExhausted:
      return absl::Status(code, message);
    default:
      return absl::UnavailableError(message);
  }
}

// Receives the answer with its descriptors.
absl::Status ReceiveAnswer(int socket, Patience& patience, store::v1::AttachResponse& response,
                           UniqueFd (&fds)[kAttachDescriptors]) {
  pollfd readable = {socket, POLLIN, 0};
  patience.Owed();
  while (::poll(&readable, 1, static_cast<int>(Patience::kLook.count())) <= 0) {
    RETURN_IF_ERROR(patience.Check());
    if (patience.silent() < kAttachTimeout) continue;
    return absl::UnavailableError(
        "the store did not answer the attach request in 5 s; is it stopped?");
  }
  patience.Paid();
  char buffer[4096];
  iovec data = {buffer, sizeof(buffer)};
  alignas(cmsghdr) char control[CMSG_SPACE(kAttachDescriptors * sizeof(int))];
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t bytes = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (bytes <= 0) return absl::UnavailableError("the store closed the connection while attaching");
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const size_t taken = std::min<size_t>(count, kAttachDescriptors);
    int raw[kAttachDescriptors];
    std::memcpy(raw, CMSG_DATA(header), taken * sizeof(int));
    for (size_t i = 0; i < taken; ++i) fds[i] = UniqueFd(raw[i]);
  }
  if ((message.msg_flags & MSG_CTRUNC) != 0) {
    return absl::ResourceExhaustedError(
        "no room for the store's descriptors; raise the limit of open files (ulimit -n)");
  }
  if ((message.msg_flags & MSG_TRUNC) != 0 ||
      !response.ParseFromArray(buffer, static_cast<int>(bytes))) {
    return absl::FailedPreconditionError(
        "the attach answer is malformed; is this a tidegate-store?");
  }
  if (response.code() != 0) return Refusal(response);
  if (!fds[kAttachDescriptors - 1].valid()) {
    return absl::InternalError("the attach answer carries no descriptors");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AttachAnswer> RequestAttach(const std::string& socket_path,
                                           const std::string& engine_name, Patience& patience) {
  AttachAnswer answer;
  ASSIGN_OR_RETURN(answer.socket, Connect(socket_path));
  store::v1::AttachRequest request;
  request.set_protocol_version(kControlVersion);
  request.set_engine_name(Printable(engine_name, 64));
  const std::string bytes = request.SerializeAsString();
  if (::send(answer.socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) < 0 &&
      errno != EPIPE) {  // EPIPE: refused at once; the answer says why.
    return absl::UnavailableError(absl::StrCat("attach request: ", strerror(errno)));
  }
  store::v1::AttachResponse response;
  UniqueFd fds[kAttachDescriptors];
  RETURN_IF_ERROR(ReceiveAnswer(answer.socket.get(), patience, response, fds));
  answer.region = std::move(fds[0]);
  answer.session = std::move(fds[1]);
  answer.kick = std::move(fds[2]);
  answer.pack = std::move(fds[3]);
  answer.region_bytes = response.region_bytes();
  answer.session_bytes = response.session_bytes();
  return answer;
}

}  // namespace tidegate
