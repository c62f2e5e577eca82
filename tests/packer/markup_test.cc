#include "packer/markup.h"

#include <gtest/gtest.h>

namespace tidegate::markup_test {

TEST(Markup, TellsTurnsFromTagsFromWords) {
  for (const char* text :
       {"<|im_start|>", "<|user|>", "<|START_OF_TURN_TOKEN|>", "<\uff5cUser\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>", "[|endofturn|]", "<|turn>", "<turn|>",
        "<start_of_turn>", "[INST]", "[/INST]", "<|tool/call|>", "<|0|>"}) {
    EXPECT_EQ(MarkupOf(text), Markup::kSpecial) << text;
  }
  for (const char* text : {"<think>", "</think>", "<s>", "</s>", "[TOOL_CALLS]", "<<SYS>>",
                           "<</SYS>>", "<\u7528\u6237>", "<a-b.c>", "[/X]"}) {
    EXPECT_EQ(MarkupOf(text), Markup::kTag) << text;
  }
  for (const char* text : {"",
                           "user",
                           "<",
                           "<>",
                           "<|>",
                           "<||>",
                           "|>",
                           "<|-|>",
                           "[]",
                           "[0]",
                           "[|",
                           "[||]",
                           "</>",
                           "<0x0A>",
                           "< s >",
                           "<|im start|>",
                           "<|' + role + '|>",
                           "['role']",
                           "<a<b>",
                           "->",
                           "<=>",
                           "\u2581<s>",
                           "<s",
                           "s>",
                           "[PAD",
                           "<!--",
                           "<a=b>",
                           "\u7528"}) {
    EXPECT_EQ(MarkupOf(text), Markup::kNone) << text;
  }
  EXPECT_EQ(MarkupOf("<|" + std::string(200, 'x') + "|>"), Markup::kNone);
}

TEST(Markup, KnowsCounterparts) {
  EXPECT_EQ(CounterpartOf("<s>"), "</s>");
  EXPECT_EQ(CounterpartOf("</s>"), "<s>");
  EXPECT_EQ(CounterpartOf("[X]"), "[/X]");
  EXPECT_EQ(CounterpartOf("<</SYS>>"), "<<SYS>>");
}

TEST(TemplateMarkup, FindsWhatATemplateWrites) {
  const TemplateMarkup markup(
      "{% for m in messages %}{{ '<|im_start|>' + m['role'] }}<<SYS>>{{ m[0] }}[INST]"
      "a<b>c{% endfor %}<\uff5cUser\uff5c>");
  for (const char* text : {"<|im_start|>", "<<SYS>>", "[INST]", "<b>", "<\uff5cUser\uff5c>"}) {
    EXPECT_TRUE(markup.Writes(text)) << text;
  }
  for (const char* text : {"<|im_end|>", "[0]", "['role']", "<c>", "role", "<|user|>"}) {
    EXPECT_FALSE(markup.Writes(text)) << text;
  }
}

TEST(TemplateMarkup, FindsRolesThatATemplatePutsBetweenBars) {
  for (const char* source :
       {"{{ '<|' + m.role + '|>' }}", "{{ \"<|\" ~ m.role }}", "<|{{ m.role }}|>"}) {
    const TemplateMarkup markup(source);
    EXPECT_TRUE(markup.Writes("<|user|>")) << source;
    EXPECT_TRUE(markup.Writes("<|Assistant|>")) << source;
    EXPECT_FALSE(markup.Writes("<|fim_prefix|>")) << source;
    EXPECT_FALSE(markup.Writes("user")) << source;
  }
}

// A hostile source: every bracket opens, none closes, or all close.
TEST(TemplateMarkup, TakesBracketsWithoutEnd) {
  for (const char* unit : {"<", "<|", "[", "<>", "<|'", ">"}) {
    std::string source;
    while (source.size() < (size_t{1} << 18)) source += unit;
    EXPECT_FALSE(TemplateMarkup(source).Writes("<|im_end|>"));
  }
}

}  // namespace tidegate::markup_test
