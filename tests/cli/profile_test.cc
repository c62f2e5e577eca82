// `tidegate profile`, run inside this process on the demo model, and what becomes of its profile.
#include "proto/store/v1/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::profile_test {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ProfileTest : public ::testing::Test {
 protected:
  absl::Status Run(const std::function<void(CLI::App&, CommandRun&)>& add,
                   std::vector<std::string> arguments) {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const absl::Status status = RunCommand(add, std::move(arguments));
    std::fflush(stdout);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return status;
  }
  absl::Status Profile(std::vector<std::string> more) {
    std::vector<std::string> arguments = {"profile", DemoModelPath(), "--text",    text_,
                                          "-o",      profile_,        "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Run(AddProfileCommand, arguments);
  }
  std::string Error(const std::vector<std::string>& more) {
    const absl::Status status = Profile(more);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }

  TempDir dir_;
  const std::string profile_ = dir_.File("profile.json");
  const std::string text_ = ModelPath("tinystories-heldout.txt");
  const std::vector<std::string> short_ = {"--cache-fraction",
                                           "0.5",
                                           "--density",
                                           "0.6,0.8",
                                           "--gamma",
                                           "0.2",
                                           "--search-tokens",
                                           "64",
                                           "--chunk",
                                           "64",
                                           "--final-tokens",
                                           "64",
                                           "--protected-share",
                                           "0.75",
                                           "--try-input-share",
                                           "0.8",
                                           "--max-perplexity-increase",
                                           "0.5"};
  std::string out_, err_;
};

