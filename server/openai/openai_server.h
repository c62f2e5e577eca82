// The OpenAI-compatible HTTP API: /v1/chat/completions, /v1/completions, /v1/models, /health
// (docs/api.md), over base/http_server.h and the same requests as gRPC.
//
// Browsers: a page may call only from an origin that the operator names; a request with another
// Origin header is refused, whatever it asks, because the user's own machine is where pages could
// reach it. Threads: Start() and the destructor belong to one owner.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/http_server.h"
#include "server/openai/http_origins.h"
#include "server/serving_state.h"

namespace tidegate {

struct OpenAiOptions {
  std::string listen;                        // "HOST:PORT" or "unix:PATH"
  std::vector<std::string> allowed_origins;  // "https://chat.example"; "*": any
  size_t max_connections = 1024;
  std::chrono::milliseconds idle_timeout{90'000};
  std::chrono::milliseconds write_timeout{60'000};
  std::shared_ptr<TlsServer> tls;  // null: clear text
};

class OpenAiServer {
 public:
  // Listens and serves until destroyed. `state` is not owned and outlives this. UNAVAILABLE when
  // the address cannot be bound, INVALID_ARGUMENT when it is none.
  static absl::StatusOr<std::unique_ptr<OpenAiServer>> Start(const OpenAiOptions& options,
                                                             ServingState& state);
  // Closes all connections at once. Calls end with it.
  ~OpenAiServer() = default;
  OpenAiServer(const OpenAiServer&) = delete;
  OpenAiServer& operator=(const OpenAiServer&) = delete;

  // With the real port.
  const ListenAddress& address() const { return http_->address(); }

 private:
  using Answer = HttpResponse (OpenAiServer::*)(const HttpRequest& request);

  OpenAiServer(const OpenAiOptions& options, ServingState& state);
  std::vector<HttpRoute> Routes();
  HttpHandler Completions(bool is_chat);
  HttpHandler Plain(Answer answer);
  HttpResponse Models(const HttpRequest& request);
  HttpResponse Model(const HttpRequest& request);
  // The model by that name, for those who may know, and what is counted and written of the call.
  absl::StatusOr<ModelInfo> FindModel(const HttpRequest& request, const std::string& name);
  HttpResponse Health(const HttpRequest& request);
  std::string ModelJson(const std::string& name, uint32_t context_tokens) const;

  ServingState& state_;
  const HttpOrigins origins_;
  const int64_t started_;             // seconds since 1970
  std::unique_ptr<HttpServer> http_;  // last: its handlers use everything above
};

}  // namespace tidegate
