#include "tests/support/http_client.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

constexpr timeval kClientReceiveTimeout = {10, 0};

absl::Status Error(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", std::strerror(errno)));
}

absl::StatusOr<UniqueFd> OpenSocket(const sockaddr* name, socklen_t bytes, int receive_buffer) {
  UniqueFd fd(socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Error("socket");
  setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &kClientReceiveTimeout, sizeof(kReceiveTimeout));
  if (receive_buffer > 0) {
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
  }
  if (connect(fd.get(), name, bytes) != 0) return Error("connect");
  return fd;
}

}  // namespace

std::string HttpAnswer::Header(const std::string& name) const {
  const size_t start = head.find(absl::StrCat("\r\n", name, ": "));
  if (start == std::string::npos) return "";
  const size_t value = start + name.size() + 4;
  return head.substr(value, head.find("\r\n", value) - value);
}

absl::StatusOr<HttpClient> HttpClient::Connect(const ListenAddress& server, int receive_buffer) {
  HttpClient client;
  if (server.is_unix()) {
    sockaddr_un name = {};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, server.unix_path.data(), server.unix_path.size());
    ASSIGN_OR_RETURN(client.fd_, OpenSocket(reinterpret_cast<const sockaddr*>(&name), sizeof(name),
                                            receive_buffer));
    return client;
  }
  addrinfo hints = {};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = absl::StrCat(server.port);
  if (getaddrinfo(server.host.c_str(), port.c_str(), &hints, &found) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("not numeric: ", server.host));
  }
  absl::StatusOr<UniqueFd> fd = OpenSocket(found->ai_addr, found->ai_addrlen, receive_buffer);
  freeaddrinfo(found);
  if (!fd.ok()) return fd.status();
  client.fd_ = *std::move(fd);
  return client;
}

absl::Status HttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0) return Error("send");
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return absl::OkStatus();
}

void HttpClient::FinishSending() { shutdown(fd_.get(), SHUT_WR); }

void HttpClient::Abort() {
  const linger at_once = {1, 0};
  setsockopt(fd_.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  fd_.reset();
}

absl::StatusOr<bool> HttpClient::Receive() {
  char bytes[16384];
  const ssize_t n = recv(fd_.get(), bytes, sizeof(bytes), 0);
  if (n == 0 || (n < 0 && (errno == ECONNRESET || errno == EPIPE))) return false;
  if (n < 0) return absl::DeadlineExceededError("nothing came for 10 s");
  buffer_.append(bytes, static_cast<size_t>(n));
  return true;
}

absl::StatusOr<std::string> HttpClient::Take(size_t bytes) {
  while (buffer_.size() < bytes) {
    ASSIGN_OR_RETURN(const bool more, Receive());
    if (!more) {
      return absl::OutOfRangeError(
          absl::StrCat("closed after ", buffer_.size(), " of ", bytes, " bytes"));
    }
  }
  std::string taken = buffer_.substr(0, bytes);
  buffer_.erase(0, bytes);
  return taken;
}

absl::StatusOr<std::string> HttpClient::ReadUntil(const std::string& text) {
  size_t found;
  while ((found = buffer_.find(text)) == std::string::npos) {
    ASSIGN_OR_RETURN(const bool more, Receive());
    if (!more) return absl::OutOfRangeError(absl::StrCat("closed after \"", buffer_, "\""));
  }
  return Take(found + text.size());
}

absl::StatusOr<std::string> HttpClient::ReadToEnd() {
  while (true) {
    ASSIGN_OR_RETURN(const bool more, Receive());
    if (!more) return Take(buffer_.size());
  }
}

absl::StatusOr<std::string> HttpClient::ReadChunks() {
  std::string body;
  while (true) {
    ASSIGN_OR_RETURN(const std::string line, ReadUntil("\r\n"));
    const size_t bytes = std::strtoul(line.c_str(), nullptr, 16);
    ASSIGN_OR_RETURN(const std::string chunk, Take(bytes + 2));
    if (bytes == 0) return body;
    body.append(chunk, 0, bytes);
  }
}

absl::StatusOr<HttpAnswer> HttpClient::Read(bool to_head_request) {
  HttpAnswer answer;
  ASSIGN_OR_RETURN(answer.head, ReadUntil("\r\n\r\n"));
  if (answer.head.rfind("HTTP/1.1 ", 0) != 0 ||
      !absl::SimpleAtoi(answer.head.substr(9, 3), &answer.code)) {
    return absl::DataLossError(absl::StrCat("not an HTTP answer: ", answer.head));
  }
  if (to_head_request || answer.code < 200) return answer;
  const std::string length = answer.Header("Content-Length");
  size_t bytes = 0;
  if (answer.Header("Transfer-Encoding") == "chunked") {
    ASSIGN_OR_RETURN(answer.body, ReadChunks());
  } else if (absl::SimpleAtoi(length, &bytes)) {
    ASSIGN_OR_RETURN(answer.body, Take(bytes));
  } else {
    ASSIGN_OR_RETURN(answer.body, ReadToEnd());
  }
  return answer;
}

}  // namespace tidegate
