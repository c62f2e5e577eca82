#include "server/openai/openai_server.h"

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json_text.h"
#include "base/status_macros.h"
#include "server/call_access.h"
#include "server/openai/completion_call.h"
#include "server/openai/http_error.h"

namespace tidegate {
namespace {

constexpr char kJsonType[] = "application/json";
constexpr char kModelPrefix[] = "/v1/models/";
// As gRPC's: a prompt of 1 MiB, escaped.
constexpr size_t kMaxBodyBytes = 4 << 20;
constexpr size_t kHandlerThreads = 2;

HttpServerOptions HttpOptionsOf(const OpenAiOptions& options, const HttpOrigins& origins) {
  HttpServerOptions http;
  http.max_connections = options.max_connections;
  http.max_body_bytes = kMaxBodyBytes;
  http.idle_timeout = options.idle_timeout;
  http.write_timeout = options.write_timeout;
  http.tls = options.tls;
  http.handler_threads = kHandlerThreads;
  http.on_refusal = [&origins](HttpResponse& refusal, std::string_view origin) {
    HttpResponse ours = OpenAiHttpError(refusal.code, refusal.body);
    ours.headers = std::move(refusal.headers);
    for (auto& header : origins.AnswerHeaders(origin)) ours.headers.push_back(std::move(header));
    refusal = std::move(ours);
  };
  return http;
}

}  // namespace

OpenAiServer::OpenAiServer(const OpenAiOptions& options, ServingState& state)
    : state_(state), origins_(options.allowed_origins), started_(std::time(nullptr)) {}

absl::StatusOr<std::unique_ptr<OpenAiServer>> OpenAiServer::Start(const OpenAiOptions& options,
                                                                  ServingState& state) {
  absl::StatusOr<ListenAddress> listen = ParseListenAddress(options.listen);
  if (!listen.ok()) return Annotate(listen.status(), "--http-listen");
  std::unique_ptr<OpenAiServer> server(new OpenAiServer(options, state));
  auto http =
      HttpServer::Start(*listen, server->Routes(), HttpOptionsOf(options, server->origins_));
  if (!http.ok()) return Annotate(http.status(), "--http-listen");
  server->http_ = *std::move(http);
  return server;
}

std::vector<HttpRoute> OpenAiServer::Routes() {
  std::vector<HttpRoute> routes = {
      {"POST", "/v1/chat/completions", Completions(true)},
      {"POST", "/v1/completions", Completions(false)},
      {"GET", "/v1/models", Plain(&OpenAiServer::Models)},
      {"GET", absl::StrCat(kModelPrefix, "*"), Plain(&OpenAiServer::Model)},
      {"GET", "/health",
       [this](const HttpRequest& request, HttpReply reply) { reply.Send(Health(request)); }},
  };
  const HttpHandler preflight = [this](const HttpRequest& request, HttpReply reply) {
    reply.Send(origins_.Preflight(request));
  };
  for (size_t i = 0, count = routes.size(); i < count; ++i) {
    routes.push_back({"OPTIONS", routes[i].path, preflight});
  }
  return routes;
}

HttpHandler OpenAiServer::Completions(bool is_chat) {
  return [this, is_chat](const HttpRequest& request, HttpReply reply) {
    const std::string_view origin = request.Header("Origin");
    CompletionCall::Begin(state_, is_chat, request, std::move(reply), origins_.Check(origin),
                          origins_.AnswerHeaders(origin));
  };
}

HttpHandler OpenAiServer::Plain(Answer answer) {
  return [this, answer](const HttpRequest& request, HttpReply reply) {
    const std::string_view origin = request.Header("Origin");
    const absl::Status allowed = origins_.Check(origin);
    HttpResponse response = allowed.ok() ? (this->*answer)(request) : OpenAiError(allowed, {});
    for (auto& header : origins_.AnswerHeaders(origin)) {
      response.headers.push_back(std::move(header));
    }
    reply.Send(std::move(response));
  };
}

std::string OpenAiServer::ModelJson(const std::string& name, uint32_t context_tokens) const {
  return absl::StrCat("{\"id\":", JsonText(name), ",\"object\":\"model\",\"created\":", started_,
                      ",\"owned_by\":\"tidegate\",\"max_model_len\":", context_tokens, "}");
}

absl::StatusOr<ModelInfo> OpenAiServer::FindModel(const HttpRequest& request,
                                                  const std::string& name) {
  const auto begun = std::chrono::steady_clock::now();
  CallOrigin origin;
  const absl::Status allowed = AuthorizeHttp(state_.access, request, RpcMethod::kModels, origin);
  absl::StatusOr<ModelInfo> info =
      allowed.ok() ? state_.model.Find(name) : absl::StatusOr<ModelInfo>(allowed);
  if (state_.metrics != nullptr) {
    state_.metrics->OnRequestDone(RpcMethod::kModels, info.status().code());
  }
  AuditCall(state_.audit, RpcMethod::kModels, origin, info.status(), begun);
  return info;
}

HttpResponse OpenAiServer::Models(const HttpRequest& request) {
  const absl::StatusOr<ModelInfo> info = FindModel(request, "");
  if (!info.ok()) return OpenAiError(info.status(), {"", state_.draining});
  const uint32_t context = state_.engine.context_tokens();
  std::string models = ModelJson(info->name, context);
  for (const std::string& alias : state_.model.aliases()) {
    absl::StrAppend(&models, ",", ModelJson(alias, context));
  }
  return {200, kJsonType, absl::StrCat("{\"object\":\"list\",\"data\":[", models, "]}")};
}

HttpResponse OpenAiServer::Model(const HttpRequest& request) {
  const std::string name = request.path.substr(sizeof(kModelPrefix) - 1);
  const absl::StatusOr<ModelInfo> info = FindModel(request, name);
  if (!info.ok()) return OpenAiError(info.status(), {"", state_.draining});
  return {200, kJsonType, ModelJson(name, state_.engine.context_tokens())};
}

HttpResponse OpenAiServer::Health(const HttpRequest&) {
  if (state_.draining) return {503, kJsonType, R"({"status":"draining"})"};
  if (!state_.engine.ready()) return {503, kJsonType, R"({"status":"loading"})"};
  return {200, kJsonType, R"({"status":"ok"})"};
}

}  // namespace tidegate
