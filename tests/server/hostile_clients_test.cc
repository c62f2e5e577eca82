// Clients that mean harm, against a real gRPC server: what they may take, and that others are
// served meanwhile. Frames are made by hand, since no library would send them.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <string>
#include <thread>

#include "tests/support/error_details.h"
#include "tests/support/raw_http2.h"
#include "tests/support/server_fixture.h"

namespace tidegate::hostile_clients_test {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr char kGenerate[] = "/tidegate.v1.GenerationService/Generate";

std::string OneTokenRequest() {
  v1::GenerateRequest request;
  request.set_text("a");
  request.set_max_tokens(1);
  return request.SerializeAsString();
}

class HostileClientsTest : public ServerFixture {
 protected:
  UniqueFd Connect(uint32_t window = 65535) {
    UniqueFd fd = ConnectLoopback(static_cast<uint16_t>(server_->port()));
    EXPECT_TRUE(fd.valid() && SendAll(fd.get(), RawPreface(window)));
    return fd;
  }
  grpc::Status ListModels() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + seconds(20));
    v1::ListModelsResponse response;
    return models_->ListModels(&context, {}, &response);
  }
};

// Calls that are cancelled in the same breath, without end, from several connections at once.
TEST_F(HostileClientsTest, RapidResetLeavesOthersServedAndTheServerSmall) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> attackers;
  for (const char* path : {kGenerate, kGenerate, "/no.such.Service/Method"}) {
    attackers.emplace_back([&, path] {
      const UniqueFd fd = Connect();
      for (uint32_t stream = 1; !stop; stream += 2) {
        const std::string call =
            GrpcHeaders(stream, path) + GrpcMessage(stream, OneTokenRequest()) + RstStream(stream);
        size_t sent = 0;
        while (!stop && sent < call.size()) {
          const ssize_t more =
              send(fd.get(), call.data() + sent, call.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
          if (more > 0) sent += static_cast<size_t>(more);
          if (more < 0) std::this_thread::yield();
        }
      }
    });
  }
  const auto stats = server_->connection_stats();
  ASSERT_TRUE(WaitUntil([&] { return stats->throttled == 3; }, seconds(20)));
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(ListModels().ok());
  EXPECT_LE(stats->unanswered_calls, 3 * CallWindow::kSharePlaces + 1);
  stop = true;
  for (std::thread& attacker : attackers) attacker.join();
  EXPECT_TRUE(WaitUntil([&] { return stats->unanswered_calls == 0; }, seconds(20)));
  EXPECT_TRUE(MetricAppears("tidegate_open_streams{model=\"tiny\"} 0"));
}

class UnreadStreamsTest : public HostileClientsTest {
  void Adjust(ServerOptions& options) override { options.write_timeout = milliseconds(20); }
};

TEST_F(UnreadStreamsTest, FinishedStreamsThatNobodyReadsEnd) {
  const UniqueFd fd = Connect(/*window=*/0);
  for (uint32_t stream = 1; stream < 20; stream += 2) {
    SendAll(fd.get(), GrpcHeaders(stream, kGenerate) + GrpcMessage(stream, OneTokenRequest()));
  }
  EXPECT_TRUE(
      MetricAppears("tidegate_streams_cut_total{model=\"tiny\",reason=\"write_timeout\"} 10"));
  EXPECT_TRUE(MetricAppears("tidegate_open_streams{model=\"tiny\"} 0"));
  EXPECT_TRUE(WaitUntil([&] { return engine_->Running().empty(); }, seconds(20)));
  EXPECT_TRUE(ListModels().ok());
}

TEST_F(UnreadStreamsTest, AStreamThatIsReadIsNotConcerned) {
  v1::GenerateRequest request;
  request.set_text("a");
  grpc::ClientContext context;
  const auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  const uint64_t id = engine_->WaitForRequest();
  std::this_thread::sleep_for(milliseconds(100));  // several times the limit, with nothing to write
  engine_->End(id, FinishReason::kMaxTokens);
  ASSERT_TRUE(reader->Read(&response));
  EXPECT_TRUE(reader->Finish().ok());
}

class FewStreamsTest : public HostileClientsTest {
  void Adjust(ServerOptions& options) override { options.max_open_streams = 1; }
};

TEST_F(FewStreamsTest, OneMoreStreamIsRefusedByName) {
  v1::GenerateRequest request;
  request.set_text("a");
  grpc::ClientContext context;
  const auto reader = generation_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(reader->Read(&response));
  grpc::ClientContext second_context;
  const auto second = generation_->Generate(&second_context, request);
  EXPECT_FALSE(second->Read(&response));
  const grpc::Status status = second->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(DetailOf<google::rpc::ErrorInfo>(status)->reason(), "TOO_MANY_STREAMS");
  EXPECT_TRUE(MetricAppears(
      "tidegate_requests_rejected_total{model=\"tiny\",reason=\"too_many_streams\"} 1"));
  engine_->End(engine_->WaitForRequest(), FinishReason::kMaxTokens);
  while (reader->Read(&response)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

}  // namespace tidegate::hostile_clients_test
