// Access of calls, over gRPC and HTTP: which scope a method wants, who makes a call, and the audit
// log's line of it. The keys themselves are server/access's.
//
// Methods of our services ask AuthorizeCall() or AuthorizeHttp() before they look at a request. Of
// the others, health is open, since probes have no keys, and the rest (reflection, whatever is
// added later) is for admin: an interceptor ends such calls before their handlers see them.
// Thread-safe.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/http_message.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/support/server_interceptor.h"
#include "server/access/access_control.h"
#include "server/access/audit_log.h"
#include "server/metrics.h"

namespace tidegate {

// nullopt: everybody may call it.
std::optional<Scope> ScopeOf(RpcMethod method);

// Who makes a call, whatever protocol it came by.
struct CallOrigin {
  Caller caller;
  std::string peer;  // LiveListener::Accepted::peer

  // GenerationRequest::client: the key's, else the peer's.
  std::string client() const {
    const std::string of_key = caller.client();
    return of_key.empty() ? peer : of_key;
  }
};

// Sets `origin.peer` in any case. Errors of AccessControl::Authorize().
absl::Status AuthorizeCall(AccessControl& access, const grpc::CallbackServerContext& context,
                           RpcMethod method, CallOrigin& origin);

// The same for HTTP, by the headers.
absl::Status AuthorizeHttp(AccessControl& access, const HttpRequest& request, RpcMethod method,
                           CallOrigin& origin);

// What the audit log says of any call that began at `begun` and ends now.
AuditRecord AuditRecordOf(RpcMethod method, const CallOrigin& origin, absl::StatusCode code,
                          std::string reason, std::chrono::steady_clock::time_point begun);

// The line of a call that is no stream of text. `log` may be null.
void AuditCall(AuditLog* log, RpcMethod method, const CallOrigin& origin,
               const absl::Status& status, std::chrono::steady_clock::time_point begun);

// Whether calls of a method ("/package.Service/Method") are AuthorizeCall()'s, or open.
bool IsCheckedElsewhere(std::string_view method);

// For grpc::ServerBuilder. `access` is not owned and outlives the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAccessInterceptor(
    AccessControl& access);

}  // namespace tidegate
