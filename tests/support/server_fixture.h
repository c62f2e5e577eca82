// A real gRPC server on a free port over a FakeEngine, and a channel to it.
#pragma once

#include <gtest/gtest.h>

#include <memory>

#include "base/metrics_server.h"
#include "grpcpp/grpcpp.h"
#include "server/server.h"
#include "tests/support/fake_engine.h"
#include "tests/support/test_support.h"
#include "tidegate/v1/generation.grpc.pb.h"
#include "tidegate/v1/model.grpc.pb.h"

namespace tidegate {

class ServerFixture : public testing::Test {
 protected:
  void SetUp() override {
    auto metrics_server = MetricsServer::Create("127.0.0.1:0");
    ASSERT_TRUE(metrics_server.ok()) << metrics_server.status();
    metrics_server_ = std::move(metrics_server).value();
    metrics_ = std::make_unique<EngineMetrics>(*metrics_server_);
    engine_ = std::make_unique<FakeEngine>();
    metrics_->AttachEngine(engine_.get());
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.model_aliases = {"other-name"};
    options.health_interval = std::chrono::milliseconds(2);
    Adjust(options);
    auto server = Server::Start(options, *engine_, metrics_.get());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(server).value();
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    generation_ = v1::GenerationService::NewStub(channel_);
    models_ = v1::ModelService::NewStub(channel_);
  }
  // Other options than the fixture's.
  virtual void Adjust(ServerOptions&) {}
  void TearDown() override { metrics_->AttachEngine(nullptr); }

  // Whether the metrics page has this line, now or within some seconds.
  bool MetricAppears(const std::string& line) {
    return WaitUntil(
        [&] { return metrics_server_->Render().find(line + "\n") != std::string::npos; },
        std::chrono::seconds(10));
  }

  // Destroyed in reverse: channel, server, engine, metrics.
  std::unique_ptr<MetricsServer> metrics_server_;
  std::unique_ptr<EngineMetrics> metrics_;
  std::unique_ptr<FakeEngine> engine_;
  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::GenerationService::Stub> generation_;
  std::unique_ptr<v1::ModelService::Stub> models_;
};

}  // namespace tidegate
