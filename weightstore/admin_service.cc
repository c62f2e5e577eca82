#include "weightstore/admin_service.h"

#include <sys/stat.h>

#include <chrono>
#include <limits>
#include <optional>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "proto/wire/parse_message.h"

namespace tidegate {
namespace {

// Health watches never end by themselves; they are cut after this.
constexpr std::chrono::milliseconds kCloseTime{100};
constexpr int kMaxMessageBytes = 64 << 10;  // requests have no fields
constexpr int kMaxOpenCalls = 1024;
constexpr int kMaxConnections = 128;  // all of this machine, and few: operators' tools

void FillInfo(const StoreInfo& info, v1::StoreInfo& proto) {
  proto.set_pack_uuid(info.pack_uuid);
  proto.set_model_name(info.model_name);
  proto.set_architecture(info.architecture);
  proto.set_unit_encoding(info.unit_encoding);
  proto.set_policy(info.policy);
  proto.set_warm_blocks(info.warm_blocks);

  v1::FlashBackend& flash = *proto.mutable_flash();
  flash.set_name(info.flash.backend);
  flash.set_reason(info.flash.reason);
  flash.set_direct(info.flash.direct);
  flash.set_fixed_file(info.flash.fixed_file);
  flash.set_fixed_buffer_bytes(info.flash.fixed_buffer_bytes);
  flash.set_queue_depth(info.flash.queue_depth);

  v1::MemorySplit& memory = *proto.mutable_memory();
  memory.set_budget_bytes(info.memory_budget_bytes);
  memory.set_region_bytes(info.region_bytes);
  memory.set_static_bytes(info.static_bytes);
  memory.set_slot_bytes(info.slot_bytes);
  memory.set_staging_bytes(info.staging_bytes);
  memory.set_engine_reserve_bytes(info.engine_reserve_bytes);
  memory.set_streamed_model_bytes(info.streamed_model_bytes);

  proto.mutable_input()->set_slots_per_layer(info.slots_per_layer[0]);
  proto.mutable_input()->set_blocks_per_layer(info.blocks_per_layer[0]);
  proto.mutable_hidden()->set_slots_per_layer(info.slots_per_layer[1]);
  proto.mutable_hidden()->set_blocks_per_layer(info.blocks_per_layer[1]);
}

void FillLeases(const StoreStats& stats, size_t mode, v1::LeaseStats& proto) {
  proto.set_granted(stats.leases_granted[mode]);
  proto.set_hit_units(stats.hit_units[mode]);
  proto.set_miss_units(stats.miss_units[mode]);
}

template <size_t kBounds>
void FillHistogram(const AtomicHistogram<kBounds>& histogram,
                   google::protobuf::RepeatedPtrField<v1::HistogramBucket>& proto) {
  for (size_t i = 0; i <= kBounds; ++i) {
    v1::HistogramBucket& bucket = *proto.Add();
    bucket.set_upper_bound(i < kBounds ? histogram.bounds()[i]
                                       : std::numeric_limits<double>::infinity());
    bucket.set_count(histogram.count(i));
  }
}

void FillCache(const StoreStats& stats, v1::CacheStats& proto) {
  proto.set_capacity_bytes(stats.capacity_bytes);
  proto.set_used_bytes(stats.used_bytes);
  proto.set_pinned_bytes(stats.pinned_bytes);
  proto.set_inserted_blocks(stats.inserted_blocks);
  proto.set_evicted_blocks(stats.evicted_blocks);
  proto.set_bypassed_blocks(stats.bypassed_blocks);
}

void FillFlash(const StoreStats& stats, v1::FlashStats& proto) {
  proto.set_cache_read_bytes(stats.flash_read_bytes[0]);
  proto.set_stream_read_bytes(stats.flash_read_bytes[1]);
  proto.set_static_read_bytes(stats.flash_read_bytes[2]);
  proto.set_reads_ok(stats.flash_reads_ok);
  proto.set_reads_failed(stats.flash_reads_failed);
  proto.set_reads_corrupt(stats.flash_reads_corrupt);
  proto.set_corrupt_blocks(stats.corrupt_blocks);
  proto.set_submissions(stats.flash_submissions);
  proto.set_in_flight(stats.flash_in_flight);
  proto.set_read_seconds_sum(stats.read_seconds.sum());
  FillHistogram(stats.read_bytes, *proto.mutable_read_bytes());
  FillHistogram(stats.read_seconds, *proto.mutable_read_seconds());
}

}  // namespace

v1::GetStatsResponse ToProto(const StoreInfo& info, const StoreStats& stats) {
  v1::GetStatsResponse response;
  FillInfo(info, *response.mutable_info());
  v1::StoreStats& proto = *response.mutable_stats();
  FillLeases(stats, 0, *proto.mutable_select());
  FillLeases(stats, 1, *proto.mutable_stream());
  FillCache(stats, *proto.mutable_cache());
  FillFlash(stats, *proto.mutable_flash());
  v1::EngineStats& engines = *proto.mutable_engines();
  engines.set_attached(stats.engines_attached);
  engines.set_attaches_total(stats.attaches_total);
  engines.set_attaches_refused(stats.attaches_refused);
  engines.set_leases_dropped(stats.leases_dropped);
  return response;
}

// Takes requests as bytes: what protobuf refuses, gRPC would answer with UNIMPLEMENTED and no text.
using RawService =
    v1::WeightStoreService::WithRawCallbackMethod_GetStats<v1::WeightStoreService::Service>;

class AdminServer::Service final : public RawService {
 public:
  Service(const StoreInfo& info, const StoreStats& stats) : info_(info), stats_(stats) {}

