// More connections than the processes have descriptors: the ports go on working.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

#include "grpc/health/v1/health.grpc.pb.h"
#include "tests/support/daemons.h"
#include "tests/support/raw_http2.h"

namespace tidegate::descriptors_test {

using grpc::health::v1::HealthCheckResponse;

constexpr int kDescriptors = 96;
constexpr int kConnections = 200;  // twice as many, and less than a listening queue

// `command` under a hard limit of descriptors.
std::vector<std::string> WithFewDescriptors(const std::vector<std::string>& command) {
  std::vector<std::string> limited = {
      "sh", "-c", absl::StrCat("ulimit -n ", kDescriptors, " && exec \"$@\""), "sh"};
  limited.insert(limited.end(), command.begin(), command.end());
  return limited;
}

// A client of its own for each question: what matters is whether new ones are served.
bool Alive(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto stub = grpc::health::v1::Health::NewStub(
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("liveness");
  HealthCheckResponse response;
  return stub->Check(&context, request, &response).ok() &&
         response.status() == HealthCheckResponse::SERVING;
}

UniqueFd ConnectUnix(const std::string& path) {
  UniqueFd fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_un name = {};
  name.sun_family = AF_UNIX;
  std::memcpy(name.sun_path, path.data(), path.size());
  if (connect(fd.get(), reinterpret_cast<const sockaddr*>(&name), sizeof(name)) != 0) fd.reset();
  return fd;
}

TEST(Descriptors, TheEnginesPortOutlivesMoreConnectionsThanDescriptors) {
  TempDir folder;
  ChildProcess engine(
      WithFewDescriptors({BinaryPath("tidegate-engine"), "--store-socket", folder.File("none.sock"),
                          "--listen", "127.0.0.1:0", "--port-file", folder.File("port"),
                          "--metrics-listen", "off"}),
      folder.File("log"));
  ASSERT_TRUE(WaitUntil([&] { return FileExists(folder.File("port")) || !engine.running(); },
                        kDaemonLimit));
  ASSERT_TRUE(engine.running()) << engine.Output();
  const std::string text = ReadFileOrDie(folder.File("port"));
  const auto port = static_cast<uint16_t>(std::stoi(text));
  const std::string address = absl::StrCat("127.0.0.1:", port);
  {
    std::vector<UniqueFd> idle;
    for (int i = 0; i < kConnections; ++i) {
      idle.push_back(ConnectLoopback(port));
      ASSERT_TRUE(idle.back().valid()) << i;
    }
    EXPECT_TRUE(Alive(address)) << engine.Output();
  }
  EXPECT_TRUE(Alive(address)) << engine.Output();
}

TEST(Descriptors, TheStoresSocketOutlivesMoreConnectionsThanDescriptors) {
  TempDir folder;
  RegionFolder region;
  ASSERT_NO_FATAL_FAILURE(PackDemoModel(folder.File("demo.tgpack")));
  ChildProcess store(
      WithFewDescriptors({BinaryPath("tidegate-store"), "--pack", folder.File("demo.tgpack"),
                          "--memory-budget", kSmallBudget, "--socket", folder.File("s"),
                          "--region-dir", region.path(), "--metrics-listen", "off"}),
      folder.File("log"));
  const std::string path = folder.File("s.grpc"), address = "unix:" + path;
  ASSERT_TRUE(WaitUntil([&] { return Alive(address) || !store.running(); }, kDaemonLimit));
  {
    std::vector<UniqueFd> idle;
    for (int i = 0; i < kConnections; ++i) idle.push_back(ConnectUnix(path));
    EXPECT_TRUE(Alive(address)) << store.Output();
  }
  EXPECT_TRUE(Alive(address)) << store.Output();
}

}  // namespace tidegate::descriptors_test
