#include "proto/store/v1/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/str_cat.h"
#include "google/protobuf/util/message_differencer.h"
#include "tests/support/test_support.h"

namespace tidegate::profile_test {

using store::v1::OperatingPoint;
using store::v1::Profile;
using ::testing::HasSubstr;
using ::testing::Not;

Profile MakeProfile() {
  Profile profile;
  profile.set_version(kProfileVersion);
  profile.mutable_model()->set_name("tiny");
  profile.mutable_model()->set_layer_count(2);
  profile.mutable_model()->set_hidden_size(64);
  profile.mutable_model()->set_intermediate_size(96);
  profile.mutable_model()->set_embedding_rows(128);
  profile.mutable_conditions()->set_final_tokens(4096);
  profile.mutable_conditions()->set_cache_share(0.5);
  profile.mutable_conditions()->set_perplexity(9.5);
  for (const double density : {1.0, 0.8, 0.6}) {
    OperatingPoint& point = *profile.add_ladder();
    point.set_density(density);
    point.set_gamma(0.2);
    point.set_protected_share(0.75);
    point.set_perplexity_increase(1 - density);
    point.set_flash_bytes_per_token(1000 * density);
    point.set_flash_share(density / 2);
    point.set_hit_rate(0.6);
  }
  OperatingPoint& last = *profile.mutable_ladder(2);
  last.add_layer_densities(0.5);
  last.add_layer_densities(0.7);
  return profile;
}

TEST(Profile, SurvivesItsText) {
  const Profile profile = MakeProfile();
  const std::string text = ProfileText(profile);
  EXPECT_THAT(text, HasSubstr("\"gamma\": 0.2"));
  const auto parsed = ParseProfile(text);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(*parsed, profile));
}

struct Mistake {
  const char* name;
  std::function<void(Profile&)> make;
  const char* message;
};

TEST(Profile, EveryNumberIsChecked) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Mistake mistakes[] = {
      {"NoVersion", [](Profile& p) { p.set_version(0); }, "profile version 0"},
      {"NoLayers", [](Profile& p) { p.mutable_model()->set_layer_count(0); }, "model.layerCount 0"},
      {"ManyLayers", [](Profile& p) { p.mutable_model()->set_layer_count(4000000000); },
       "model.layerCount 4e+09"},
      {"NoLadder", [](Profile& p) { p.clear_ladder(); }, "number of points 0"},
      {"LongLadder",
       [](Profile& p) {
         for (int i = 0; i < kMaxLadderPoints; ++i) *p.add_ladder() = p.ladder(2);
       },
       "number of points 67"},
      {"NoDensity", [](Profile& p) { p.mutable_ladder(1)->clear_density(); },
       "ladder[1].density 0"},
      {"NanDensity", [](Profile& p) { p.mutable_ladder(1)->set_density(kNan); }, "density nan"},
      {"Gamma", [](Profile& p) { p.mutable_ladder(1)->set_gamma(1.5); }, "ladder[1].gamma 1.5"},
      {"Share", [](Profile& p) { p.mutable_ladder(0)->set_protected_share(-1); },
       "ladder[0].protectedShare -1"},
      {"FlashShare", [](Profile& p) { p.mutable_ladder(0)->set_flash_share(kInfinity); },
       "ladder[0].flashShare inf"},
      {"HitRate", [](Profile& p) { p.mutable_ladder(0)->set_hit_rate(kNan); }, "hitRate nan"},
      {"Increase", [](Profile& p) { p.mutable_ladder(0)->set_perplexity_increase(-0.01); },
       "ladder[0].perplexityIncrease -0.01"},
      {"Bytes", [](Profile& p) { p.mutable_ladder(2)->set_flash_bytes_per_token(kInfinity); },
       "ladder[2].flashBytesPerToken inf"},
      {"IncreaseFalls", [](Profile& p) { p.mutable_ladder(2)->set_perplexity_increase(0.1); },
       "at least that of the point before"},
      {"BytesRise", [](Profile& p) { p.mutable_ladder(2)->set_flash_bytes_per_token(900); },
       "at most that of the point before"},
      {"OneLayerMissing",
       [](Profile& p) { p.mutable_ladder(2)->mutable_layer_densities()->RemoveLast(); },
       "layerDensities has 1 entries for 2 layers"},
      {"LayerDensity", [](Profile& p) { p.mutable_ladder(2)->set_layer_densities(0, kNan); },
       "layerDensities nan"},
      {"LayerMean", [](Profile& p) { p.mutable_ladder(2)->set_layer_densities(0, 0.9); },
       "their mean 0.8"},
      {"CacheShare", [](Profile& p) { p.mutable_conditions()->set_cache_share(2); },
       "conditions.cacheShare 2"},
      {"InputShare", [](Profile& p) { p.mutable_conditions()->set_input_share(-0.1); },
       "conditions.inputShare -0.1"},
      {"Perplexity", [](Profile& p) { p.mutable_conditions()->set_perplexity(kNan); },
       "conditions.perplexity nan"}};
  ASSERT_TRUE(CheckProfile(MakeProfile()).ok());
  for (const Mistake& mistake : mistakes) {
    Profile profile = MakeProfile();
    mistake.make(profile);
    const std::string message(CheckProfile(profile).message());
    EXPECT_THAT(message, HasSubstr(mistake.message)) << mistake.name;
    EXPECT_THAT(message, HasSubstr("tidegate profile")) << mistake.name;
  }
}

