// `tidegate eval`, run inside this process on the demo model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_split.h"
#include "tests/cli/command_line.h"
#include "tests/support/test_support.h"

namespace tidegate::eval_test {

using Json = nlohmann::json;
using ::testing::HasSubstr;

class EvalCommandTest : public ::testing::Test {
 protected:
  absl::Status Eval(std::vector<std::string> more, const std::string& tokens = "256") {
    std::vector<std::string> arguments = {"eval",         DemoModelPath(), "--text",    text_,
                                          "--max-tokens", tokens,          "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const absl::Status status = RunCommand(AddEvalCommand, arguments);
    std::fflush(stdout);
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    return status;
  }
  std::string Error(const std::vector<std::string>& more) {
    const absl::Status status = Eval(more);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
  std::vector<Json> Lines() const {
    std::vector<Json> lines;
    for (const absl::string_view line : absl::StrSplit(out_, '\n', absl::SkipEmpty())) {
      lines.push_back(Json::parse(line.begin(), line.end()));
    }
    return lines;
  }

  TempDir dir_;
  const std::string text_ = ModelPath("tinystories-heldout.txt");
  std::string out_, err_;
};

TEST_F(EvalCommandTest, RunsEveryCombinationThatMakesADifference) {
  const std::string report = dir_.File("report");
  ASSERT_TRUE(Eval({"--mode", "dense,glu,cats,dip,dip_ca", "--density", "0.75,0.5", "--gamma",
                    "0.2,0.5", "--cache-fraction", "0.5", "--report", report, "--json"})
                  .ok())
      << err_;
  const std::vector<Json> lines = Lines();
  // dense 1, glu 1 (0.5 is below what it reads), cats 2, dip 2, dip_ca 4.
  ASSERT_EQ(lines.size(), 10u) << out_;
  EXPECT_THAT(err_, HasSubstr("left out: glu uses 66.7 %"));
  const double dense = lines[0].at("perplexity");
  EXPECT_LT(dense, 12);
  for (size_t i = 1; i < lines.size(); ++i) {
    EXPECT_GT(lines[i].at("perplexity"), 0.98 * dense) << lines[i];
    EXPECT_GT(lines[i].at("times_streaming"), 1) << lines[i];
    EXPECT_NEAR(lines[i].at("density_used"), lines[i].at("density"), 0.02) << lines[i];
  }
  // Less is worse, and DIP that looks at the cache reads less than DIP that does not.
  EXPECT_GT(lines[5].at("perplexity"), lines[4].at("perplexity"));
  EXPECT_LT(lines[6].at("flash_share"), lines[4].at("flash_share"));

  const std::string csv = ReadFileOrDie(report + "/results.csv");
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 11);
  const std::string html = ReadFileOrDie(report + "/index.html");
  for (const char* part : {"stories-7M.f16.gguf", "Perplexity and memory", "x streaming",
                           "--mode dense,glu,cats,dip,dip_ca", "</html>"}) {
    EXPECT_THAT(html, HasSubstr(part));
  }
  for (const char* file : {"/density.svg", "/memory.svg", "/speed.svg"}) {
    EXPECT_THAT(ReadFileOrDie(report + file), HasSubstr("</svg>")) << file;
  }
}

TEST_F(EvalCommandTest, ShowsATableAndWhatFollowsFromIt) {
  ASSERT_TRUE(Eval({"--mode", "dense,dip", "--density", "0.5", "--cache-fraction", "0.5"}).ok());
  EXPECT_THAT(out_, HasSubstr("method   density"));
  EXPECT_THAT(out_, HasSubstr("cache 0.5, 1.4x streaming: dip density 0.5"));
  EXPECT_THAT(out_, HasSubstr("cache 0.5, 2.7x streaming: none of these"));
  const std::string first = out_;
  ASSERT_TRUE(Eval({"--mode", "dense,dip", "--density", "0.5", "--cache-fraction", "0.5"}).ok());
  EXPECT_EQ(out_, first);
}

TEST_F(EvalCommandTest, AsksQuestions) {
  ASSERT_TRUE(Eval({"--choices", ModelPath("story-choices.jsonl"), "--json"}).ok());
  // By chance: a quarter.
  EXPECT_GT(Lines().at(0).at("accuracy_per_byte"), 0.5) << out_;
}

TEST_F(EvalCommandTest, ErrorsNameFlagValueAndRemedy) {
  EXPECT_THAT(Error({"--mode", "deja"}), HasSubstr("deja"));
  EXPECT_THAT(Error({"--mode", "dip", "--density", "0.5,0"}), HasSubstr("--density: '0'"));
  EXPECT_THAT(Error({"--cache-fraction", "1.5"}), HasSubstr("--cache-fraction: '1.5'"));
  EXPECT_THAT(Error({"--mode", "glu", "--density", "0.5"}), HasSubstr("no --mode given reaches"));
  EXPECT_THAT(Error({"--chunk", "1024"}), HasSubstr("--chunk 1024 is longer than the 512 tokens"));
  EXPECT_THAT(Error({"--report", "/proc/none"}), HasSubstr("cannot make the folder /proc/none"));
  EXPECT_THAT(Error({"--flash-speed", "fast"}), HasSubstr("--flash-speed: 'fast'"));
  EXPECT_THAT(Error({"--mode", "dip", "--density", "0.5,0.6", "--record", dir_.File("t")}),
              HasSubstr("give no lists"));
  EXPECT_THAT(Error({"--record", dir_.File("t")}), HasSubstr("mode dense has no masks"));
  EXPECT_THAT(
      Error({"--mode", "dip", "--density", "0.5", "--streams", "2", "--record", dir_.File("t")}),
      HasSubstr("a trace is of one stream: leave out --streams"));
  const std::pair<const char*, const char*> questions[] = {
      {"{", "choices.jsonl:2: no JSON object"},
      {R"({"choices": ["a", "b"], "answer": 0})", "\"context\" is no string"},
      {R"({"context": "x", "choice": ["a", "b"], "answer": 0})",
       "choices.jsonl:2: the key 'choice' is not known; did you mean choices?"},
      {R"({"context": "x", "choices": ["a"], "answer": 0})", "list of 2 to 16 texts"},
      {R"({"context": "x", "choices": ["a", ""], "answer": 0})", "a choice is no text"},
      {R"({"context": "x", "choices": ["a", "b"], "answer": 2})", "no index into"},
      {R"({"context": "x", "choices": ["a", "b"], "answer": -1})", "no index into"}};
  for (const auto& [line, text] : questions) {
    WriteFileOrDie(dir_.File("choices.jsonl"), std::string("\n") + line + "\n");
    EXPECT_THAT(Error({"--choices", dir_.File("choices.jsonl")}), HasSubstr(text)) << line;
  }
  WriteFileOrDie(dir_.File("choices.jsonl"), "\n");
  EXPECT_THAT(Error({"--choices", dir_.File("choices.jsonl")}), HasSubstr("no questions"));
}

}  // namespace tidegate::eval_test
