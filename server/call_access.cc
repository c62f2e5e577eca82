#include "server/call_access.h"

#include <grpc/grpc.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "base/error_reason.h"
#include "base/server_pair.h"

namespace tidegate {
namespace {

constexpr char kAuthorizationKey[] = "authorization";

using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

std::string_view AuthorizationIn(const Metadata& metadata) {
  const auto found = metadata.find(kAuthorizationKey);
  if (found == metadata.end()) return {};
  return {found->second.data(), found->second.size()};
}

absl::Status Authorize(AccessControl& access, std::string_view authorization, RpcMethod method,
                       CallOrigin& origin) {
  const std::optional<Scope> scope = ScopeOf(method);
  if (!scope.has_value()) return absl::OkStatus();
  absl::StatusOr<Caller> caller = access.Authorize(authorization, *scope);
  if (!caller.ok()) return caller.status();
  origin.caller = *std::move(caller);
  return absl::OkStatus();
}

// Ends calls without the scope admin with their status, so that the handler finds them over.
class AdminGate final : public grpc::experimental::Interceptor {
 public:
  AdminGate(AccessControl& access, grpc::ServerContextBase* context)
      : access_(access), context_(context) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using Point = grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(Point::POST_RECV_INITIAL_METADATA)) {
      const Metadata* const metadata = methods->GetRecvInitialMetadata();
      const absl::Status status =
          access_
              .Authorize(metadata == nullptr ? std::string_view() : AuthorizationIn(*metadata),
                         Scope::kAdmin)
              .status();
      if (!status.ok()) {
        grpc_call_cancel_with_status(context_->c_call(),
                                     static_cast<grpc_status_code>(status.code()),
                                     std::string(status.message()).c_str(), nullptr);
      }
    }
    methods->Proceed();
  }

 private:
  AccessControl& access_;
  grpc::ServerContextBase* const context_;
};

class AdminGateFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit AdminGateFactory(AccessControl& access) : access_(access) {}

  // Null: the call is not intercepted at all.
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    if (!access_.keys_on() || IsCheckedElsewhere(info->method())) return nullptr;
    return new AdminGate(access_, info->server_context());
  }

 private:
  AccessControl& access_;
};

}  // namespace

std::optional<Scope> ScopeOf(RpcMethod method) {
  switch (method) {
    case RpcMethod::kGenerate:
    case RpcMethod::kChat:
    case RpcMethod::kCancel:
    case RpcMethod::kModelInfer:
    case RpcMethod::kModelStreamInfer:
    case RpcMethod::kChatCompletions:
    case RpcMethod::kCompletions:
      return Scope::kInfer;
    case RpcMethod::kTokenize:
    case RpcMethod::kDetokenize:
      return Scope::kTokenize;
    case RpcMethod::kGetModel:
    case RpcMethod::kListModels:
    case RpcMethod::kModels:
    case RpcMethod::kModelReady:
    case RpcMethod::kServerMetadata:
    case RpcMethod::kModelMetadata:
    case RpcMethod::kModelStatistics:
    case RpcMethod::kRepositoryIndex:
      return Scope::kModelRead;
    case RpcMethod::kServerLive:  // probes have no keys
    case RpcMethod::kServerReady:
      return std::nullopt;
  }
  return Scope::kAdmin;
}

absl::Status AuthorizeCall(AccessControl& access, const grpc::CallbackServerContext& context,
                           RpcMethod method, CallOrigin& origin) {
  origin.peer = ClientOfPeer(context.peer());
  return Authorize(access, AuthorizationIn(context.client_metadata()), method, origin);
}

absl::Status AuthorizeHttp(AccessControl& access, const HttpRequest& request, RpcMethod method,
                           CallOrigin& origin) {
  origin.peer = request.peer;
  return Authorize(access, request.Header("authorization"), method, origin);
}

AuditRecord AuditRecordOf(RpcMethod method, const CallOrigin& origin, absl::StatusCode code,
                          std::string reason, std::chrono::steady_clock::time_point begun) {
  AuditRecord record;
  record.time = absl::Now();
  record.method = RpcMethodName(method);
  record.key = origin.caller.key_id();
  record.peer = origin.peer;
  record.status = absl::StatusCodeToString(code);
  record.reason = std::move(reason);
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  return record;
}

void AuditCall(AuditLog* log, RpcMethod method, const CallOrigin& origin,
               const absl::Status& status, std::chrono::steady_clock::time_point begun) {
  if (log == nullptr) return;
  log->Write(AuditRecordOf(method, origin, status.code(), ErrorReason(status), begun));
}

bool IsCheckedElsewhere(std::string_view method) {
  const absl::string_view name(method.data(), method.size());
  return absl::StartsWith(name, "/tidegate.v1.") ||
         absl::StartsWith(name, "/inference.GRPCInferenceService/") ||
         absl::StartsWith(name, "/grpc.health.v1.Health/");
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeAccessInterceptor(
    AccessControl& access) {
  return std::make_unique<AdminGateFactory>(access);
}

}  // namespace tidegate
