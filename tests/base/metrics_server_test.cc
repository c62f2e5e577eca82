#include "base/metrics_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "prometheus/counter.h"
#include "prometheus/registry.h"
#include "tests/support/http_client.h"
#include "tests/support/http_get.h"
#include "tests/support/metrics_text.h"

namespace tidegate::metrics_server_test {

using ::testing::Contains;
using ::testing::HasSubstr;

constexpr char kFreePort[] = "127.0.0.1:0";

class FixedGauge : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override {
    prometheus::ClientMetric metric;
    metric.gauge.value = 42;
    return {{"test_fixed", "A fixed value.", prometheus::MetricType::Gauge, {metric}}};
  }
};

TEST(MetricsServerTest, ServesWhatIsRegistered) {
  auto server = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto registry = std::make_shared<prometheus::Registry>();
  (*server)->RegisterCollectable(registry);
  auto& counter = prometheus::BuildCounter()
                      .Name("test_events_total")
                      .Help("Events.")
                      .Register(*registry)
                      .Add({{"kind", "a\"b"}});
  counter.Increment(3);
  (*server)->RegisterCollectable(std::make_shared<FixedGauge>());

  const auto page = HttpGet((*server)->port(), "/metrics");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->code, 200);
  EXPECT_THAT(page->headers, HasSubstr("Content-Type: text/plain; version=0.0.4"));
  EXPECT_EQ(SampleValue(page->body, "test_events_total{kind=\"a\\\"b\"}"), 3);
  EXPECT_EQ(SampleValue(page->body, "test_fixed"), 42);
  EXPECT_THAT(MetricsShape(page->body), Contains("test_events_total counter kind"));
  EXPECT_THAT(page->body, HasSubstr("# HELP test_events_total Events."));
}

TEST(MetricsServerTest, RenderGivesThePageOfAScrape) {
  auto server = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(server.ok()) << server.status();
  (*server)->RegisterCollectable(std::make_shared<FixedGauge>());
  EXPECT_EQ(SampleValue((*server)->Render(), "test_fixed"), 42);
}

TEST(MetricsServerTest, BuildInfoCarriesTheExtraLabels) {
  auto server = MetricsServer::Create(kFreePort, {{"simd", "AVX2"}});
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string page = (*server)->Render();
  EXPECT_THAT(MetricsShape(page),
              Contains("tidegate_build_info gauge compiler,revision,simd,version"));
  EXPECT_THAT(page, HasSubstr("simd=\"AVX2\""));
}

TEST(MetricsServerTest, ProcessMetricsAreThere) {
  auto server = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string page = (*server)->Render();
  EXPECT_GT(SampleValue(page, "process_resident_memory_bytes").value_or(0), 1 << 20);
}

TEST(MetricsServerTest, OtherPathsAreNotFound) {
  auto server = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto page = HttpGet((*server)->port(), "/etc/passwd");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_EQ(page->code, 404);
}

TEST(MetricsServerTest, PortZeroTakesAFreePortAndTellsIt) {
  auto first = MetricsServer::Create(kFreePort);
  auto second = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE((*first)->port(), 0);
  EXPECT_NE((*first)->port(), (*second)->port());
  EXPECT_EQ((*first)->address(), absl::StrCat("127.0.0.1:", (*first)->port()));
}

TEST(MetricsServerTest, TakenPortIsUnavailableAndNamed) {
  auto first = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = MetricsServer::Create((*first)->address());
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
}

TEST(MetricsServerTest, PortIsFreeAgainAfterDestruction) {
  auto first = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = (*first)->address();
  first->reset();
  EXPECT_TRUE(MetricsServer::Create(address).ok());
}

TEST(MetricsServerTest, ListensOnIpv6AndOnNames) {
  for (const std::string host : {"[::1]", "localhost"}) {
    auto server = MetricsServer::Create(host + ":0");
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_EQ((*server)->address(), absl::StrCat(host, ":", (*server)->port()));
    if (host == "localhost") continue;
    auto client = HttpClient::Connect({"::1", (*server)->port(), ""});
    ASSERT_TRUE(client.ok()) << client.status();
    ASSERT_TRUE(client->Send("GET /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\n").ok());
    const auto page = client->Read();
    ASSERT_TRUE(page.ok()) << page.status();
    EXPECT_EQ(page->code, 200);
    EXPECT_THAT(page->body, HasSubstr("tidegate_build_info"));
  }
}

TEST(MetricsServerTest, IdlePeersDoNotDelayScrapes) {
  auto server = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(server.ok()) << server.status();
  std::vector<HttpClient> idle;
  for (int i = 0; i < 100; ++i) {
    auto client = HttpClient::Connect({"127.0.0.1", (*server)->port(), ""});
    ASSERT_TRUE(client.ok()) << client.status();
    idle.push_back(std::move(client).value());
  }
  const auto page = HttpGet((*server)->port(), "/metrics");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(page->headers, HasSubstr("\r\nConnection: close"));
  // Had the scrape waited for its peers' time-outs, none of them would be here any more.
  EXPECT_GE(SampleValue(page->body, "tidegate_http_connections").value_or(0), 50);
  EXPECT_GE(SampleValue(page->body, "tidegate_http_connections_shed_total").value_or(0), 30);
}

TEST(MetricsServerTest, HeadGivesTheLengthOfThePage) {
  auto server = MetricsServer::Create(kFreePort);
  ASSERT_TRUE(server.ok()) << server.status();
  auto client = HttpClient::Connect({"127.0.0.1", (*server)->port(), ""});
  ASSERT_TRUE(client.ok()) << client.status();
  ASSERT_TRUE(client->Send("HEAD /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok());
  const auto head = client->Read(true);
  ASSERT_TRUE(head.ok()) << head.status();
  EXPECT_EQ(head->code, 200);
  EXPECT_GT(std::stoi(head->Header("Content-Length")), 100);
  EXPECT_EQ(client->ReadToEnd().value_or("?"), "");
}

TEST(MetricsServerTest, MalformedAddressesAreNamed) {
  for (const std::string address :
       {"", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:9464s",
        "999.1.1.1:0", "127.0.0.1:1,127.0.0.1:2", "[]:1", "::1:0", "127.0.0.1:-1", "unix:"}) {
    const auto server = MetricsServer::Create(address);
    ASSERT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << address;
    EXPECT_THAT(std::string(server.status().message()), HasSubstr(absl::StrCat("'", address)));
  }
}

TEST(MetricsServerTest, AddressOfNobodyIsUnavailable) {
  // TEST-NET-1 (RFC 5737): never an address of this machine.
  const auto server = MetricsServer::Create("192.0.2.1:0");
  EXPECT_EQ(server.status().code(), absl::StatusCode::kUnavailable) << server.status();
}

}  // namespace tidegate::metrics_server_test
