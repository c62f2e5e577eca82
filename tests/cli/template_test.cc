// `tidegate template` as a person uses it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/commands.h"
#include "tests/cli/command_line.h"
#include "tests/support/test_support.h"

namespace tidegate::template_test {

using testing::HasSubstr;

class TemplateCommand : public testing::Test {
 protected:
  absl::Status Run(const std::string& source, const std::string& conversation) {
    WriteFileOrDie(folder_.File("t.jinja"), source);
    WriteFileOrDie(folder_.File("c.json"), conversation);
    testing::internal::CaptureStdout();
    const absl::Status status =
        RunCommand(AddTemplateCommand, {"template", "--template", folder_.File("t.jinja"),
                                        "--conversation", folder_.File("c.json")});
    out_ = testing::internal::GetCapturedStdout();
    return status;
  }

  const TempDir folder_;
  std::string out_;
};

TEST_F(TemplateCommand, PrintsTheRenderingAndNothingElse) {
  const absl::Status status =
      Run("{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}{% endfor %}"
          "{% if add_generation_prompt %}<assistant>{% endif %}",
          R"({"messages": [{"role": "user", "content": " Grüß dich "}],
              "add_generation_prompt": true, "bos_token": "<s>"})");
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(out_, "<s><user>Grüß dich<assistant>");
}

TEST_F(TemplateCommand, ErrorsNameTheFileTheLineAndTheRemedy) {
  const std::string fine = R"({"messages": []})";
  EXPECT_THAT(Run("a\n{{ b", fine).ToString(), HasSubstr("t.jinja: line 2: {{ has no end }}"));
  EXPECT_THAT(Run("{{ a.b }}", fine).ToString(), HasSubstr("t.jinja: line 1: 'a' is undefined"));
  EXPECT_THAT(Run("x", "{").ToString(), HasSubstr("c.json: not JSON"));
  EXPECT_THAT(Run("x", "[]").ToString(), HasSubstr("no list of messages; write {\"messages\""));
  EXPECT_THAT(Run("{% for a in range(99999) %}{{ 'x' * 9999 }}{% endfor %}", fine).ToString(),
              HasSubstr("more than"));
}

}  // namespace tidegate::template_test
