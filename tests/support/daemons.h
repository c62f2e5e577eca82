// The store and the engine as an operator runs them: real processes on private sockets and free
// ports.
//
// One thread. Whatever goes wrong at start fails the running test with the process's own words.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "tests/support/http_get.h"
#include "tests/support/test_support.h"
#include "tidegate/v1/generation.grpc.pb.h"
#include "tidegate/v1/model.grpc.pb.h"
#include "tidegate/v1/weight_store.grpc.pb.h"

namespace tidegate {

inline constexpr std::chrono::seconds kDaemonLimit(60);
// Less than the demo model's weights, and room for a part of them.
inline constexpr char kSmallBudget[] = "7MiB";
// A device on which a token takes some tens of milliseconds: whoever reads one event of a stream is
// in the middle of it.
inline constexpr char kSlowDevice[] = "bandwidth=60MB/s,latency=500us,iops=20k";

// The demo model as a pack with q8 units.
inline void PackDemoModel(const std::string& pack) {
  const RunResult run =
      RunProgram({BinaryPath("tidegate"), "pack", DemoModelPath(), "-o", pack, "--units", "q8"});
  ASSERT_EQ(run.exit_code, 0) << run.out << run.err;
}

// A folder on tmpfs, which the store wants for its region, for as long as the object lives.
class RegionFolder {
 public:
  RegionFolder() { CHECK(mkdtemp(pattern_.data()) != nullptr); }
  ~RegionFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(pattern_, ignored);
  }
  RegionFolder(const RegionFolder&) = delete;
  const std::string& path() const { return pattern_; }

 private:
  std::string pattern_ = "/dev/shm/tidegate_test_XXXXXX";
};

// What one Generate call gave.
struct StreamResult {
  grpc::Status status;
  std::string text;
  std::vector<uint32_t> ids;
  std::optional<v1::Finished> finished;
};

// A greedy request whose tokens depend on nothing but the weights.
inline v1::GenerateRequest StoryRequest(uint32_t max_tokens) {
  v1::GenerateRequest request;
  request.set_text("Once upon a time");
  request.set_max_tokens(max_tokens);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_pruning()->set_reproducible(true);
  return request;
}

// A running Generate call. Ended by Finish() or, cancelled, by the destructor.
class Stream {
 public:
  Stream(const std::shared_ptr<grpc::Channel>& channel, const v1::GenerateRequest& request,
         std::chrono::milliseconds deadline = kDaemonLimit)
      : stub_(v1::GenerationService::NewStub(channel)) {
    context_.set_deadline(std::chrono::system_clock::now() + deadline);
    reader_ = stub_->Generate(&context_, request);
  }
  ~Stream() {
    context_.TryCancel();
    Finish();
  }
  Stream(const Stream&) = delete;

  // Reads the first event: the engine has the request. False if it was refused.
  bool Begin() { return ReadEvent(); }
  // Reads until `count` tokens have come; false if the stream ends before.
  bool ReadTokens(size_t count) {
    while (result_.ids.size() < count) {
      if (!ReadEvent()) return false;
    }
    return true;
  }
  void Cancel() { context_.TryCancel(); }
  // Reads to the end.
  const StreamResult& Finish() {
    if (done_) return result_;
    while (ReadEvent()) {
    }
    result_.status = reader_->Finish();
    done_ = true;
    return result_;
  }
  const StreamResult& so_far() const { return result_; }

 private:
  bool ReadEvent() {
    v1::GenerateResponse event;
    if (!reader_->Read(&event)) return false;
    result_.text += event.delta().text();
    const auto& ids = event.delta().token_ids();
    result_.ids.insert(result_.ids.end(), ids.begin(), ids.end());
    if (event.has_finished()) result_.finished = event.finished();
    return true;
  }

  std::unique_ptr<v1::GenerationService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader_;
  StreamResult result_;
  bool done_ = false;
};

// A store and an engine that find each other. Each may be started, killed and started again.
class Daemons {
 public:
  explicit Daemons(std::string pack) : pack_(std::move(pack)) {}

