#include "cli/client_options.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstdlib>
#include <initializer_list>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/listen_address.h"
#include "base/loopback.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/support/client_interceptor.h"

namespace tidegate {
namespace {

constexpr size_t kMaxShownBytes = 2000;
constexpr size_t kMaxPemBytes = 1 << 20;
constexpr size_t kMaxKeyBytes = 1024;

const char* CodeName(grpc::StatusCode code) {
  static constexpr const char* kNames[] = {"OK",
                                           "CANCELLED",
                                           "UNKNOWN",
                                           "INVALID_ARGUMENT",
                                           "DEADLINE_EXCEEDED",
                                           "NOT_FOUND",
                                           "ALREADY_EXISTS",
                                           "PERMISSION_DENIED",
                                           "RESOURCE_EXHAUSTED",
                                           "FAILED_PRECONDITION",
                                           "ABORTED",
                                           "OUT_OF_RANGE",
                                           "UNIMPLEMENTED",
                                           "INTERNAL",
                                           "UNAVAILABLE",
                                           "DATA_LOSS",
                                           "UNAUTHENTICATED"};
  const size_t index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "UNKNOWN";
}

// Bytes of a peer that end up on a terminal: control characters could change its state.
std::string Shown(const std::string& text) { return Printable(text, kMaxShownBytes); }

double DelayOf(const google::rpc::RetryInfo& retry) {
  return static_cast<double>(retry.retry_delay().seconds()) + retry.retry_delay().nanos() * 1e-9;
}

void AppendBadRequest(const google::rpc::BadRequest& detail, std::string& text) {
  for (const auto& violation : detail.field_violations()) {
    absl::StrAppend(&text, "\n  ", Shown(violation.field()), ": ", Shown(violation.description()));
  }
}

void AppendErrorInfo(const google::rpc::ErrorInfo& detail, std::string& text) {
  absl::StrAppend(&text, "\n  reason ", Shown(detail.reason()));
  for (const auto& [key, value] : detail.metadata()) {
    absl::StrAppend(&text, ", ", Shown(key), " ", Shown(value));
  }
}

void AppendDetail(const google::protobuf::Any& any, std::string& text) {
  google::rpc::BadRequest bad_request;
  google::rpc::ErrorInfo error_info;
  google::rpc::RetryInfo retry;
  google::rpc::RequestInfo request;
  if (any.UnpackTo(&bad_request)) {
    AppendBadRequest(bad_request, text);
  } else if (any.UnpackTo(&error_info)) {
    AppendErrorInfo(error_info, text);
  } else if (any.UnpackTo(&retry)) {
    absl::StrAppend(&text, "\n  try again after ", FormatSeconds(DelayOf(retry)));
  } else if (any.UnpackTo(&request)) {
    absl::StrAppend(&text, "\n  request ", Shown(request.request_id()));
  }
}

// Whether `target` is on this machine by its form: loopback, or the wildcard address.
bool IsLocal(const std::string& target) {
  const absl::StatusOr<ListenAddress> address = ParseServerAddress(target);
  if (!address.ok()) return false;
  if (IsLoopback(*address)) return true;
  in_addr v4 = {};
  if (::inet_pton(AF_INET, address->host.c_str(), &v4) == 1) return v4.s_addr == 0;
  in6_addr v6 = {};
  return ::inet_pton(AF_INET6, address->host.c_str(), &v6) == 1 && IN6_IS_ADDR_UNSPECIFIED(&v6);
}

// The variable by which gRPC takes a proxy to `target`, null if it takes none. As its
// http_proxy mapper reads them: the first that is set decides, and an entry of the exceptions fits
// the end of a host's name.
const char* ProxyVariable(const std::string& target) {
  const absl::StatusOr<ListenAddress> address = ParseServerAddress(target);
  if (!address.ok() || IsLocal(target)) return nullptr;
  const auto first = [](std::initializer_list<const char*> names) -> const char* {
    for (const char* name : names) {
      if (std::getenv(name) != nullptr) return name;
    }
    return nullptr;
  };
  const char* proxy = first({"grpc_proxy", "https_proxy", "http_proxy"});
  if (proxy == nullptr || *std::getenv(proxy) == '\0') return nullptr;
  const char* exceptions = first({"no_grpc_proxy", "no_proxy"});
  if (exceptions == nullptr) return proxy;
  for (const absl::string_view entry :
       absl::StrSplit(std::getenv(exceptions), ',', absl::SkipWhitespace())) {
    if (absl::EndsWithIgnoreCase(address->host, absl::StripAsciiWhitespace(entry))) return nullptr;
  }
  return proxy;
}

// The content of a PEM file, at once: a file that is not there is a mistake in the flags.
Flag AddPemFlag(CLI::App& command, const char* name, std::string& pem, const char* help) {
  return AddTextFlag(
             command, name,
             [&pem](const std::string& path) {
               ASSIGN_OR_RETURN(pem, ReadFile(path, kMaxPemBytes));
               if (absl::StrContains(pem, "-----BEGIN ")) return absl::OkStatus();
               return absl::InvalidArgumentError(
                   absl::StrCat(Quoted(path), " holds nothing in PEM (-----BEGIN ...)"));
             },
             help)
      .Type("FILE");
}

void AddClientTlsFlags(CLI::App& command, ClientTls& tls) {
  AddSwitch(command, "--tls", tls.wanted,
            "Speak TLS, and check the server's certificate against the authorities of the system");
  AddPemFlag(command, "--tls-ca", tls.authorities,
             "Speak TLS, and check the server's certificate against these authorities")
      .Variable("TIDEGATE_TLS_CA");
  AddPemFlag(command, "--tls-cert", tls.certificate,
             "Certificate to show to a server that asks for one")
      .Variable("TIDEGATE_TLS_CLIENT_CERT");
  AddPemFlag(command, "--tls-key", tls.key,
             "Key of --tls-cert; not needed where that file holds it too")
      .Variable("TIDEGATE_TLS_CLIENT_KEY");
  AddTextFlag(command, "--tls-server-name", tls.server_name,
              "Name in the server's certificate, where it is not the host of --server")
      .Type("NAME")
      .Variable("TIDEGATE_TLS_SERVER_NAME");
}

// Whether gRPC can send it.
bool IsKeyText(std::string_view key) {
  return !key.empty() && key.size() <= kMaxKeyBytes &&
         std::all_of(key.begin(), key.end(), [](char c) { return c > ' ' && c < 0x7f; });
}

void AddKeyFlag(CLI::App& command, std::string& key) {
  key = KeyOfEnvironment();
  AddTextFlag(
      command, "--key-file",
      [&key](const std::string& path) {
        ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxKeyBytes));
        const std::string stripped(absl::StripAsciiWhitespace(text));
        // Not the text: it may be somebody's secret.
        if (!IsKeyText(stripped)) {
          return absl::InvalidArgumentError(
              absl::StrCat(Quoted(path), " holds no key in one line"));
        }
        key = stripped;
        return absl::OkStatus();
      },
      "File with the key to show to the server; without it TIDEGATE_KEY may hold the key itself")
      .Type("FILE")
      .Variable("TIDEGATE_KEY_FILE");
}

