// TLS of the gate and of the HTTP server over real sockets, with certificates made here; the same
// through gRPC: tests/server/tls_test.cc.
#include "base/tls.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <string>
#include <utility>
#include <vector>

#include "base/connection_gate.h"
#include "base/http_server.h"
#include "base/metrics_tls.h"
#include "base/mutex.h"
#include "base/server_pair.h"
#include "prometheus/metric_family.h"
#include "tests/support/raw_http2.h"
#include "tests/support/test_certificates.h"
#include "tests/support/test_support.h"
#include "tests/support/tls_client.h"

namespace tidegate::tls_test {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr seconds kLimit(20);
constexpr milliseconds kNoLooks = std::chrono::hours(1);

class TlsTest : public testing::Test {
 protected:
  // The files of a server, in place of those that were there.
  void Put(const TestCertificate& certificate) {
    Replace("cert.pem", certificate.pem);
    Replace("key.pem", certificate.key_pem);
  }
  void Replace(const std::string& name, const std::string& text) {
    WriteFileOrDie(folder_.File("new"), text);
    ASSERT_EQ(rename(folder_.File("new").c_str(), folder_.File(name).c_str()), 0);
  }
  TlsOptions Options() const {
    return {.certificate_file = folder_.File("cert.pem"), .key_file = folder_.File("key.pem")};
  }
  void Make(const TlsOptions& options, milliseconds look_interval = kNoLooks) {
    auto tls = TlsServer::Create(options, look_interval);
    ASSERT_TRUE(tls.ok()) << tls.status();
    tls_ = *std::move(tls);
  }
  std::string WhyNot(const TlsOptions& options) {
    return std::string(TlsServer::Create(options, kNoLooks).status().message());
  }