TEST_F(ProfileTest, WritesAProfileThatPackAndInspectTake) {
  ASSERT_TRUE(Profile(short_).ok()) << err_;
  const auto profile = ReadProfile(profile_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ(profile->model().layer_count(), 6u);
  EXPECT_EQ(profile->conditions().search_tokens(), 64u);
  EXPECT_NEAR(profile->conditions().cache_share(), 0.5, 0.01);
  ASSERT_GE(profile->ladder_size(), 2);
  EXPECT_EQ(profile->ladder(0).density(), 1);
  EXPECT_EQ(profile->ladder(0).perplexity_increase(), 0);
  EXPECT_NEAR(profile->ladder(0).flash_share(), 0.5, 0.01);
  EXPECT_LT(profile->ladder(1).density(), 1);
  EXPECT_THAT(out_, HasSubstr("densities by layer"));
  EXPECT_THAT(err_, HasSubstr("layers: 100 %"));
  EXPECT_THAT(err_, HasSubstr("points: 100 %"));
  // So few tokens do not say which is better.
  EXPECT_THAT(out_, HasSubstr("bytes at equal loss"));
  const bool taken = out_.find("0.8 is taken") != std::string::npos;
  EXPECT_EQ(profile->conditions().input_share(), taken ? 0.8 : 0) << out_;
  EXPECT_NE(out_.find("none is taken") != std::string::npos, taken) << out_;

  const std::string pack = dir_.File("demo.tgpack");
  ASSERT_TRUE(
      Run(AddPackCommand, {"pack", DemoModelPath(), "-o", pack, "--profile", profile_}).ok());
  EXPECT_THAT(out_, HasSubstr("a ladder of"));
  ASSERT_TRUE(Run(AddInspectCommand, {"inspect", pack}).ok());
  EXPECT_THAT(out_, HasSubstr("tinystories-heldout.txt"));
  EXPECT_THAT(out_, HasSubstr("perplexity increase fraction"));
}

// Slots that a cache without a policy never fills.
TEST_F(ProfileTest, LosslessStreamingIsMeasured) {
  std::vector<std::string> more = short_;
  more.insert(more.end(), {"--uniform", "--policy", "none"});
  ASSERT_TRUE(Profile(more).ok());
  const auto profile = ReadProfile(profile_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_NEAR(profile->conditions().cache_share(), 0.5, 0.01);
  EXPECT_EQ(profile->ladder(0).flash_share(), 1);
  EXPECT_EQ(profile->ladder(0).hit_rate(), 0);
  ASSERT_GE(profile->ladder_size(), 2);
  EXPECT_GT(profile->ladder(1).flash_share(), 0.5);
}

TEST_F(ProfileTest, TheSameTextGivesTheSameProfile) {
  std::vector<std::string> more = short_;
  more.push_back("--uniform");
  ASSERT_TRUE(Profile(more).ok());
  const auto first = ReadProfile(profile_);
  ASSERT_TRUE(Profile(more).ok());
  const auto second = ReadProfile(profile_);
  ASSERT_TRUE(first.ok() && second.ok());
  ASSERT_EQ(first->ladder_size(), second->ladder_size());
  EXPECT_EQ(first->conditions().ShortDebugString(), second->conditions().ShortDebugString());
  for (int i = 0; i < first->ladder_size(); ++i) {
    EXPECT_EQ(first->ladder(i).density(), second->ladder(i).density());
    // Units are added as their reads land.
    EXPECT_NEAR(first->ladder(i).perplexity_increase(), second->ladder(i).perplexity_increase(),
                1e-4);
    EXPECT_NEAR(first->ladder(i).flash_share(), second->ladder(i).flash_share(), 1e-4);
  }
  EXPECT_THAT(out_, ::testing::Not(HasSubstr("densities by layer")));
}

TEST_F(ProfileTest, ErrorsNameFlagValueAndRemedy) {
  EXPECT_THAT(Error({}), HasSubstr("--memory-budget 4GiB"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--memory-budget", "1GiB"}), HasSubstr("give the"));
  EXPECT_THAT(Error({"--cache-fraction", "1.5"}), HasSubstr("--cache-fraction: '1.5'"));
  EXPECT_THAT(Error({"--memory-budget", "much"}), HasSubstr("--memory-budget: "));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--density", "0.5,0"}),
              HasSubstr("--density: '0'"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--gamma", "2"}), HasSubstr("--gamma: '2'"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--max-perplexity-increase", "0"}),
              HasSubstr("--max-perplexity-increase: '0'"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--chunk", "1024"}),
              HasSubstr("--chunk 1024 is longer than the 512 tokens"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--search-tokens", "0"}),
              HasSubstr("--search-tokens 0 is less than a --chunk of 256"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--final-tokens", "255"}),
              HasSubstr("--final-tokens 255 is less than a --chunk of 256"));
  EXPECT_THAT(Error({"--cache-fraction", "0.5", "--chunk", "60000", "--search-tokens", "60000",
                     "--final-tokens", "60000"}),
              HasSubstr("are too few"));
}

// The model lacks a tensor: packing it would fail.
TEST_F(ProfileTest, RefusesTextsBeforeItPacks) {
  const auto error = [&](const TestModel& model, const std::vector<uint64_t>& embedding) {
    GgufBuilder gguf = LlamaGguf(model);
    gguf.RemoveTensor("blk.0.ffn_up.weight");
    gguf.AddTensor("token_embd.weight", GgmlType::kF32, embedding,
                   std::vector<float>(embedding[0] * embedding[1]));
    gguf.WriteTo(dir_.File("m.gguf"));
    const absl::Status status =
        Run(AddProfileCommand, {"profile", dir_.File("m.gguf"), "--text", text_, "-o", profile_,
                                "--cache-fraction", "0.5", "--chunk", "64"});
    return std::string(status.message());
  };
  EXPECT_THAT(error({.context = 32}, {64, 320}),
              HasSubstr("--chunk 64 is longer than the 32 tokens of the model's context"));
  EXPECT_THAT(error({}, {64, 200}), HasSubstr("320 tokens, token_embd.weight only 200 rows"));
  EXPECT_THAT(error({}, {64, 320}), HasSubstr("blk.0.ffn_up.weight"));
}

TEST_F(ProfileTest, TakesAPackAndAMemoryBudget) {
  const std::string pack = dir_.File("demo.tgpack");
  ASSERT_TRUE(Run(AddPackCommand, {"pack", DemoModelPath(), "-o", pack}).ok());
  std::vector<std::string> arguments = {"profile",   pack,
                                        "--text",    text_,
                                        "-o",        profile_,
                                        "--threads", "1",
                                        "--uniform", "--chunk",
                                        "32",        "--search-tokens",
                                        "32",        "--final-tokens",
                                        "32",        "--gamma",
                                        "0.2",       "--density",
                                        "0.7",       "--memory-budget",
                                        "8MiB",      "--max-perplexity-increase",
                                        "9",         "--input-share",
                                        "0.7",       "--units",
                                        "q8"};
  ASSERT_TRUE(Run(AddProfileCommand, arguments).ok()) << err_;
  const auto profile = ReadProfile(profile_);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_GE(profile->ladder_size(), 2);
  EXPECT_GT(profile->conditions().cache_share(), 0.05);
  EXPECT_LT(profile->conditions().cache_share(), 0.95);
  EXPECT_EQ(profile->conditions().input_share(), 0.7);
  EXPECT_THAT(out_, ::testing::Not(HasSubstr("bytes at equal loss")));
  EXPECT_THAT(Error({"--cache-fraction", "1"}), HasSubstr("this memory holds every weight"));
  arguments.back() = "q4";
  EXPECT_EQ(Run(AddProfileCommand, arguments).message(),
            absl::StrCat("--units q4: ", pack,
                         " is a pack and has q8 units; leave --units out, or "
                         "give the model that it was made from"));
}

TEST_F(ProfileTest, RecordsAdapters) {
  GgufBuilder gguf = LlamaGguf({});
  gguf.WriteTo(dir_.File("m.gguf"));
  GgufBuilder adapter;
  adapter.SetString("general.architecture", "llama");
  adapter.SetString("adapter.type", "lora");
  const std::vector<float> zeros(64);
  adapter.AddTensor("blk.0.attn_q.weight.lora_a", GgmlType::kF32, {64, 1}, zeros);
  adapter.AddTensor("blk.0.attn_q.weight.lora_b", GgmlType::kF32, {1, 64}, zeros);
  adapter.WriteTo(dir_.File("a.gguf"));
  adapter.WriteTo(dir_.File("b.gguf"));
  const std::string pack = dir_.File("m.tgpack");
  ASSERT_TRUE(Run(AddPackCommand,
                  {"pack", dir_.File("m.gguf"), "-o", pack, "--lora", dir_.File("a.gguf=0.5")})
                  .ok());
  for (const std::string& model : {dir_.File("m.gguf"), pack}) {
    std::vector<std::string> arguments = {"profile",   model,       "--text", text_,
                                          "-o",        profile_,    "--lora", dir_.File("b.gguf=2"),
                                          "--uniform", "--threads", "1"};
    arguments.insert(arguments.end(), short_.begin(), short_.end());
    ASSERT_TRUE(Run(AddProfileCommand, arguments).ok()) << err_;
    const auto profile = ReadProfile(profile_);
    ASSERT_TRUE(profile.ok()) << profile.status();
    const auto& names = profile->conditions().adapters();
    EXPECT_EQ(std::vector<std::string>(names.begin(), names.end()),
              model == pack ? std::vector<std::string>({"a.gguf=0.5", "b.gguf=2"})
                            : std::vector<std::string>({"b.gguf=2"}));
  }
}

TEST_F(ProfileTest, DoesNotReplaceWhatItReads) {
  const absl::Status status = Run(AddProfileCommand, {"profile", DemoModelPath(), "--text", text_,
                                                      "--cache-fraction", "0.5", "-o", text_});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(text_));
}

TEST_F(ProfileTest, PackRefusesTheProfileOfAnotherModel) {
  WriteFileOrDie(profile_, ReadFileOrDie(SourcePath("tests/fuzz/corpus/profile/two_points.json")));
  const absl::Status status =
      Run(AddPackCommand, {"pack", DemoModelPath(), "-o", dir_.File("p"), "--profile", profile_});
  EXPECT_THAT(std::string(status.message()),
              StartsWith(profile_ + ": the profile is of the model 'tiny', this is 'stories-7M'"));
}

}  // namespace tidegate::profile_test
