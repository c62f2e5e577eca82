// One question to grpc.health.v1. Thread-safe: a free function.
#pragma once

#include <chrono>
#include <string>

#include "absl/status/status.h"
#include "cli/client_options.h"

namespace tidegate {

// OK: `service` ("readiness", "liveness", a service's name, "") of `server` is SERVING. UNAVAILABLE
// says what it is; other errors are those of the call, for a person. `own_connection`: dials anew
// instead of waiting as long as gRPC does after a failure.
absl::Status CheckHealth(const ServerTarget& server, const std::string& service,
                         std::chrono::milliseconds timeout, bool own_connection = false);

}  // namespace tidegate