// Adds the key to every call of a channel, whatever its credentials: gRPC's own call credentials
// want TLS, which is no use on a Unix socket.
class KeyInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit KeyInterceptor(const std::string& key) : key_(key) {}
  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using Point = grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(Point::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->emplace("authorization", "Bearer " + key_);
    }
    methods->Proceed();
  }

 private:
  const std::string& key_;  // of the factory, which the channel holds
};

class KeyInterceptors final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit KeyInterceptors(std::string key) : key_(std::move(key)) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new KeyInterceptor(key_);
  }

 private:
  const std::string key_;
};

std::shared_ptr<grpc::ChannelCredentials> CredentialsOf(const ClientTls& tls) {
  if (!tls.on()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = tls.authorities;
  options.pem_cert_chain = tls.certificate.empty() ? tls.key : tls.certificate;
  options.pem_private_key = tls.key.empty() ? tls.certificate : tls.key;
  return grpc::SslCredentials(options);
}

}  // namespace

std::string KeyOfEnvironment() {
  const char* const key = std::getenv("TIDEGATE_KEY");
  if (key == nullptr) return "";
  const std::string stripped(absl::StripAsciiWhitespace(key));
  return IsKeyText(stripped) ? stripped : "";
}

void AddServerFlag(CLI::App& command, ServerTarget& target) {
  std::string& server = target.address;
  if (server.empty()) server = "127.0.0.1:50051";
  AddTextFlag(
      command, "--server",
      [&server](const std::string& text) {
        const absl::Status status = ParseServerAddress(text).status();
        if (status.ok()) server = text;
        return status;
      },
      "Address of tidegate-engine: HOST:PORT or unix:PATH")
      .Type("ADDRESS")
      .Default(server)
      .Variable("TIDEGATE_SERVER");
  AddClientTlsFlags(command, target.tls);
  AddKeyFlag(command, target.key);
}

std::shared_ptr<grpc::Channel> Dial(const ServerTarget& server, bool own_connection) {
  grpc::ChannelArguments arguments;
  if (own_connection) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (IsLocal(server.address)) arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (!server.tls.server_name.empty()) arguments.SetSslTargetNameOverride(server.tls.server_name);
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
  if (!server.key.empty()) interceptors.push_back(std::make_unique<KeyInterceptors>(server.key));
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      server.address, CredentialsOf(server.tls), arguments, std::move(interceptors));
}

absl::Status ExplainError(const grpc::Status& status, const std::string& target,
                          const std::string& program) {
  if (status.ok()) return absl::OkStatus();
  std::string text =
      absl::StrCat(CodeName(status.error_code()), ": ", Shown(status.error_message()));
  google::rpc::Status details;
  if (!status.error_details().empty() && details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& any : details.details()) AppendDetail(any, text);
  } else if (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
             status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      absl::StrAppend(&text, "\n  is ", program, " running at ", target, "?");
    }
    const char* proxy = ProxyVariable(target);
    if (proxy != nullptr) {
      absl::StrAppend(&text, "\n  the connection went through the proxy that ", proxy,
                      " names; no_proxy=", ParseServerAddress(target)->host, " goes past it");
    }
  }
  if (status.error_code() == grpc::StatusCode::UNAUTHENTICATED) {
    absl::StrAppend(&text, "\n  --key-file FILE or the variable TIDEGATE_KEY gives a key");
  }
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), text);
}

ErrorFacts FactsOf(const grpc::Status& status) {
  ErrorFacts facts = {.code = CodeName(status.error_code())};
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return facts;
  for (const google::protobuf::Any& any : details.details()) {
    google::rpc::ErrorInfo error_info;
    google::rpc::RetryInfo retry;
    if (any.UnpackTo(&error_info)) facts.reason = Printable(error_info.reason());
    if (any.UnpackTo(&retry)) facts.retry_seconds = DelayOf(retry);
  }
  return facts;
}

}  // namespace tidegate
