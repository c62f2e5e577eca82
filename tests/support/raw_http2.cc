#include "tests/support/raw_http2.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <chrono>

#include "base/http2_frames.h"

namespace tidegate {
namespace {

void AppendBigEndian(std::string& out, uint64_t value, int bytes) {
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift));
  }
}

std::string HpackString(std::string_view text) {
  return std::string(1, static_cast<char>(text.size())) + std::string(text);  // below 127 bytes
}

}  // namespace

std::string RawFrame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload) {
  std::string frame;
  AppendBigEndian(frame, payload.size(), 3);
  frame.push_back(static_cast<char>(type));
  frame.push_back(static_cast<char>(flags));
  AppendBigEndian(frame, stream, 4);
  frame.append(payload);
  return frame;
}

std::string RawPreface(uint32_t window) {
  std::string settings;
  AppendBigEndian(settings, 4, 2);  // SETTINGS_INITIAL_WINDOW_SIZE
  AppendBigEndian(settings, window, 4);
  return std::string(kHttp2Preface) + RawFrame(Http2Frame::kSettings, 0, 0, settings);
}

std::string GrpcHeaders(uint32_t stream, std::string_view path) {
  // Indexed :method POST and :scheme http, then literals that stay out of the dynamic table.
  std::string block = "\x83\x86\x04" + HpackString(path) + "\x01" + HpackString("a");
  block += std::string("\x0f\x10", 2) + HpackString("application/grpc");
  block += std::string("\x00", 1) + HpackString("te") + HpackString("trailers");
  return RawFrame(Http2Frame::kHeaders, Http2Frame::kEndHeaders, stream, block);
}

std::string GrpcMessage(uint32_t stream, std::string_view message) {
  std::string payload(1, '\0');  // not compressed
  AppendBigEndian(payload, message.size(), 4);
  payload.append(message);
  return RawFrame(Http2Frame::kData, Http2Frame::kEndStream, stream, payload);
}

std::string RstStream(uint32_t stream) {
  return RawFrame(Http2Frame::kRstStream, 0, stream, std::string_view("\0\0\0\x08", 4));  // CANCEL
}

UniqueFd ConnectLoopback(uint16_t port, const std::string& source) {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in from = {};
  from.sin_family = AF_INET;
  if (!fd.valid() || inet_pton(AF_INET, source.c_str(), &from.sin_addr) != 1 ||
      bind(fd.get(), reinterpret_cast<sockaddr*>(&from), sizeof(from)) != 0) {
    return UniqueFd();
  }
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) {
    return UniqueFd();
  }
  return fd;
}

bool SendAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool DrainInput(int fd) {
  char buffer[4096];
  for (;;) {
    const ssize_t got = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (got > 0) continue;
    return got < 0 && (errno == EAGAIN || errno == EINTR);
  }
}

bool WaitForClose(int fd, int timeout_ms) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  while (DrainInput(fd)) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return false;
    pollfd wait = {fd, POLLIN, 0};
    poll(&wait, 1, static_cast<int>(left.count()));
  }
  return true;
}

}  // namespace tidegate
