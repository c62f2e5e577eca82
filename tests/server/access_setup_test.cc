#include "server/access_setup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "prometheus/metric_family.h"
#include "server/metrics_access.h"
#include "tests/support/metrics_text.h"
#include "tests/support/test_support.h"

namespace tidegate::access_setup_test {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(ExposureTest, NothingToSayOfWhatIsClosed) {
  EXPECT_EQ(ExposureOf({{"--listen", "127.0.0.1:1"}, {"--metrics-listen", ""}}, false), "");
  EXPECT_EQ(ExposureOf({{"--listen", "0.0.0.0:1", true}}, true), "");
}

TEST(ExposureTest, NamesThePortsAndWhatIsMissing) {
  const std::string both =
      ExposureOf({{"--listen", "0.0.0.0:1"}, {"--metrics-listen", "[::]:2", true}}, false);
  EXPECT_THAT(both, HasSubstr("--listen 0.0.0.0:1 without TLS and --metrics-listen [::]:2"));
  EXPECT_THAT(both, HasSubstr("--tls-cert and --access-keys"));
  const std::string no_tls = ExposureOf({{"--listen", "0.0.0.0:1"}}, true);
  EXPECT_THAT(no_tls, HasSubstr("use --tls-cert, or"));
  const std::string no_keys = ExposureOf({{"--listen", "0.0.0.0:1", true}}, false);
  EXPECT_THAT(no_keys, HasSubstr("use --access-keys, or"));
  EXPECT_THAT(no_keys, Not(HasSubstr("without TLS")));
}

TEST(ExposureTest, IsRefusedWhereThatIsWanted) {
  EXPECT_TRUE(CheckExposure({{"--listen", "0.0.0.0:1"}}, false, {}).ok());
  const absl::Status status =
      CheckExposure({{"--listen", "0.0.0.0:1"}}, false, {.refuse_insecure = true});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--refuse-insecure"));
  EXPECT_TRUE(CheckExposure({{"--listen", "[::1]:1"}}, false, {.refuse_insecure = true}).ok());
}

TEST(MetricsGuardTest, WantsAKeyWithTheScopeAndCountsWhoHasNone) {
  EXPECT_FALSE(MetricsGuard(std::make_shared<AccessControl>())(HttpRequest()).has_value());

  const TempDir folder;
  const std::string path = folder.File("keys");
  const auto bit = [](Scope scope) { return 1u << static_cast<uint32_t>(scope); };
  WriteFileOrDie(
      path,
      FormatKeyLine({.id = "prometheus",
                     .hash = HashOfKey("tg-p"),
                     .scopes = bit(Scope::kMetrics),
                     .limits = {.requests_per_minute = 1}}) +
          "\n" +
          FormatKeyLine({.id = "a", .hash = HashOfKey("tg-a"), .scopes = bit(Scope::kInfer)}));
  ASSERT_EQ(::chmod(path.c_str(), 0600), 0);
  const auto access = OpenAccess({.keys_file = path});
  ASSERT_TRUE(access.ok()) << access.status();
  const HttpGuard guard = MetricsGuard(*access);
  const auto code = [&guard](const std::string& authorization) {
    HttpRequest request;
    if (!authorization.empty()) request.headers = {{"Authorization", authorization}};
    const std::optional<HttpResponse> refusal = guard(request);
    return refusal.has_value() ? refusal->code : 200;
  };
  EXPECT_EQ(code(""), 401);
  EXPECT_EQ(code("Bearer tg-x"), 401);
  EXPECT_EQ(code("Bearer tg-a"), 403);
  EXPECT_EQ(code("Bearer tg-p"), 200);
  EXPECT_EQ(code("Bearer tg-p"), 429);

  const std::vector<prometheus::MetricFamily> families = AccessMetrics(*access, nullptr).Collect();
  ASSERT_EQ(families.size(), 2u);
  EXPECT_EQ(families[0].name, "tidegate_auth_failures_total");
  std::vector<double> values;
  for (const auto& metric : families[0].metric) values.push_back(metric.counter.value);
  EXPECT_THAT(values, testing::ElementsAre(1, 1, 0, 1));
}

TEST(OpenTest, NothingIsOpenedWhereNothingIsNamed) {
  EXPECT_EQ(OpenAuditLog({}).value(), nullptr);
  EXPECT_FALSE(OpenAccess({}).value()->keys_on());
  EXPECT_FALSE(OpenAuditLog({.audit_log = "/no/such/folder/x"}).ok());
  EXPECT_FALSE(OpenAccess({.keys_file = "/no/such/folder/x"}).ok());
}

}  // namespace tidegate::access_setup_test