  TempDir folder_;
  TestAuthority authority_;
  std::shared_ptr<TlsServer> tls_;
};

TEST_F(TlsTest, FilesThatDoNotDoAreNamed) {
  const TestCertificate mine = authority_.Sign(), other = authority_.Sign();
  Put(mine);
  TlsOptions options = Options();
  options.key_file = folder_.File("none");
  EXPECT_THAT(WhyNot(options), AllOf(HasSubstr("--tls-key"), HasSubstr("none")));
  Replace("key.pem", other.key_pem);
  EXPECT_THAT(WhyNot(Options()), HasSubstr("it is not the key of the first certificate"));
  Replace("key.pem", mine.pem);
  EXPECT_THAT(WhyNot(Options()), HasSubstr("no private key"));
  Replace("cert.pem", "hello");
  EXPECT_THAT(WhyNot(Options()), AllOf(HasSubstr("--tls-cert"), HasSubstr("no certificate in it")));
  Replace("cert.pem", mine.pem + mine.pem.substr(0, mine.pem.size() / 2));
  EXPECT_THAT(WhyNot(Options()), HasSubstr("a certificate is broken"));
  Put(mine);
  options = Options();
  options.client_ca_file = folder_.File("key.pem");
  EXPECT_THAT(WhyNot(options), HasSubstr("--tls-client-ca"));
}

TEST_F(TlsTest, AReloadThatFailsKeepsWhatThereIs) {
  Put(authority_.Sign());
  Make(Options());
  const int64_t expiry = tls_->stats().expiry;
  EXPECT_GT(expiry, time(nullptr));
  Put(authority_.Sign({.expired = true}));
  EXPECT_TRUE(tls_->Reload().ok());
  EXPECT_LT(tls_->stats().expiry, time(nullptr));
  Replace("key.pem", "");
  EXPECT_THAT(std::string(tls_->Reload().message()), HasSubstr("--tls-key"));
  EXPECT_LT(tls_->stats().expiry, time(nullptr));
  EXPECT_EQ(tls_->stats().reloads, 1u);
  EXPECT_EQ(tls_->stats().reload_failures, 1u);
  for (const prometheus::MetricFamily& family : TlsMetrics(tls_).Collect()) {
    const prometheus::ClientMetric& metric = family.metric.at(0);
    if (family.name == "tidegate_tls_certificate_expiry_timestamp_seconds") {
      EXPECT_EQ(metric.gauge.value, static_cast<double>(tls_->stats().expiry));
    } else if (family.name == "tidegate_tls_certificate_reload_failures_total") {
      EXPECT_EQ(metric.counter.value, 1);
    }
  }
}

// As Kubernetes does it: a link to a folder is swapped.
TEST_F(TlsTest, FilesAreReadAgainWhenTheyChange) {
  const auto fill = [&](const std::string& name, const TestCertificate& certificate) {
    mkdir(folder_.File(name).c_str(), 0700);
    WriteFileOrDie(folder_.File(name + "/cert.pem"), certificate.pem);
    WriteFileOrDie(folder_.File(name + "/key.pem"), certificate.key_pem);
  };
  fill("old", authority_.Sign());
  fill("new", authority_.Sign());
  ASSERT_EQ(symlink("old", folder_.File("data").c_str()), 0);
  Make(
      {.certificate_file = folder_.File("data/cert.pem"), .key_file = folder_.File("data/key.pem")},
      milliseconds(2));
  ASSERT_EQ(symlink("new", folder_.File("next").c_str()), 0);
  ASSERT_EQ(rename(folder_.File("next").c_str(), folder_.File("data").c_str()), 0);
  EXPECT_TRUE(WaitUntil([&] { return tls_->stats().reloads == 1; }, kLimit));
  WriteFileOrDie(folder_.File("new/key.pem"), "");
  EXPECT_TRUE(WaitUntil([&] { return tls_->stats().reload_failures == 1; }, kLimit));
}

// The gate with TLS, and what it hands over.
class TlsGateTest : public TlsTest {
 protected:
  void Start(const TlsOptions& options) {
    Make(options);
    auto gate = ConnectionGate::Start(
        *ParseListenAddress("127.0.0.1:0"), {},
        [this](int fd) {
          fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
          MutexLock lock(mutex_);
          handed_over_.emplace_back(fd);
        },
        stats_, tls_);
    ASSERT_TRUE(gate.ok()) << gate.status();
    gate_ = *std::move(gate);
  }
  void StartWithClientCertificates() {
    Put(authority_.Sign());
    Replace("ca.pem", authority_.pem());
    TlsOptions options = Options();
    options.client_ca_file = folder_.File("ca.pem");
    Start(options);
  }
  absl::StatusOr<TlsClient> Connect(const TlsClientOptions& options = {}) {
    return TlsClient::Connect(gate_->address().port, options);
  }
  // The server's end of the newest connection, once as many have sent their prefaces.
  int Server(size_t count = 1) {
    const auto come = [&] {
      MutexLock lock(mutex_);
      return handed_over_.size() == count;
    };
    EXPECT_TRUE(WaitUntil(come, kLimit));
    MutexLock lock(mutex_);
    return handed_over_.back().get();
  }
  // Who the server takes the client for.
  static std::string ClientOf(int server) {
    sockaddr_un address = {};
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(getpeername(server, reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    const std::string name(address.sun_path + 1, bytes - offsetof(sockaddr_un, sun_path) - 1);
    return ClientOfPeer("unix-abstract:" + name);
  }
  uint64_t Failed() const { return stats_->closed[static_cast<size_t>(CloseReason::kTls)]; }
  static std::string Receive(int fd, size_t bytes) {
    std::string got(bytes, '\0');
    EXPECT_EQ(recv(fd, got.data(), bytes, MSG_WAITALL), static_cast<ssize_t>(bytes));
    return got;
  }

  const std::shared_ptr<GateStats> stats_ = std::make_shared<GateStats>();
  Mutex mutex_;
  std::vector<UniqueFd> handed_over_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<ConnectionGate> gate_;
};

TEST_F(TlsGateTest, PassesClearTextOnInBothDirections) {
  Put(authority_.Sign());
  Start(Options());
  auto client = Connect({.ca_pem = authority_.pem()});
  ASSERT_TRUE(client.ok()) << client.status();
  const std::string request =
      RawPreface() + GrpcHeaders(1, "/a/B") + GrpcMessage(1, std::string(60000, 'x'));
  ASSERT_TRUE(client->Send(request).ok());
  const int server = Server();
  EXPECT_EQ(Receive(server, request.size()), request);
  const std::string answer = RawFrame(1, 4, 1, "ok") + RawFrame(0, 1, 1, std::string(50000, 'y'));
  SendAll(server, answer);
  EXPECT_EQ(client->Read(answer.size()).value_or(""), answer);
  shutdown(server, SHUT_RDWR);
  EXPECT_TRUE(absl::IsOutOfRange(client->Read(1).status())) << "a goodbye";
  EXPECT_EQ(tls_->stats().handshakes, 1u);
}

TEST_F(TlsGateTest, ConnectionsThatAreOpenOutliveAReload) {
  Put(authority_.Sign({.common_name = "old"}));
  Start(Options());
  auto before = Connect();
  ASSERT_TRUE(before.ok() && before->Send(RawPreface()).ok());
  const int server = Server();
  Put(authority_.Sign({.common_name = "new"}));
  ASSERT_TRUE(tls_->Reload().ok());
  auto after = Connect();
  ASSERT_TRUE(after.ok());
  EXPECT_EQ(before->ServerName(), "old");
  EXPECT_EQ(after->ServerName(), "new");
  SendAll(server, RawFrame(7, 0, 0, "goodbye!"));
  EXPECT_EQ(before->Read(17).value_or(""), RawFrame(7, 0, 0, "goodbye!"));
}

TEST_F(TlsGateTest, OldVersionsAndOtherProtocolsAreRefused) {
  Put(authority_.Sign());
  Start(Options());
  EXPECT_FALSE(Connect({.only_tls11 = true}).ok());
  EXPECT_FALSE(Connect({.alpn = "http/1.1"}).ok());
  auto none = Connect({.alpn = ""});
  EXPECT_TRUE(!none.ok() || !none->Read(1).ok());
  EXPECT_TRUE(WaitUntil([&] { return Failed() == 3; }, kLimit));
  EXPECT_EQ(tls_->stats().handshake_failures, 3u);
  EXPECT_EQ(tls_->stats().handshakes, 0u);
}

TEST_F(TlsGateTest, WhoSpeaksPlaintextIsToldSo) {
  Put(authority_.Sign());
  Start(Options());
  for (const std::string& request : {std::string("GET / HTTP/1.1\r\n\r\n"), RawPreface()}) {
    const UniqueFd client = ConnectLoopback(gate_->address().port);
    SendAll(client.get(), request);
    std::string answer(256, '\0');
    const ssize_t got = recv(client.get(), answer.data(), answer.size(), 0);
    ASSERT_GT(got, 0);
    answer.resize(static_cast<size_t>(got));
    EXPECT_THAT(answer, HasSubstr("this port speaks TLS only"));
    EXPECT_TRUE(WaitForClose(client.get(), 10000));
  }
  EXPECT_TRUE(WaitUntil([&] { return Failed() == 2; }, kLimit));
}

TEST_F(TlsGateTest, AHandshakeHasTheTimeOfAConnection) {
  Put(authority_.Sign());
  Make(Options());
  GateLimits limits;
  limits.handshake_timeout = milliseconds(1);
  auto gate = ConnectionGate::Start(
      *ParseListenAddress("127.0.0.1:0"), limits, [](int) {}, stats_, tls_);
  ASSERT_TRUE(gate.ok());
  const UniqueFd silent = ConnectLoopback((*gate)->address().port);
  EXPECT_TRUE(WaitForClose(silent.get(), 10000));
  EXPECT_EQ(stats_->closed[static_cast<size_t>(CloseReason::kHandshakeTimeout)], 1u);
}

TEST_F(TlsGateTest, ClientsNeedACertificateOfTheAuthority) {
  StartWithClientCertificates();
  const TestAuthority stranger;
  for (const TestCertificate& certificate :
       {TestCertificate{}, stranger.Sign(), authority_.Sign({.expired = true})}) {
    auto client = Connect({.certificate = certificate});
    EXPECT_TRUE(!client.ok() || !client->Read(1).ok());
  }
  EXPECT_TRUE(WaitUntil([&] { return Failed() == 3; }, kLimit));
  EXPECT_TRUE(Connect({.certificate = authority_.Sign()}).ok());
}

TEST_F(TlsGateTest, TheClientIsWhoItsCertificateSays) {
  StartWithClientCertificates();
  size_t count = 0;
  const auto name = [&](const CertificateWish& wish) {
    auto client = Connect({.certificate = authority_.Sign(wish)});
    EXPECT_TRUE(client.ok() && client->Send(RawPreface()).ok());
    return ClientOf(Server(++count));
  };
  EXPECT_EQ(name({.names = "DNS:a.example,URI:spiffe://prod/batch"}), "uri:spiffe://prod/batch");
  EXPECT_EQ(name({.names = "IP:10.0.0.1,DNS:a.example"}), "dns:a.example");
  EXPECT_EQ(name({.common_name = "alice", .names = ""}), "cn:alice");
  const std::string odd = name({.common_name = "alice and bob", .names = ""});
  EXPECT_THAT(odd, StartsWith("cn-"));
  EXPECT_EQ(odd.size(), 3u + 32);
  const std::string longer = name({.names = "URI:" + std::string(70, 'a')});
  EXPECT_THAT(longer, StartsWith("uri-"));
}

// The HTTP server over TLS.
class TlsHttpTest : public TlsTest {
 protected:
  void Start(const TlsOptions& options) {
    Make(options);
    HttpServerOptions http;
    http.tls = tls_;
    auto server = HttpServer::Start({"127.0.0.1", 0, ""},
                                    {{"POST", "/echo",
                                      [](const HttpRequest& request, HttpReply reply) {
                                        reply.Send({.body = request.peer + " " + request.body});
                                      }},
                                     {"GET", "/big",
                                      [](const HttpRequest&, HttpReply reply) {
                                        reply.Send({.body = std::string(3 << 20, 'b')});
                                      }}},
                                    http);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  absl::StatusOr<TlsClient> Connect(TlsClientOptions options = {}) {
    options.alpn = "http/1.1";
    return TlsClient::Connect(server_->address().port, options);
  }
  static std::string Ask(TlsClient& client, const std::string& request) {
    EXPECT_TRUE(client.Send(request).ok());
    const auto answer = client.ReadToEnd();
    EXPECT_TRUE(answer.ok()) << answer.status();
    return answer.value_or("");
  }

  std::unique_ptr<HttpServer> server_;
};

TEST_F(TlsHttpTest, AnswersRequestsOfAllSizes) {
  Put(authority_.Sign());
  Start(Options());
  auto client = Connect({.ca_pem = authority_.pem()});
  ASSERT_TRUE(client.ok()) << client.status();
  const std::string body(200 << 10, 'x');
  const std::string head =
      "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ";
  const std::string answer = Ask(*client, head + std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
  EXPECT_TRUE(answer.ends_with("127.0.0.1 " + body));
  auto other = Connect();
  ASSERT_TRUE(other.ok());
  EXPECT_GT(Ask(*other, "GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").size(),
            size_t{3} << 20);
}

TEST_F(TlsHttpTest, KnowsClientsByTheirCertificates) {
  Put(authority_.Sign());
  Replace("ca.pem", authority_.pem());
  TlsOptions options = Options();
  options.client_ca_file = folder_.File("ca.pem");
  Start(options);
  auto client = Connect({.certificate = authority_.Sign({.names = "DNS:a.example"})});
  ASSERT_TRUE(client.ok());
  EXPECT_THAT(Ask(*client,
                  "POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                  "Content-Length: 2\r\n\r\nhi"),
              HasSubstr("dns:a.example hi"));
  auto nobody = Connect();
  EXPECT_TRUE(!nobody.ok() || !nobody->Read(1).ok());
}

TEST_F(TlsHttpTest, WhoSpeaksPlaintextIsToldSo) {
  Put(authority_.Sign());
  Start(Options());
  const UniqueFd client = ConnectLoopback(server_->address().port);
  SendAll(client.get(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  char answer[256] = "";
  EXPECT_GT(recv(client.get(), answer, sizeof(answer) - 1, 0), 0);
  EXPECT_THAT(answer, AllOf(StartsWith("HTTP/1.1 400"), HasSubstr("this port speaks TLS only")));
}

}  // namespace tidegate::tls_test
