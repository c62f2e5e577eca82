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

}  // namespace
}  // namespace tidegate
