#include "cli/stream_printer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace tidegate::stream_printer_test {

constexpr char kText[] =
    "a\x1b]0;title\x07\tb\n\xc2\x9b"
    "2J\xc3\xa9";

std::string Printed(StreamPrinter::Form form, bool terminal) {
  std::ostringstream out, err;
  StreamPrinter printer(form, terminal, out, err);
  v1::GenerateResponse response;
  response.mutable_delta()->set_text(kText);
  EXPECT_TRUE(printer.Print(response));
  printer.Finish();
  return out.str();
}

// Generated text may hold what moves a cursor, renames a window or worse.
TEST(StreamPrinter, TerminalsDoNotActUponText) {
  EXPECT_EQ(Printed(StreamPrinter::Form::kQuiet, true),
            "a\\u{1b}]0;title\\u{7}\tb\n\\u{9b}2J\xc3\xa9\n");
  const std::string json = Printed(StreamPrinter::Form::kJson, true);
  EXPECT_EQ(json.find('\x1b'), std::string::npos);
  EXPECT_EQ(json.find('\x9b'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(json)["text"], kText);
}

TEST(StreamPrinter, PipesAndFilesGetTheTextItself) {
  EXPECT_EQ(Printed(StreamPrinter::Form::kQuiet, false), std::string(kText) + "\n");
}

v1::GenerateResponse Words(uint32_t choice, const std::string& text) {
  v1::GenerateResponse response;
  response.mutable_delta()->set_choice(choice);
  response.mutable_delta()->set_text(text);
  return response;
}

v1::GenerateResponse End(uint32_t choice) {
  v1::GenerateResponse response;
  response.mutable_finished()->set_choice(choice);
  return response;
}

TEST(StreamPrinter, ChoicesComeOneAfterTheOther) {
  std::ostringstream out, err;
  StreamPrinter printer(StreamPrinter::Form::kText, false, out, err);
  printer.Print(Words(0, "a"));
  printer.Print(Words(2, "x"));
  printer.Print(Words(0, "b"));
  EXPECT_EQ(out.str(), "ab");
  printer.Print(End(2));
  printer.Print(Words(1, "k"));
  printer.Print(End(0));
  EXPECT_EQ(out.str(), "ab\n--- choice 2 ---\nk");
  printer.Print(Words(1, "l"));
  printer.Print(End(1));
  printer.Print(Words(4000000000u, "no request has so many"));
  printer.Finish();
  EXPECT_EQ(out.str(), "ab\n--- choice 2 ---\nkl\n--- choice 3 ---\nx\n");
  for (const char* heading : {"choice 1:", "choice 2:", "choice 3:"}) {
    EXPECT_NE(err.str().find(heading), std::string::npos);
  }
}

TEST(StreamPrinter, PromptLogprobsAreForStandardErrorOrJson) {
  for (const auto form : {StreamPrinter::Form::kQuiet, StreamPrinter::Form::kJson}) {
    std::ostringstream out, err;
    StreamPrinter printer(form, false, out, err);
    v1::GenerateResponse response;
    for (const uint32_t id : {270, 280}) {
      response.mutable_prompt_logprobs()->Clear();
      response.mutable_prompt_logprobs()->add_token_ids(id);
      response.mutable_prompt_logprobs()->add_logprobs()->set_logprob(-1.5);
      printer.Print(response);
    }
    response.mutable_keep_alive();
    printer.Print(response);
    printer.Finish();
    if (form == StreamPrinter::Form::kQuiet) {
      EXPECT_EQ(out.str(), "");
      EXPECT_NE(err.str().find("280   -1.5000"), std::string::npos);
    } else {
      const auto json = nlohmann::json::parse(out.str());
      EXPECT_EQ(json["prompt_token_ids"], (std::vector<int>{270, 280}));
      EXPECT_EQ(json["prompt_logprobs"][1]["logprob"], -1.5);
    }
  }
}

TEST(StreamPrinter, JsonHasAListOfSeveralChoices) {
  std::ostringstream out, err;
  StreamPrinter printer(StreamPrinter::Form::kJson, false, out, err);
  printer.Print(Words(1, "b"));
  printer.Print(Words(0, "a"));
  printer.Print(End(1));
  printer.Finish();
  const auto choices = nlohmann::json::parse(out.str())["choices"];
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_EQ(choices[0]["text"], "a");
  EXPECT_TRUE(choices[0]["finished"].is_null());
  EXPECT_EQ(choices[1]["text"], "b");
  EXPECT_EQ(choices[1]["finished"]["choice"], 1);
}

TEST(StreamPrinter, ProgressIsForStandardError) {
  std::ostringstream out, err;
  StreamPrinter printer(StreamPrinter::Form::kQuiet, false, out, err);
  v1::GenerateResponse response;
  response.mutable_progress()->set_total_tokens(90);
  EXPECT_TRUE(printer.Print(response));
  response.mutable_progress()->set_processed_tokens(64);
  response.mutable_progress()->set_cached_tokens(32);
  EXPECT_TRUE(printer.Print(response));
  EXPECT_EQ(out.str(), "");
  EXPECT_EQ(err.str(), "prompt: 0 of 90 tokens\nprompt: 64 of 90 tokens, 32 from the cache\n");
}

}  // namespace tidegate::stream_printer_test
