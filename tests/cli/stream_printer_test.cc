#include "cli/stream_printer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

namespace tidegate {
namespace {

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

}  // namespace
}  // namespace tidegate
