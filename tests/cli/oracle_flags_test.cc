// What the commands with a model inside assume of arithmetic and of the context: those that prove
// something are exact, those that show what the service does are as fast as it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::oracle_flags_test {

using ::testing::HasSubstr;

TEST(OracleFlagsTest, WhatProvesIsExactAndWhatMeasuresSpeedIsFast) {
  const struct {
    void (*add)(CLI::App&, CommandRun&);
    const char* name;
    const char* precision;
  } commands[] = {{AddLogitsCommand, "logits", "exact"},
                  {AddEvalCommand, "eval", "exact"},
                  {AddBenchCommand, "bench", "fast"},
                  {AddProfileCommand, "profile", "fast"}};
  for (const auto& [add, name, precision] : commands) {
    EXPECT_EQ(FactsOf(add).defaults.at("--precision"), precision) << name;
  }
}

TEST(OracleFlagsTest, LogitsAreExactWithoutBeingAsked) {
  const std::vector<std::string> plain = {"logits",   DemoModelPath(), "--units",  "f32",
                                          "--tokens", "1,280,170",     "--greedy", "2"};
  std::vector<std::string> exact = plain;
  exact.insert(exact.end(), {"--precision", "exact"});
  std::string by_default, told;
  ASSERT_TRUE(RunCommand(AddLogitsCommand, plain, &by_default).ok());
  ASSERT_TRUE(RunCommand(AddLogitsCommand, exact, &told).ok());
  EXPECT_EQ(by_default, told);
}

TEST(OracleFlagsTest, KeysAndValuesOfEightBitsNeedHeadsOfWholeBlocks) {
  TempDir dir;
  const std::string narrow = dir.File("narrow.gguf"), wide = dir.File("wide.gguf");
  LlamaGguf({}).WriteTo(narrow);  // Heads of 16.
  LlamaGguf({.heads = 2, .kv_heads = 1}).WriteTo(wide);
  WriteFileOrDie(dir.File("ids"), "1 5 6 7 8 9 10 11 12");
  const std::vector<std::pair<void (*)(CLI::App&, CommandRun&), std::vector<std::string>>>
      commands = {{AddLogitsCommand, {"logits", "--tokens", "1,5,6"}},
                  {AddEvalCommand, {"eval", "--ids", dir.File("ids"), "--chunk", "4"}},
                  {AddBenchCommand,
                   {"bench", "--budgets", "100%", "--modes", "dense", "--repeat", "1",
                    "--prompt-tokens", "4", "--warm-up", "1", "--tokens", "1"}}};
  for (const auto& [add, arguments] : commands) {
    const auto run = [&, add = add, arguments = arguments](const std::string& model,
                                                           const char* kv) {
      std::vector<std::string> all = arguments;
      all.insert(all.begin() + 1, {model, "--kv", kv});
      std::string out;
      return RunCommand(add, all, &out);
    };
    EXPECT_TRUE(run(narrow, "f16").ok());
    EXPECT_TRUE(run(wide, "q8").ok()) << run(wide, "q8");
    EXPECT_THAT(std::string(run(narrow, "q8").message()),
                AllOf(HasSubstr("--kv q8"), HasSubstr("16 numbers"), HasSubstr("--kv f16")));
    EXPECT_THAT(std::string(run(wide, "q4").message()),
                HasSubstr("--kv: unknown type of keys and values 'q4'"));
  }
}

// What is beyond the context means nothing, in every command alike.
TEST(OracleFlagsTest, PromptAndAnswerFitIntoTheContextTogether) {
  TempDir dir;
  const std::string model = dir.File("m.gguf");
  LlamaGguf({.context = 16}).WriteTo(model);
  std::string prompt = "1";
  for (int i = 1; i < 16; ++i) prompt += ",5";
  const auto logits = [&](const std::string& greedy) {
    std::string out;
    return RunCommand(AddLogitsCommand, {"logits", model, "--tokens", prompt, "--greedy", greedy},
                      &out);
  };
  EXPECT_TRUE(logits("0").ok());
  EXPECT_THAT(std::string(logits("1").message()), HasSubstr("the context of 16"));
  const auto bench = [&](const std::string& tokens) {
    std::string out;
    return RunCommand(AddBenchCommand,
                      {"bench", model, "--budgets", "100%", "--modes", "dense", "--repeat", "1",
                       "--prompt-tokens", "8", "--warm-up", "4", "--tokens", tokens},
                      &out);
  };
  EXPECT_TRUE(bench("4").ok()) << bench("4");
  EXPECT_THAT(std::string(bench("5").message()), HasSubstr("the context of 16"));
}

// "nan" is no JSON: a model whose numbers overflow gives an error and no result.
TEST(OracleFlagsTest, NumbersThatOverflowAreAnErrorInEveryCommand) {
  TempDir dir;
  const std::string model = dir.File("m.gguf");
  GgufBuilder gguf = LlamaGguf({});
  gguf.AddTensor("output_norm.weight", GgmlType::kF32, {64}, std::vector<float>(64, 3e38f));
  gguf.WriteTo(model);
  std::string ids = "1";
  for (int i = 0; i < 40; ++i) ids += " 5";
  WriteFileOrDie(dir.File("ids"), ids);
  const auto expect_refused = [](void (*add)(CLI::App&, CommandRun&),
                                 const std::vector<std::string>& arguments) {
    std::string out;
    const absl::Status status = RunCommand(add, arguments, &out);
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << arguments[0] << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the logit of token"));
    EXPECT_EQ(out.find("nan"), std::string::npos) << out;
  };
  expect_refused(AddLogitsCommand, {"logits", model, "--tokens", "1,5,6", "--positions", "0"});
  expect_refused(AddLogitsCommand, {"logits", model, "--tokens", "1", "--greedy", "2"});
  for (const char* mode : {"dense", "dip"}) {
    expect_refused(AddEvalCommand, {"eval", model, "--ids", dir.File("ids"), "--chunk", "16",
                                    "--mode", mode, "--density", "0.5", "--json"});
    expect_refused(AddBenchCommand, {"bench", model, "--budgets", "100%", "--modes", mode,
                                     "--prompt-tokens", "4", "--warm-up", "1", "--tokens", "1"});
  }
}

}  // namespace tidegate::oracle_flags_test
