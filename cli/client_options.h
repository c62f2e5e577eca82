// What every command that talks to a server shares: where it is, and how its errors read.
// Thread-safe: free functions.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"

namespace CLI {
class App;
}
namespace grpc {
class Channel;
class Status;
}  // namespace grpc

namespace tidegate {

// --server ADDRESS, default 127.0.0.1:50051 or $TIDEGATE_SERVER. `server` outlives `command`.
void AddServerFlag(CLI::App& command, std::string& server);

// A channel to HOST:PORT or unix:PATH; connects with the first call. What is on this machine is
// reached directly, whatever proxy the environment names. Channels to one target share a connection
// unless they ask for one of their own.
std::shared_ptr<grpc::Channel> Dial(const std::string& target, bool own_connection = false);

// An error for a person: code, message, then one line per detail (which field, when to try again).
// `target` and `program` are named when nobody answers.
absl::Status ExplainError(const grpc::Status& status, const std::string& target,
                          const std::string& program);

// What a program looks at in an error.
struct ErrorFacts {
  std::string code = {};                     // gRPC's name of it, such as UNAVAILABLE
  std::string reason = {};                   // of ErrorInfo, printable; empty: none was given
  std::optional<double> retry_seconds = {};  // of RetryInfo
};

ErrorFacts FactsOf(const grpc::Status& status);

}  // namespace tidegate
