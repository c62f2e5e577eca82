#include "server/server.h"

#include <sys/stat.h>

#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "server/call_access.h"
#include "server/grpc_log.h"
#include "server/wire_messages.h"

namespace tidegate {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr int kMaxMetadataBytes = 16 << 10;
constexpr size_t kMemoryQuotaBytes = 256 << 20;

// A long prompt makes no traffic for minutes: both sides may ping to keep the path open.
constexpr int kKeepaliveMs = 30000;
constexpr int kKeepaliveTimeoutMs = 10000;
constexpr int kMinClientPingMs = 10000;
// Moves long-lived clients to new replicas now and then. Running calls are not cut.
constexpr int kMaxConnectionAgeMs = 3600 * 1000;

// After the last token, for clients to take what is buffered.
constexpr milliseconds kFlushTime{2000};
// Health watches never end by themselves; they are cut after this.
constexpr milliseconds kCloseTime{200};

void SetLimits(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder.SetMaxSendMessageSize(kMaxMessageBytes);
  // Nothing compressed comes in: gRPC unpacks before it looks at the size, and half a MiB of gzip
  // would take half a GiB of memory.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  builder.SetResourceQuota(grpc::ResourceQuota("tidegate").Resize(kMemoryQuotaBytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams_per_connection);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kMinClientPingMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, kMaxConnectionAgeMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS,
                             static_cast<int>(options.idle_timeout.count()));
}

absl::StatusOr<std::unique_ptr<ConnectionGate>> ListenLocally(const std::string& path,
                                                              const GateLimits& limits,
                                                              ConnectionGate::HandOver hand_over) {
  ListenAddress address;
  address.unix_path = path;
  ASSIGN_OR_RETURN(auto gate, ConnectionGate::Start(address, limits, std::move(hand_over),
                                                    std::make_shared<GateStats>()));
  if (chmod(path.c_str(), 0600) == 0) return gate;
  return absl::UnavailableError(absl::StrCat("--local-socket ", path, ": cannot be made private"));
}

}  // namespace

Server::Server(const ServerOptions& options, ChatPrompts chat, Engine& engine,
               EngineMetrics* metrics)
    : chat_(std::move(chat)),
      connection_stats_(options.connection_stats),
      streams_(options.max_open_streams, options.write_timeout),
      load_(engine, metrics, options.orca_trailers),
      access_(options.access),
      audit_(options.audit),
      state_{engine,
             ServedModel(engine, options.model_aliases),
             metrics,
             chat_,
             streams_,
             load_,
             *access_,
             audit_.get(),
             options.max_priority,
             options.max_choices,
             options.tracer},
      generation_(state_),
      model_(state_),
      inference_(state_) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Engine& engine,
                                                      EngineMetrics* metrics) {
  ASSIGN_OR_RETURN(ChatPrompts chat, ChatPrompts::Create(options.chat_template));
  std::unique_ptr<Server> server(new Server(options, std::move(chat), engine, metrics));
  RETURN_IF_ERROR(server->Listen(options));
  server->health_ = std::make_unique<HealthReporter>(
      *server->grpc_->GetHealthCheckService(), engine,
      std::vector<std::string>{v1::GenerationService::service_full_name(),
                               v1::ModelService::service_full_name(),
                               inference::GRPCInferenceService::service_full_name()},
      options.health_interval);
  if (!options.http.listen.empty()) {
    ASSIGN_OR_RETURN(server->http_, OpenAiServer::Start(options.http, server->state_));
  }
  return server;
}

absl::Status Server::Listen(const ServerOptions& options) {
  TakeGrpcLog();
  ASSIGN_OR_RETURN(const ListenAddress address, ParseListenAddress(options.listen));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  SetLimits(options, builder);
  acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  builder.RegisterService(&generation_);
  builder.RegisterService(&model_);
  builder.RegisterService(&inference_);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(MakeAccessInterceptor(*access_));
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr) return absl::InternalError("gRPC cannot start; its log says why");
  const auto hand_over = [this](int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    acceptor_->HandleNewConnection(&connection);
  };
  ASSIGN_OR_RETURN(gate_, ConnectionGate::Start(address, options.connections, hand_over,
                                                options.connection_stats, options.tls));
  if (!options.local_socket.empty()) {
    ASSIGN_OR_RETURN(local_gate_,
                     ListenLocally(options.local_socket, options.connections, hand_over));
  }
  port_ = gate_->address().port;
  address_ = gate_->address().ToString();
  return absl::OkStatus();
}

Server::~Server() { Shutdown(steady_clock::now()); }

void Server::WaitForOpenStreams(steady_clock::time_point deadline) {
  while (streams_.count() > 0 && steady_clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(5));
  }
}

void Server::Shutdown(steady_clock::time_point deadline) {
  if (grpc_ == nullptr) return;
  state_.draining = true;
  if (health_ != nullptr) health_->Drain();
  state_.engine.Drain(deadline);
  WaitForOpenStreams(steady_clock::now() + kFlushTime);
  http_.reset();
  health_.reset();
  grpc_->GetHealthCheckService()->Shutdown();
  for (const auto& gate : {gate_.get(), local_gate_.get()}) {
    if (gate != nullptr) gate->StopAccepting();
  }
  grpc_->Shutdown(std::chrono::system_clock::now() + kCloseTime);
  if (gate_ != nullptr) gate_->Stop(kCloseTime);
  gate_.reset();
  local_gate_.reset();
  grpc_.reset();
}

}  // namespace tidegate
