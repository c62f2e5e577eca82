// Who the engine takes a request's client for, through real sockets: the gate knows the address,
// gRPC sees a socket pair.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "base/live_listener.h"
#include "tests/support/raw_http2.h"
#include "tests/support/server_fixture.h"

namespace tidegate::client_address_test {

using std::chrono::seconds;

class ClientAddressTest : public ServerFixture {
 protected:
  UniqueFd ConnectFrom(const std::string& source) {
    UniqueFd fd = ConnectLoopback(static_cast<uint16_t>(server_->port()), source);
    EXPECT_TRUE(fd.valid() && SendAll(fd.get(), RawPreface())) << source;
    return fd;
  }
  // Asks on this connection, and says who the engine takes the client for.
  std::string Ask(const UniqueFd& fd, uint32_t stream = 1) {
    v1::GenerateRequest request;
    request.set_text("a");
    const uint64_t before = engine_->submitted();
    SendAll(fd.get(), GrpcHeaders(stream, "/tidegate.v1.GenerationService/Generate") +
                          GrpcMessage(stream, request.SerializeAsString()));
    EXPECT_TRUE(WaitUntil([&] { return engine_->submitted() > before; }, seconds(20)));
    return engine_->last_request().client;
  }
  // The same over the fixture's channel.
  std::string AskByChannel() {
    v1::GenerateRequest request;
    request.set_text("a");
    grpc::ClientContext context;
    const auto reader = generation_->Generate(&context, request);
    v1::GenerateResponse started;
    EXPECT_TRUE(reader->Read(&started));
    const std::string client = engine_->last_request().client;
    context.TryCancel();
    return client;
  }
};

TEST_F(ClientAddressTest, IsTheAddressOfTheConnectionWithoutThePort) {
  const UniqueFd first = ConnectFrom("127.0.0.1"), second = ConnectFrom("127.0.0.1"),
                 other = ConnectFrom("127.0.0.2");
  EXPECT_EQ(Ask(first), "127.0.0.1");
  EXPECT_EQ(Ask(other), "127.0.0.2");
  EXPECT_EQ(Ask(second), "127.0.0.1") << "another connection of the same client";
  EXPECT_EQ(Ask(other, 3), "127.0.0.2") << "another call";
  EXPECT_EQ(AskByChannel(), "127.0.0.1");
}

// The descriptors of a connection that has ended are used again.
TEST_F(ClientAddressTest, IsNotThatOfAnEarlierConnection) {
  const auto stats = server_->connection_stats();
  for (const char* source : {"127.0.0.2", "127.0.0.1", "127.0.0.3", "127.0.0.2"}) {
    const UniqueFd fd = ConnectFrom(source);
    EXPECT_EQ(Ask(fd), source);
    shutdown(fd.get(), SHUT_RDWR);
    ASSERT_TRUE(WaitUntil([&] { return stats->connections == 0; }, seconds(20)));
  }
}

TEST_F(ClientAddressTest, ChatHasItToo) {
  engine_->SetChatTemplate("{{ messages[0].content }}");
  v1::ChatRequest request;
  v1::ChatMessage* message = request.add_messages();
  message->set_role("user");
  message->set_content("a");
  grpc::ClientContext context;
  const auto reader = generation_->Chat(&context, request);
  v1::GenerateResponse started;
  EXPECT_TRUE(reader->Read(&started)) << reader->Finish().error_message();
  EXPECT_EQ(engine_->last_request().client, "127.0.0.1");
  context.TryCancel();
}

TEST_F(ClientAddressTest, MetricsDoNotNameIt) {
  const UniqueFd fd = ConnectFrom("127.0.0.7");
  EXPECT_EQ(Ask(fd), "127.0.0.7");
  EXPECT_EQ(metrics_server_->Render().find("127.0.0"), std::string::npos);
}

class UnixClientTest : public ClientAddressTest {
  void Adjust(ServerOptions& options) override { options.listen = "unix:" + folder_.File("s"); }
  TempDir folder_;
};

TEST_F(UnixClientTest, IsTheUser) { EXPECT_EQ(AskByChannel(), "uid:" + std::to_string(geteuid())); }

class Ipv6ClientTest : public ClientAddressTest {
 protected:
  void SetUp() override {
    if (!LiveListener::Create(*ParseListenAddress("[::1]:0")).ok()) GTEST_SKIP() << "no IPv6";
    ClientAddressTest::SetUp();
  }
  void TearDown() override {
    if (metrics_ != nullptr) ClientAddressTest::TearDown();
  }
  void Adjust(ServerOptions& options) override { options.listen = "[::]:0"; }
};

TEST_F(Ipv6ClientTest, IsTheIpv6AddressOrTheIpv4AddressInIt) {
  generation_ = v1::GenerationService::NewStub(grpc::CreateChannel(
      "[::1]:" + std::to_string(server_->port()), grpc::InsecureChannelCredentials()));
  EXPECT_EQ(AskByChannel(), "::1");
  EXPECT_EQ(Ask(ConnectFrom("127.0.0.2")), "127.0.0.2");
}

}  // namespace tidegate::client_address_test
