#include "server/served_model.h"

#include <gtest/gtest.h>

#include "server/status_mapping.h"
#include "tests/support/error_details.h"
#include "tests/support/fake_engine.h"

namespace tidegate {
namespace {

TEST(ServedModel, IsFoundByNameAliasAndDefault) {
  FakeEngine engine;
  const ServedModel model(engine, {"a", "b"});
  for (const char* name : {"", "tiny", "a", "b"}) {
    const auto info = model.Find(name);
    ASSERT_TRUE(info.ok()) << name;
    EXPECT_EQ(info->name, "tiny");
  }
}

TEST(ServedModel, OtherNamesAreNotFoundAndCut) {
  FakeEngine engine;
  const ServedModel model(engine, {});
  const absl::Status status = model.Find(std::string(10000, 'x')).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_LT(status.message().size(), 300u);
  const auto resource = DetailOf<google::rpc::ResourceInfo>(ToGrpcStatus(status, {}));
  ASSERT_TRUE(resource.has_value());
  EXPECT_EQ(resource->resource_name(), std::string(128, 'x'));
}

TEST(ServedModel, IsUnavailableUntilTheEngineIsAttached) {
  FakeEngine engine;
  engine.SetAttached(false);
  EXPECT_EQ(ServedModel(engine, {}).Find("tiny").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tidegate
