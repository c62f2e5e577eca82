#include "proto/store/v1/manifest_names.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace tidegate::manifest_names_test {

TEST(ManifestNames, AreOneBoundedLine) {
  store::v1::Manifest manifest;
  manifest.set_model_name("name\n\x1b[2J" + std::string(300000, 'x'));
  manifest.set_architecture(std::string(1000, 'a'));
  manifest.mutable_source()->set_file_name("f\r");
  *manifest.mutable_source()->add_adapters() = "a\tb";
  manifest.mutable_profile()->mutable_model()->set_name("p\n");
  BoundNames(manifest);
  EXPECT_EQ(manifest.model_name().size(), kMaxModelNameBytes);
  EXPECT_EQ(manifest.model_name().substr(0, 15), "name\\n\\u{1b}[2J");
  EXPECT_EQ(manifest.architecture().size(), kMaxModelNameBytes);
  EXPECT_EQ(manifest.source().file_name(), "f\\r");
  EXPECT_EQ(manifest.source().adapters(0), "a\\tb");
  EXPECT_EQ(manifest.profile().model().name(), "p\\n");
}

// What the packer wrote is found again by clients.
TEST(ManifestNames, BoundNamesStayAsTheyAre) {
  store::v1::Manifest manifest;
  std::string name = "Llama 3 \xe2\x82\xac ";
  for (int i = 0; i < 200; ++i) name += "\xc3\xa9";
  manifest.set_model_name(name);
  BoundNames(manifest);
  const std::string once = manifest.model_name();
  EXPECT_TRUE(IsValidUtf8(once));
  EXPECT_LE(once.size(), kMaxModelNameBytes);
  EXPECT_FALSE(manifest.has_source());
  BoundNames(manifest);
  EXPECT_EQ(manifest.model_name(), once);
}

}  // namespace tidegate::manifest_names_test
