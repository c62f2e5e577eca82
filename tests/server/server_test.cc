#include "server/server.h"

#include <gtest/gtest.h>

#include <thread>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "tests/support/error_details.h"
#include "tests/support/server_fixture.h"

namespace tidegate::server_test {

using grpc::health::v1::HealthCheckResponse;
using std::chrono::steady_clock;

class ServerTest : public ServerFixture {
 protected:
  // -1: the name is unknown.
  int Health(const std::string& name) {
    const auto stub = grpc::health::v1::Health::NewStub(channel_);
    grpc::health::v1::HealthCheckRequest request;
    request.set_service(name);
    HealthCheckResponse response;
    grpc::ClientContext context;
    return stub->Check(&context, request, &response).ok() ? response.status() : -1;
  }
  bool HealthBecomes(const std::string& name, int wanted) {
    return WaitUntil([&] { return Health(name) == wanted; }, std::chrono::seconds(10));
  }
};

TEST_F(ServerTest, HealthHasAllNamesAndFollowsTheEngine) {
  const std::vector<std::string> ready_names = {"", "readiness", "tidegate.v1.GenerationService",
                                                "tidegate.v1.ModelService"};
  for (const std::string& name : ready_names) {
    EXPECT_EQ(Health(name), HealthCheckResponse::SERVING) << name;
  }
  EXPECT_EQ(Health("liveness"), HealthCheckResponse::SERVING);
  EXPECT_EQ(Health("no.such.Service"), -1);
  engine_->SetAttached(false);
  for (const std::string& name : ready_names) {
    EXPECT_TRUE(HealthBecomes(name, HealthCheckResponse::NOT_SERVING)) << name;
  }
  EXPECT_EQ(Health("liveness"), HealthCheckResponse::SERVING);
  engine_->SetAttached(true);
  EXPECT_TRUE(HealthBecomes("readiness", HealthCheckResponse::SERVING));
}

// The reflection messages are inside the gRPC library, without headers: one field each is used
// here.
TEST_F(ServerTest, ReflectionListsTheServices) {
  grpc::GenericStub stub(channel_);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  const auto call = stub.PrepareCall(
      &context, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", &queue);
  void* tag = nullptr;
  bool ok = false;
  const auto next = [&] { return queue.Next(&tag, &ok) && ok; };
  call->StartCall(&tag);
  ASSERT_TRUE(next());
  const grpc::Slice list_services(std::string("\x3a\x01*"));  // field 7, "*"
  call->Write(grpc::ByteBuffer(&list_services, 1), &tag);
  ASSERT_TRUE(next());
  grpc::ByteBuffer response;
  call->Read(&response, &tag);
  ASSERT_TRUE(next());
  std::vector<grpc::Slice> slices;
  ASSERT_TRUE(response.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  for (const char* name : {"tidegate.v1.GenerationService", "tidegate.v1.ModelService",
                           "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}) {
    EXPECT_NE(bytes.find(name), std::string::npos) << name;
  }
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, &tag);
  queue.Next(&tag, &ok);
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

TEST_F(ServerTest, DrainingLetsStreamsFinishAndRefusesNewOnes) {
  v1::GenerateRequest request;
  request.set_text("a");
  grpc::ClientContext context;
  const auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const uint64_t id = engine_->WaitForRequest();

  std::thread shutdown(
      [this] { server_->Shutdown(steady_clock::now() + std::chrono::minutes(1)); });
  engine_->WaitForDrain();
  EXPECT_EQ(Health("readiness"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Health("liveness"), HealthCheckResponse::SERVING);
  grpc::ClientContext refused_context;
  const auto refused = generation_->Generate(&refused_context, request);
  v1::GenerateResponse none;
  EXPECT_FALSE(refused->Read(&none));
  const grpc::Status status = refused->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "DRAINING");

  engine_->Emit(id, "end", {1});
  engine_->End(id, FinishReason::kMaxTokens);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), "end");
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.finished().finish_reason(), v1::FINISH_REASON_MAX_TOKENS);
  EXPECT_TRUE(reader->Finish().ok());
  shutdown.join();
}

TEST_F(ServerTest, AtTheDrainDeadlineStreamsKeepTheirText) {
  v1::GenerateRequest request;
  request.set_text("a");
  grpc::ClientContext context;
  const auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  engine_->Emit(engine_->WaitForRequest(), "so far", {1});
  std::thread shutdown([this] { server_->Shutdown(steady_clock::now()); });
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.delta().text(), "so far");
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_EQ(response.finished().finish_reason(), v1::FINISH_REASON_DRAINING);
  EXPECT_TRUE(reader->Finish().ok());
  shutdown.join();
}

TEST_F(ServerTest, AHealthWatchDoesNotHoldTheShutdown) {
  const auto stub = grpc::health::v1::Health::NewStub(channel_);
  grpc::ClientContext context;
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("readiness");
  const auto watch = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  std::thread shutdown([this] { server_->Shutdown(steady_clock::now()); });
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  while (watch->Read(&response)) {
  }
  EXPECT_FALSE(watch->Finish().ok());
  shutdown.join();
}

TEST_F(ServerTest, ASecondServerOnTheAddressIsRefused) {
  ServerOptions options;
  options.listen = server_->address();
  const auto second = Server::Start(options, *engine_, nullptr);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(second.status().message().find(options.listen), absl::string_view::npos);
}

TEST_F(ServerTest, ListensOnAUnixSocket) {
  TempDir folder;
  ServerOptions options;
  options.listen = "unix:" + folder.File("engine.sock");
  const auto server = Server::Start(options, *engine_, nullptr);
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ((*server)->port(), 0);
  // A second one does not take the socket away.
  EXPECT_EQ(Server::Start(options, *engine_, nullptr).status().code(),
            absl::StatusCode::kUnavailable);
  const auto stub = v1::ModelService::NewStub(
      grpc::CreateChannel((*server)->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  v1::ListModelsResponse response;
  EXPECT_TRUE(stub->ListModels(&context, v1::ListModelsRequest(), &response).ok());
}

}  // namespace tidegate::server_test
