// Tells scripts which port was chosen. Stateless, thread-safe.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tidegate {

// Writes `port` and a newline; readers see the old file or the whole new one. "" writes nothing.
absl::Status WritePortFile(const std::string& path, int port);

}  // namespace tidegate
