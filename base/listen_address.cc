#include "base/listen_address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

static_assert(kMaxSocketPathBytes + 1 == sizeof(sockaddr_un::sun_path));

constexpr char kUnixPrefix[] = "unix:";

using AddressList = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

bool IsNumeric(int family, const std::string& host) {
  in6_addr unused;
  return inet_pton(family, host.c_str(), &unused) == 1;
}

// A name by RFC 1123, or close to it: underscores occur in container networks.
bool IsHostName(std::string_view host) {
  return !host.empty() && host.size() <= 253 && std::all_of(host.begin(), host.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '.' || c == '_';
  });
}

// Digits and dots can only be meant as an IPv4 address.
bool LooksLikeIpv4(std::string_view host) {
  return host.find_first_not_of("0123456789.") == std::string_view::npos;
}

absl::Status CheckHost(const std::string& host, bool bracketed) {
  if (bracketed) {
    if (IsNumeric(AF_INET6, host)) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(Quoted(host), " is no IPv6 address"));
  }
  if (host.find(':') != std::string::npos) {
    return absl::InvalidArgumentError("an IPv6 address stands in brackets, such as [::1]:50051");
  }
  if (LooksLikeIpv4(host) ? IsNumeric(AF_INET, host) : IsHostName(host)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      host.empty() ? std::string("the host is missing")
                   : absl::StrCat(Quoted(host), " is neither an IPv4 address nor a host name"));
}

// Who reads an address: a server may leave the choice of the port to the system.
enum class Reader { kServer, kClient };

absl::StatusOr<uint16_t> ParsePort(std::string_view text, Reader reader) {
  const uint32_t least = reader == Reader::kServer ? 0 : 1;
  uint32_t port = 0;
  const bool digits = !text.empty() && text.size() <= 5 &&
                      text.find_first_not_of("0123456789") == std::string_view::npos;
  if (digits && absl::SimpleAtoi(std::string(text), &port) && port >= least && port <= 65535)
    return static_cast<uint16_t>(port);
  return absl::InvalidArgumentError(
      !text.empty()
          ? absl::StrCat("the port ", Quoted(text), " is not a number from ", least, " to 65535")
      : reader == Reader::kServer ? "the port is missing; 0 takes a free one"
                                  : "the port is missing");
}

absl::StatusOr<ListenAddress> ParseTcp(std::string_view text, Reader reader) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return absl::InvalidArgumentError("the port is missing");
  ListenAddress address;
  std::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  address.host = std::string(host);
  RETURN_IF_ERROR(CheckHost(address.host, bracketed));
  ASSIGN_OR_RETURN(address.port, ParsePort(text.substr(colon + 1), reader));
  return address;
}

absl::StatusOr<ListenAddress> ParseAddress(std::string_view text, Reader reader) {
  const auto parsed = [&]() -> absl::StatusOr<ListenAddress> {
    if (!text.starts_with(kUnixPrefix)) return ParseTcp(text, reader);
    ListenAddress address;
    address.unix_path = std::string(text.substr(std::strlen(kUnixPrefix)));
    RETURN_IF_ERROR(CheckSocketPath(address.unix_path));
    return address;
  }();
  if (parsed.ok()) return parsed;
  return absl::InvalidArgumentError(
      absl::StrCat("address ", Quoted(text), ": ", std::string(parsed.status().message()),
                   "; expected HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051, "
                   "or unix:PATH"));
}

absl::Status CannotListen(const ListenAddress& address, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on ", Quoted(address.ToString()), ": ", why));
}

absl::Status CannotListen(const ListenAddress& address, int error) {
  const char* const remedy =
      error == EADDRINUSE ? "; another program listens there: stop it or choose another address"
      : error == EADDRNOTAVAIL ? "; the address is none of this machine's"
      : error == EACCES        ? "; this user may not bind it"
                               : "";
  return CannotListen(address, absl::StrCat(std::strerror(error), remedy));
}

absl::StatusOr<UniqueFd> BindAndListen(const ListenAddress& address, const sockaddr* name,
                                       socklen_t bytes, int backlog) {
  UniqueFd fd(socket(name->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return CannotListen(address, errno);
  const int on = 1, off = 0;
  if (name->sa_family != AF_UNIX) setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (name->sa_family == AF_INET6) {
    setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
  }
  if (bind(fd.get(), name, bytes) != 0 || listen(fd.get(), backlog) != 0) {
    return CannotListen(address, errno);
  }
  return fd;
}

bool SomebodyListens(const sockaddr_un& name) {
  const UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  return fd.valid() &&
         (connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) == 0 ||
          errno == EAGAIN);
}

absl::StatusOr<ListeningSocket> ListenOnPath(const ListenAddress& address, int backlog) {
  RETURN_IF_ERROR(CheckSocketPath(address.unix_path));
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, address.unix_path.data(), address.unix_path.size());
  // Only a socket that nobody serves is in the way; anything else there is not ours to remove.
  struct stat info;
  if (lstat(name.sun_path, &info) == 0 && S_ISSOCK(info.st_mode)) {
    if (SomebodyListens(name)) return CannotListen(address, EADDRINUSE);
    unlink(name.sun_path);
  }
  ASSIGN_OR_RETURN(UniqueFd fd, BindAndListen(address, reinterpret_cast<const sockaddr*>(&name),
                                              sizeof(name), backlog));
  return ListeningSocket{std::move(fd), address};
}

absl::StatusOr<uint16_t> BoundPort(int fd) {
  sockaddr_storage name = {};
  socklen_t bytes = sizeof(name);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&name), &bytes) != 0) {
    return absl::InternalError(absl::StrCat("getsockname: ", std::strerror(errno)));
  }
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(name).sin6_port
                                          : reinterpret_cast<const sockaddr_in&>(name).sin_port);
}

}  // namespace

absl::Status CheckSocketPath(std::string_view path) {
  if (path.empty()) return absl::InvalidArgumentError("the path of the Unix socket is missing");
  if (path.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError("the path of the Unix socket holds a NUL");
  }
  if (path.size() <= kMaxSocketPathBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the Unix socket ", Quoted(path), " has a path of ", path.size(),
      " bytes; the system takes at most ", kMaxSocketPathBytes, ": use a shorter folder"));
}

std::string ListenAddress::ToString() const {
  if (is_unix()) return absl::StrCat(kUnixPrefix, unix_path);
  if (host.find(':') != std::string::npos) return absl::StrCat("[", host, "]:", port);
  return absl::StrCat(host, ":", port);
}

absl::StatusOr<ListenAddress> ParseListenAddress(std::string_view text) {
  return ParseAddress(text, Reader::kServer);
}

absl::StatusOr<ListenAddress> ParseServerAddress(std::string_view text) {
  return ParseAddress(text, Reader::kClient);
}

absl::StatusOr<ListeningSocket> Listen(const ListenAddress& address, int backlog) {
  if (address.is_unix()) return ListenOnPath(address, backlog);
  addrinfo hints = {};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(address.host.c_str(), absl::StrCat(address.port).c_str(), &hints, &found);
  if (error != 0) return CannotListen(address, gai_strerror(error));
  const AddressList list(found, &freeaddrinfo);
  absl::Status last;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    absl::StatusOr<UniqueFd> fd =
        BindAndListen(address, entry->ai_addr, entry->ai_addrlen, backlog);
    last = fd.status();
    if (!fd.ok()) continue;
    ListenAddress bound = address;
    ASSIGN_OR_RETURN(bound.port, BoundPort(fd->get()));
    return ListeningSocket{*std::move(fd), std::move(bound)};
  }
  return last;
}

}  // namespace tidegate
