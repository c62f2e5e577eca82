// The store's account of itself over gRPC, on a Unix socket of its own:
// WeightStoreService.GetStats, health and reflection. It reads counters and touches nothing else.
//
// Threads: gRPC's own. Create and destroy by one owner.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "base/connection_gate.h"
#include "base/listen_address.h"
#include "base/shutdown.h"
#include "grpcpp/grpcpp.h"
#include "tidegate/v1/weight_store.grpc.pb.h"
#include "weightstore/store.h"

namespace tidegate {

v1::GetStatsResponse ToProto(const StoreInfo& info, const StoreStats& stats);

class AdminServer {
 public:
  // Where WeightStoreService listens for a store with this attach socket.
  static std::string SocketPath(const std::string& attach_socket) {
    return attach_socket + std::string(kSuffix);
  }
  // The longest attach socket whose SocketPath() still fits into an address.
  static constexpr std::string_view kSuffix = ".grpc";
  static constexpr size_t kMaxAttachSocketBytes = kMaxSocketPathBytes - kSuffix.size();

  // Listens on `socket_path`, for the owner and the group. `info` and `stats` outlive the result;
  // `connections` is filled.
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(
      const std::string& socket_path, const StoreInfo& info, const StoreStats& stats,
      std::shared_ptr<GateStats> connections = std::make_shared<GateStats>());
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

 private:
  class Service;
  AdminServer() = default;
  absl::Status Listen(const std::string& socket_path, std::shared_ptr<GateStats> connections);

  RemovedAtEnd removed_at_end_;  // the socket
  std::unique_ptr<Service> service_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<ConnectionGate> gate_;  // hands connections to acceptor_
};

}  // namespace tidegate