TEST(Profile, IsOfOneModel) {
  store::v1::Manifest manifest;
  manifest.set_model_name("tiny");
  store::v1::HyperParameters& hp = *manifest.mutable_hyper_parameters();
  hp.set_layer_count(2);
  hp.set_hidden_size(64);
  hp.set_intermediate_size(96);
  hp.set_embedding_rows(128);
  EXPECT_TRUE(CheckProfileModel(MakeProfile(), manifest).ok());
  hp.set_layer_count(3);
  EXPECT_THAT(std::string(CheckProfileModel(MakeProfile(), manifest).message()),
              HasSubstr("its layers 2, here 3"));
  manifest.set_model_name("other");
  EXPECT_THAT(std::string(CheckProfileModel(MakeProfile(), manifest).message()),
              HasSubstr("of the model 'tiny', this is 'other'"));
}

TEST(Profile, ErrorsAreOneShortLine) {
  const std::string texts[] = {"{\n\"version\": 1,\n\t\"colour\": \"red\"\n}",
                               "{\n\n\x01\x1b[31m\xff\xfe",
                               "{\"" + std::string(1 << 20, 'x') + "\": 1}"};
  for (const std::string& text : texts) {
    const std::string error(ParseProfile(text).status().message());
    EXPECT_THAT(error, HasSubstr("no profile: "));
    EXPECT_THAT(error, HasSubstr("tidegate profile"));
    EXPECT_THAT(error, Not(HasSubstr("\\n")));
    EXPECT_LE(error.size(), 1000u);
    EXPECT_TRUE(std::all_of(error.begin(), error.end(), [](char c) { return c >= 32 && c < 127; }))
        << error;
  }
}

TEST(Profile, ErrorsNameTheFile) {
  TempDir dir;
  const std::string path = dir.File("p.json");
  const std::pair<std::string, const char*> files[] = {
      {"", "no profile"},
      {"{", "no profile"},
      {R"({"version": 2})", "profile version 2, this program reads version 1"},
      {R"({"version": 1, "colour": "red"})", "colour"},
      {R"({"version": -1})", "no profile"},
      {std::string(kMaxProfileBytes + 1, ' '), "larger than"}};
  for (const auto& [text, message] : files) {
    WriteFileOrDie(path, text);
    const std::string error(ReadProfile(path).status().message());
    EXPECT_THAT(error, HasSubstr(message));
    EXPECT_THAT(error, HasSubstr(path));
  }
  EXPECT_EQ(ReadProfile(dir.File("none")).status().code(), absl::StatusCode::kNotFound);
}

// A pack without a profile has the bytes that it had before there were profiles.
TEST(Profile, LeavesNoTraceInAManifestWithoutOne) {
  store::v1::Manifest manifest;
  manifest.set_model_name("tiny");
  EXPECT_EQ(manifest.SerializeAsString(), absl::StrCat("\x0a\x04", "tiny"));
  EXPECT_FALSE(manifest.has_profile());
}

}  // namespace tidegate::profile_test
