// Whether an address is one of this machine's alone, by its form: no name is looked up. Pure.
#pragma once

#include "base/listen_address.h"

namespace tidegate {

// A Unix socket, a loopback address (127.0.0.0/8, ::1, or the former as IPv6), or a name that
// stands for one: localhost and names below it (RFC 6761, section 6.3), and what Debian calls ::1.
bool IsLoopback(const ListenAddress& address);

}  // namespace tidegate