  std::vector<std::string> StoreCommand(const std::vector<std::string>& extra = {}) const {
    std::vector<std::string> command = {BinaryPath("tidegate-store"),
                                        "--pack",
                                        pack_,
                                        "--socket",
                                        socket(),
                                        "--region-dir",
                                        region_.path(),
                                        "--metrics-listen",
                                        "off"};
    command.insert(command.end(), extra.begin(), extra.end());
    return command;
  }
  void SpawnStore(const std::vector<std::string>& extra = {}) {
    store_.reset();
    store_.emplace(StoreCommand(extra), dir_.File("store.log"));
  }
  // Also waits until the store answers.
  void StartStore(const std::vector<std::string>& extra = {}) {
    SpawnStore(extra);
    const bool up =
        WaitUntil([&] { return Stats().has_value() || !store_->running(); }, kDaemonLimit);
    ASSERT_TRUE(up && store_->running()) << store_->Output();
  }
  // Waits until the engine listens, not until it is ready. `store_socket`: empty for this store's.
  void StartEngine(const std::vector<std::string>& extra = {},
                   const std::string& store_socket = "") {
    engine_.reset();
    channel_.reset();
    for (const char* file : {"grpc.port", "metrics.port"}) unlink(dir_.File(file).c_str());
    std::vector<std::string> command = engine_runner_;
    command.insert(command.end(),
                   {BinaryPath("tidegate-engine"), "--store-socket",
                    store_socket.empty() ? socket() : store_socket, "--listen", "127.0.0.1:0",
                    "--port-file", dir_.File("grpc.port"), "--metrics-listen", "127.0.0.1:0",
                    "--metrics-port-file", dir_.File("metrics.port"), "--threads", "1"});
    command.insert(command.end(), extra.begin(), extra.end());
    engine_.emplace(command, dir_.File("engine.log"));
    WaitUntil([&] { return !Port("grpc.port").empty() || !engine_->running(); }, kDaemonLimit);
    ASSERT_FALSE(Port("grpc.port").empty()) << engine_->Output();
    channel_ =
        grpc::CreateChannel("127.0.0.1:" + Port("grpc.port"), grpc::InsecureChannelCredentials());
  }
  // Both, and waits until the engine serves.
  void Start(const std::vector<std::string>& store_extra = {"--memory-budget", kSmallBudget},
             const std::vector<std::string>& engine_extra = {}) {
    ASSERT_NO_FATAL_FAILURE(StartStore(store_extra));
    ASSERT_NO_FATAL_FAILURE(StartEngine(engine_extra));
    ASSERT_TRUE(WaitReady(true)) << engine_->Output();
  }

  // What is to start the engine, with its arguments: `unshare` and the like.
  void set_engine_runner(std::vector<std::string> runner) { engine_runner_ = std::move(runner); }

  ChildProcess& store() { return *store_; }
  ChildProcess& engine() { return *engine_; }
  void StopEngine() { engine_.reset(); }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  std::string address() const { return "127.0.0.1:" + Port("grpc.port"); }  // of the engine
  std::string socket() const { return dir_.File("store.sock"); }
  const std::string& region_folder() const { return region_.path(); }

  // The store's own account; nothing if it does not answer.
  std::optional<v1::GetStatsResponse> Stats() const {
    const auto stub = v1::WeightStoreService::NewStub(
        grpc::CreateChannel("unix:" + socket() + ".grpc", grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    v1::GetStatsResponse response;
    if (!stub->GetStats(&context, {}, &response).ok()) return std::nullopt;
    return response;
  }

  // Whether grpc.health.v1 says that `readiness` is SERVING.
  bool Ready() const {
    const auto stub = grpc::health::v1::Health::NewStub(channel_);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
    grpc::health::v1::HealthCheckRequest request;
    request.set_service("readiness");
    grpc::health::v1::HealthCheckResponse response;
    return stub->Check(&context, request, &response).ok() &&
           response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  }
  bool WaitReady(bool wanted) const {
    return WaitUntil([&] { return Ready() == wanted; }, kDaemonLimit);
  }

  // Runs a request to its end.
  StreamResult Generate(const v1::GenerateRequest& request) const {
    Stream stream(channel_, request);
    return stream.Finish();
  }

  // Sum over the engine's series `name{... labels ...}`; -1 if there is none.
  double EngineMetric(const std::string& name, const std::string& label = "") const {
    const auto response =
        HttpGet(static_cast<uint16_t>(std::stoi(Port("metrics.port"))), "/metrics");
    if (!response.ok()) return -1;
    std::istringstream page(response->body);
    double sum = 0;
    bool found = false;
    for (std::string line; std::getline(page, line);) {
      const bool named = line.rfind(name + " ", 0) == 0 || line.rfind(name + "{", 0) == 0;
      if (!named || line.find(label) == std::string::npos) continue;
      sum += std::stod(line.substr(line.rfind(' ') + 1));
      found = true;
    }
    return found ? sum : -1;
  }

 private:
  std::string Port(const std::string& file) const {
    if (!FileExists(dir_.File(file))) return "";
    const std::string line = ReadFileOrDie(dir_.File(file));
    return line.substr(0, line.find('\n'));
  }

  const std::string pack_;
  std::vector<std::string> engine_runner_;
  TempDir dir_;
  RegionFolder region_;
  std::optional<ChildProcess> store_, engine_;  // the engine goes first
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace tidegate
