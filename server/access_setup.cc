#include "server/access_setup.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/flags.h"
#include "base/listen_address.h"
#include "base/log.h"
#include "base/loopback.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

// Whether it is reached from this machine alone. An address that nobody can read is not.
bool IsPrivate(const std::string& address) {
  const absl::StatusOr<ListenAddress> parsed = ParseListenAddress(address);
  return parsed.ok() && IsLoopback(*parsed);
}

}  // namespace

void AddAccessFlags(CLI::App& app, AccessConfig& config) {
  AddFileFlag(app, "--access-keys", config.keys_file,
              "File with hashes of keys, one JSON object a line (`tidegate key new`): calls want "
              "`authorization: Bearer KEY` with a key that may make them. Read again on SIGHUP")
      .Type("FILE")
      .Variable("TIDEGATE_ACCESS_KEYS");
  AddFileFlag(app, "--audit-log", config.audit_log,
              "File to append a line of JSON to for each request that has ended, without its text; "
              "-: standard error. Opened again on SIGHUP")
      .Type("FILE")
      .Variable("TIDEGATE_AUDIT_LOG");
  AddSwitch(app, "--refuse-insecure", config.refuse_insecure,
            "Do not start where other machines could reach a port without TLS or without keys")
      .Variable("TIDEGATE_REFUSE_INSECURE");
}

absl::StatusOr<std::shared_ptr<AuditLog>> OpenAuditLog(const AccessConfig& config) {
  if (config.audit_log.empty()) return std::shared_ptr<AuditLog>();
  ASSIGN_OR_RETURN(std::unique_ptr<AuditLog> log, AuditLog::Open(config.audit_log));
  return std::shared_ptr<AuditLog>(std::move(log));
}

absl::StatusOr<std::shared_ptr<AccessControl>> OpenAccess(const AccessConfig& config) {
  if (config.keys_file.empty()) return std::make_shared<AccessControl>();
  ASSIGN_OR_RETURN(std::unique_ptr<AccessControl> access, AccessControl::Create(config.keys_file));
  return std::shared_ptr<AccessControl>(std::move(access));
}

std::string ExposureOf(const std::vector<Exposed>& ports, bool callers_known) {
  std::vector<std::string> open;
  bool clear_text = false;
  for (const Exposed& port : ports) {
    if (port.address.empty() || IsPrivate(port.address) || (port.tls && callers_known)) continue;
    clear_text = clear_text || !port.tls;
    open.push_back(absl::StrCat(port.flag, " ", port.address, port.tls ? "" : " without TLS"));
  }
  if (open.empty()) return "";
  std::string text = absl::StrCat("other machines can reach ", absl::StrJoin(open, " and "));
  if (!callers_known) absl::StrAppend(&text, ", and whoever reaches it needs no key");
  absl::StrAppend(&text, ": use ", clear_text ? "--tls-cert" : "",
                  clear_text && !callers_known ? " and " : "", callers_known ? "" : "--access-keys",
                  ", or listen on 127.0.0.1");
  return text;
}

absl::Status CheckExposure(const std::vector<Exposed>& ports, bool callers_known,
                           const AccessConfig& config) {
  const std::string text = ExposureOf(ports, callers_known);
  if (text.empty()) return absl::OkStatus();
  if (config.refuse_insecure) {
    return absl::FailedPreconditionError(absl::StrCat("--refuse-insecure: ", text));
  }
  LogWarning(text);
  return absl::OkStatus();
}

HttpGuard MetricsGuard(std::shared_ptr<AccessControl> access) {
  return [access = std::move(access)](const HttpRequest& request) -> std::optional<HttpResponse> {
    const absl::Status status =
        access->Authorize(request.Header("authorization"), Scope::kMetrics).status();
    if (status.ok()) return std::nullopt;
    HttpResponse response;
    response.body = absl::StrCat(status.message(), "\n");
    if (absl::IsUnauthenticated(status)) {
      response.code = 401;
      response.headers = {{"WWW-Authenticate", "Bearer"}};
    } else {
      response.code = absl::IsResourceExhausted(status) ? 429 : 403;
    }
    return response;
  };
}

}  // namespace tidegate
