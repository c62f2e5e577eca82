#include "tests/support/http_get.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"

namespace tidegate {
namespace {

constexpr timeval kReceiveTimeout = {10, 0};

absl::StatusOr<UniqueFd> Connect(uint16_t port) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return absl::InternalError(absl::StrCat("socket: ", strerror(errno)));
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kReceiveTimeout, sizeof(kReceiveTimeout));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(absl::StrCat("connect to port ", port, ": ", strerror(errno)));
  }
  return fd;
}

absl::Status SendAll(int fd, const std::string& text) {
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(fd, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n < 0) return absl::UnavailableError(absl::StrCat("send: ", strerror(errno)));
    sent += static_cast<size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReceiveAll(int fd) {
  std::string text;
  char buffer[16384];
  while (true) {
    const ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    if (n == 0) return text;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return absl::DeadlineExceededError("no data for 10 s");
    }
    if (n < 0) return absl::UnavailableError(absl::StrCat("recv: ", strerror(errno)));
    text.append(buffer, static_cast<size_t>(n));
  }
}

}  // namespace

absl::StatusOr<HttpPage> HttpGet(uint16_t port, const std::string& path) {
  ASSIGN_OR_RETURN(UniqueFd fd, Connect(port));
  // HTTP/1.0: the body ends where the connection does, so there are no chunks to decode.
  RETURN_IF_ERROR(
      SendAll(fd.get(), absl::StrCat("GET ", path, " HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")));
  ASSIGN_OR_RETURN(const std::string text, ReceiveAll(fd.get()));
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos || text.rfind("HTTP/1.", 0) != 0 || text.size() < 12) {
    return absl::DataLossError(absl::StrCat("not an HTTP response: ", text.substr(0, 80)));
  }
  return HttpPage{std::atoi(text.c_str() + 9), text.substr(0, end), text.substr(end + 4)};
}

}  // namespace tidegate
