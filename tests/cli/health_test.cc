#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/tls.h"
#include "tests/cli/command_line.h"
#include "tests/support/server_fixture.h"
#include "tests/support/test_certificates.h"

namespace tidegate::health_test {

using testing::HasSubstr;

class HealthTest : public ServerFixture {
 protected:
  absl::Status Health(const std::string& service) {
    return RunCommand(AddHealthCommand,
                      {"health", "--server", server_->address(), "--service", service});
  }
};

TEST_F(HealthTest, FollowsTheServer) {
  EXPECT_TRUE(Health("readiness").ok());
  EXPECT_TRUE(Health("liveness").ok());
  EXPECT_TRUE(Health("tidegate.v1.GenerationService").ok());
  engine_->SetAttached(false);
  EXPECT_TRUE(WaitUntil([&] { return !Health("readiness").ok(); }, std::chrono::seconds(10)));
  EXPECT_THAT(std::string(Health("readiness").message()), HasSubstr("NOT_SERVING"));
  EXPECT_TRUE(Health("liveness").ok());
}

TEST_F(HealthTest, UnknownNamesAreErrors) {
  EXPECT_EQ(Health("nothing").code(), absl::StatusCode::kNotFound);
}

class HealthOverTlsTest : public HealthTest {
 protected:
  void Adjust(ServerOptions& options) override {
    const TestCertificate server = authority_.Sign();
    const TestCertificate client = authority_.Sign({.common_name = "prober"});
    WriteFileOrDie(folder_.File("ca.pem"), authority_.pem());
    WriteFileOrDie(folder_.File("server.pem"), server.pem);
    WriteFileOrDie(folder_.File("server.key"), server.key_pem);
    WriteFileOrDie(folder_.File("client.pem"), client.pem + client.key_pem);
    auto tls = TlsServer::Create({.certificate_file = folder_.File("server.pem"),
                                  .key_file = folder_.File("server.key"),
                                  .client_ca_file = folder_.File("ca.pem")});
    ASSERT_TRUE(tls.ok()) << tls.status();
    options.tls = *std::move(tls);
    options.local_socket = folder_.File("local.sock");
  }
  absl::Status Ask(const std::string& server, std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"health", "--server", server, "--service", "liveness"});
    return RunCommand(AddHealthCommand, flags);
  }

  TempDir folder_;
  TestAuthority authority_;
};

TEST_F(HealthOverTlsTest, TakesAuthoritiesAndACertificate) {
  const std::string ca = folder_.File("ca.pem"), client = folder_.File("client.pem");
  const std::string server = server_->address();
  EXPECT_TRUE(Ask(server, {"--tls-ca", ca, "--tls-cert", client}).ok());
  EXPECT_FALSE(Ask(server, {"--tls-ca", ca, "--tls-cert", client, "--tls-server-name", "a"}).ok());
  EXPECT_FALSE(Ask(server, {"--tls-cert", client}).ok())
      << "the system does not know the authority";
  EXPECT_FALSE(Ask(server, {"--tls-ca", ca}).ok());
  EXPECT_FALSE(Ask(server, {}).ok());
  EXPECT_TRUE(Ask("unix:" + folder_.File("local.sock"), {}).ok()) << "in clear, for this user";
  struct stat info = {};
  ASSERT_EQ(stat(folder_.File("local.sock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST(Health, NobodyThere) {
  EXPECT_FALSE(RunCommand(AddHealthCommand, {"health", "--server", "unix:/nonexistent/s"}).ok());
}

}  // namespace tidegate::health_test
