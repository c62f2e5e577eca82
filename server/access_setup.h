// How a daemon is told who may call: its flags, and what stands between its ports and the world.
// Stateless; for main() and before other threads begin.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/metrics_server.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"

namespace CLI {
class App;
}

namespace tidegate {

struct AccessConfig {
  std::string keys_file = {};    // "": everybody may do everything
  std::string audit_log = {};    // "": none; "-": standard error
  bool refuse_insecure = false;  // where CheckExposure() would warn, the daemon does not start
};

// Adds the flags to `app`, which writes into `config`: that must outlive it.
void AddAccessFlags(CLI::App& app, AccessConfig& config);

// Null where no audit log is wanted. Errors name the file.
absl::StatusOr<std::shared_ptr<AuditLog>> OpenAuditLog(const AccessConfig& config);
absl::StatusOr<std::shared_ptr<AccessControl>> OpenAccess(const AccessConfig& config);

// A port that a daemon opens.
struct Exposed {
  std::string flag = {};     // that says where, such as "--listen"
  std::string address = {};  // HOST:PORT or unix:PATH; "": it is off
  bool tls = false;
};

// "" unless one of `ports` can be reached from other machines without TLS, or by callers of whom
// nobody knows who they are (`callers_known`: they need keys or client certificates); else one
// sentence about it.
std::string ExposureOf(const std::vector<Exposed>& ports, bool callers_known);
// Logs that sentence as a warning; with --refuse-insecure it is FAILED_PRECONDITION.
absl::Status CheckExposure(const std::vector<Exposed>& ports, bool callers_known,
                           const AccessConfig& config);

// For MetricsServer: the page is for keys with the scope metrics, where there are keys.
HttpGuard MetricsGuard(std::shared_ptr<AccessControl> access);

}  // namespace tidegate
