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

// TLS with a server, in PEM. What is set turns it on.
struct ClientTls {
  bool wanted = false;
  std::string authorities = {};  // that the server's certificate is checked against; "": the
                                 // system's
  std::string certificate = {}, key = {};  // ours, for servers that ask; either may hold both
  std::string server_name = {};            // in the server's certificate, if it is not the address

  bool on() const {
    return wanted || !authorities.empty() || !certificate.empty() || !key.empty() ||
           !server_name.empty();
  }
};

// Where a server is, and how it is spoken to.
struct ServerTarget {
  std::string address = {};  // HOST:PORT or unix:PATH
  ClientTls tls = {};
  std::string key = {};  // shown with every call; "": none
};

// What TIDEGATE_KEY holds; "" if that is no key. A key is no flag: others see the command lines of
// a machine.
std::string KeyOfEnvironment();

// --server ADDRESS, default 127.0.0.1:50051 or $TIDEGATE_SERVER, --tls... and --key-file, whose
// files are read at once; without --key-file the key is the environment's. `server` outlives
// `command`.
void AddServerFlag(CLI::App& command, ServerTarget& server);

// A channel that connects with the first call. What is on this machine is reached directly,
// whatever proxy the environment names. Channels to one target share a connection unless they ask
// for one of their own.
std::shared_ptr<grpc::Channel> Dial(const ServerTarget& server, bool own_connection = false);

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
