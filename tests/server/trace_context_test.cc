#include "server/trace_context.h"

#include <gtest/gtest.h>

namespace tidegate::trace_context_test {

constexpr char kGood[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContext, IsReadAsItsFormSays) {
  const auto context = ParseTraceContext(kGood, "a=1,b=2");
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_id.size(), 16u);
  EXPECT_EQ(context->trace_id.substr(0, 3), "\x0a\xf7\x65");
  EXPECT_EQ(context->parent_id, "\xb7\xad\x6b\x71\x69\x20\x33\x31");
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(context->state, "a=1,b=2");
  // Other flags, and later versions with more behind them.
  EXPECT_FALSE(
      ParseTraceContext("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02")->sampled);
  EXPECT_TRUE(
      ParseTraceContext("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-x")->sampled);
  EXPECT_EQ(ParseTraceContext(kGood, std::string(513, 'a'))->state, "");
  EXPECT_EQ(ParseTraceContext(kGood, "a=\xff")->state, "");
}

TEST(TraceContext, OtherFormsCountAsAbsent) {
  for (const char* text : {"", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
                           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
                           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
                           "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
                           "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                           "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                           "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01",
                           "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                           "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                           "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                           "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz"}) {
    EXPECT_FALSE(ParseTraceContext(text).has_value()) << text;
  }
}

}  // namespace tidegate::trace_context_test