  grpc::ServerUnaryReactor* GetStats(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(Answer(*request, *response));
    return reactor;
  }

 private:
  grpc::Status Answer(const grpc::ByteBuffer& bytes, grpc::ByteBuffer& answer) const {
    grpc::Slice whole;
    if (!bytes.Valid() || !bytes.DumpToSingleSlice(&whole).ok()) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "the call has no message"};
    }
    v1::GetStatsRequest request;
    const std::string_view text(reinterpret_cast<const char*>(whole.begin()), whole.size());
    if (const std::optional<WireFault> fault = ParseMessage(text, request)) {
      return {grpc::StatusCode::INVALID_ARGUMENT,
              absl::StrCat(fault->field, ": ", fault->description)};
    }
    bool own = false;
    return grpc::SerializationTraits<v1::GetStatsResponse>::Serialize(ToProto(info_, stats_),
                                                                      &answer, &own);
  }

  const StoreInfo& info_;
  const StoreStats& stats_;
};

absl::StatusOr<std::unique_ptr<AdminServer>> AdminServer::Start(
    const std::string& socket_path, const StoreInfo& info, const StoreStats& stats,
    std::shared_ptr<GateStats> connections) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<AdminServer> admin(new AdminServer());
  admin->service_ = std::make_unique<Service>(info, stats);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // gRPC would unpack before it looks at the size.
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
  builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
  builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);
  admin->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  builder.RegisterService(admin->service_.get());
  admin->server_ = builder.BuildAndStart();
  if (admin->server_ == nullptr) return absl::InternalError("gRPC cannot start; its log says why");
  admin->removed_at_end_ = RemovedAtEnd(socket_path);
  RETURN_IF_ERROR(admin->Listen(socket_path, std::move(connections)));
  grpc::HealthCheckServiceInterface* health = admin->server_->GetHealthCheckService();
  for (const char* name :
       {"", "liveness", "readiness", v1::WeightStoreService::service_full_name()}) {
    health->SetServingStatus(name, true);
  }
  return admin;
}

absl::Status AdminServer::Listen(const std::string& socket_path,
                                 std::shared_ptr<GateStats> connections) {
  ListenAddress address;
  address.unix_path = socket_path;
  GateLimits limits;
  limits.max_connections = limits.max_connections_per_address = kMaxConnections;
  limits.max_open_calls = kMaxOpenCalls;
  const auto hand_over = [this](int fd) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.fd = fd;
    acceptor_->HandleNewConnection(&connection);
  };
  ASSIGN_OR_RETURN(gate_,
                   ConnectionGate::Start(address, limits, hand_over, std::move(connections)));
  if (chmod(socket_path.c_str(), 0660) == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot set the mode of ", socket_path));
}

AdminServer::~AdminServer() {
  if (server_ == nullptr) return;
  server_->GetHealthCheckService()->Shutdown();
  if (gate_ != nullptr) gate_->StopAccepting();
  server_->Shutdown(std::chrono::system_clock::now() + kCloseTime);
  if (gate_ != nullptr) gate_->Stop(kCloseTime);
}

}  // namespace tidegate
