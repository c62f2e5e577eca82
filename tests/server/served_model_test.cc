#include "server/served_model.h"

#include <gtest/gtest.h>

#include "base/text.h"
#include "server/status_mapping.h"
#include "tests/support/error_details.h"
#include "tests/support/fake_engine.h"

namespace tidegate::served_model_test {

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
  EXPECT_LT(status.message().size(), 400u);
  const auto resource = DetailOf<google::rpc::ResourceInfo>(ToGrpcStatus(status, {}));
  ASSERT_TRUE(resource.has_value());
  EXPECT_EQ(resource->resource_name(), std::string(125, 'x') + "...");
  const absl::Status strange = model.Find("x\x1b[31m" + std::string(100, '\xc3')).status();
  EXPECT_TRUE(IsValidUtf8({strange.message().data(), strange.message().size()}));
  EXPECT_EQ(strange.message().find('\x1b'), std::string::npos);
}

// "é" has two bytes: a cut at a byte count would leave half of one.
TEST(ServedModel, LongNamesAreCutBetweenCharacters) {
  FakeEngine engine;
  std::string name = "x";
  for (int i = 0; i < 100; ++i) name += "\xc3\xa9";
  const grpc::Status status = ToGrpcStatus(ServedModel(engine, {}).Find(name).status(), {});
  EXPECT_TRUE(IsValidUtf8(status.error_message()));
  google::rpc::Status details;
  ASSERT_TRUE(details.ParseFromString(status.error_details()));
  EXPECT_TRUE(DetailOf<google::rpc::ResourceInfo>(status).has_value());
}

TEST(ServedModel, AForeignNameIsSaidBackAsOnePrintableLine) {
  FakeEngine engine;
  const ServedModel model(engine, {});
  const absl::Status status = model.Find("a\n\x1b[2Jb\xff").status();
  EXPECT_EQ(status.message(), "no model 'a\\n\\u{1b}[2Jb\\xff' here; this server serves 'tiny'");
  const auto resource = DetailOf<google::rpc::ResourceInfo>(ToGrpcStatus(status, {}));
  ASSERT_TRUE(resource.has_value());
  EXPECT_EQ(resource->resource_name(), "a\\n\\u{1b}[2Jb\\xff");
}

TEST(ServedModel, IsUnavailableUntilTheEngineIsAttached) {
  FakeEngine engine;
  engine.SetAttached(false);
  EXPECT_EQ(ServedModel(engine, {}).Find("tiny").status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace tidegate::served_model_test
