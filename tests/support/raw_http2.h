// HTTP/2 as an attacker speaks it: frames made by hand over a blocking socket, in any order and
// number, without a library that would refuse. For tests and bench/attack.cc.
//
// One thread per connection object. Nothing here reads what the server sends unless asked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/unique_fd.h"

namespace tidegate {

// One frame with its header.
std::string RawFrame(uint8_t type, uint8_t flags, uint32_t stream, std::string_view payload);

// The preface and a SETTINGS frame; `window`: bytes that the server may send on a stream.
std::string RawPreface(uint32_t window = 65535);

// HEADERS of a gRPC call, and DATA with one message that ends the request.
std::string GrpcHeaders(uint32_t stream, std::string_view path);
std::string GrpcMessage(uint32_t stream, std::string_view message);
std::string RstStream(uint32_t stream);

// A socket connected from the IPv4 address `source` to 127.0.0.1:`port`, or an invalid descriptor
// (errno says why). All of 127.0.0.0/8 may be a source.
UniqueFd ConnectLoopback(uint16_t port, const std::string& source = "127.0.0.1");

// Whether all of it went out; false: the other side has closed.
bool SendAll(int fd, std::string_view bytes);

// Reads and drops what is there, without waiting. False once the other side has closed.
bool DrainInput(int fd);

// Waits until the other side closes, reading and dropping; false when `timeout_ms` passes first.
bool WaitForClose(int fd, int timeout_ms);

}  // namespace tidegate
