// A model as a service of its own on this machine: its pack, a memory budget, and a store and an
// engine that are children of this process. What `tidegate serve` and `tidegate run` share.
//
// Sockets, region and port files lie in a folder of their own on tmpfs, which goes with the object
// and when a signal ends the process. One thread, the one that calls Run(), which must live until
// Run() returns; RequestStop() may be called by anybody.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/temporary_folder.h"
#include "cli/daemon_flags.h"
#include "cli/memory_choice.h"
#include "cli/pack_cache.h"
#include "cli/supervisor.h"

namespace CLI {
class App;
}

namespace tidegate {

struct ServiceOptions {
  PackRequest pack;
  std::optional<uint64_t> memory;    // unset: ChooseMemory()
  std::string listen;                // of gRPC; "": a Unix socket in the folder of the service
  std::string metrics_listen;        // of the engine; "": off
  std::string http_listen;           // of the HTTP API; "": off
  std::string store_metrics_listen;  // "": off
  std::string log_level = "warning", log_format = "text";
  DaemonFlags flags;

  // Adds MODEL, --memory, --units, --cache-dir, --log-level, --log-format and every
  // flag of the daemons that
  // `command` does not have by then. `*this` must outlive `command`.
  void Register(CLI::App& command);
};

class LocalService {
 public:
  // Everything that comes before the processes: looks for the programs, checks their flags, packs
  // unless that was done, chooses the memory. `tell` is for what takes long. Errors name the flag,
  // the file or the memory at fault.
  static absl::StatusOr<std::unique_ptr<LocalService>> Prepare(const ServiceOptions& options,
                                                               const TellPerson& tell);
  LocalService(const LocalService&) = delete;

  // Starts the processes and keeps them running until RequestStop(): see Supervisor.
  absl::Status Run(SupervisorOptions options);
  // Also before Run(), which then stops at once.
  void RequestStop() { supervisor_->RequestStop(); }
  // The processes read certificates, keys and limits again.
  void RequestReload() { supervisor_->RequestReload(); }

  const ReadyPack& pack() const { return pack_; }
  const MemoryChoice& memory() const { return memory_; }
  const std::string& model_name() const { return model_name_; }
  // Whether it can answer a conversation: the model or a flag has a chat template.
  bool has_chat() const { return has_chat_; }
  std::chrono::nanoseconds drain_timeout() const { return drain_timeout_; }

  // Where clients reach what; known from on_ready on. "": off.
  std::string server() const { return engine_.grpc.Dialled(); }
  std::string http() const { return engine_.http.Dialled(); }
  // The same for this process, in clear also where clients have to speak TLS.
  std::string own_server() const { return tls_ ? "unix:" + local_socket_ : server(); }
  // Whether clients of gRPC and HTTP, or of the engine's metrics, have to speak TLS.
  bool has_tls() const { return tls_; }
  bool has_metrics_tls() const { return metrics_tls_; }
  std::string engine_metrics() const { return engine_.metrics.Dialled(); }
  std::string store_metrics() const { return store_.metrics.Dialled(); }
  std::string store_server() const { return "unix:" + socket_ + ".grpc"; }
  uint16_t port() const { return engine_.grpc.address.port; }
  uint16_t http_port() const { return engine_.http.address.port; }

 private:
  // An address to listen on, whose port the program writes into a file when it does.
  struct Endpoint {
    bool off = false;
    ListenAddress address;
    std::string port_file;

    std::string Listened() const { return off ? "off" : address.ToString(); }
    std::string Dialled() const;
    void Forget() const;
    // True when the program listens; from then on the port is the one that was really bound, also
    // for the next start.
    bool Learn();
  };
  struct Daemon {
    std::string program;
    std::vector<std::string> flags;
    Endpoint grpc, http, metrics;  // the store has metrics alone
  };

  explicit LocalService(TemporaryFolder folder) : folder_(std::move(folder)) {}
  absl::Status SetUp(const ServiceOptions& options);
  absl::StatusOr<Endpoint> MakeEndpoint(const std::string& listen, const std::string& name);
  std::vector<std::string> StoreCommand();
  std::vector<std::string> EngineCommand();
  bool StoreReady();
  bool EngineReady();

  TemporaryFolder folder_;
  std::string socket_, local_socket_;
  bool tls_ = false, metrics_tls_ = false;
  Daemon store_, engine_;
  ReadyPack pack_;
  MemoryChoice memory_;
  std::string model_name_, log_level_, log_format_;
  bool has_chat_ = false;
  std::chrono::nanoseconds drain_timeout_{0};
  std::unique_ptr<Supervisor> supervisor_;
};

}  // namespace tidegate
