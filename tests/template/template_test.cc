// Templates against what Jinja2 makes of them (tests/template/oracle_test.py wrote the files and
// checks them), against their limits, and the marks of what came from outside.
#include "template/template.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "base/text.h"
#include "nlohmann/json.hpp"
#include "template/json_value.h"
#include "template/lexer.h"
#include "tests/support/test_support.h"

namespace tidegate::jinja::template_test {

using Json = nlohmann::ordered_json;

absl::StatusOr<Text> Render(std::string_view source, const std::string& input,
                            const Limits& limits = {}) {
  const auto parsed = Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  const auto variables = ParseJson(input, Origin::kData);
  if (!variables.ok()) return variables.status();
  Variables named;
  for (const auto& [key, value] : variables->dict().entries) {
    named.emplace_back(key.text().bytes(), value);
  }
  return (*parsed)->Render(named, 0, limits);
}

std::string RenderOrError(std::string_view source, const std::string& input = "{}") {
  const absl::StatusOr<Text> text = Render(source, input);
  return text.ok() ? text->bytes() : text.status().ToString();
}

// A case: "output" or "error" (true: any; a string: what the template raises).
void CheckCase(std::string_view source, const Json& input, const Json& example) {
  const absl::StatusOr<Text> text = Render(source, input.dump());
  if (example.contains("output")) {
    ASSERT_TRUE(text.ok()) << text.status() << "\n" << source;
    EXPECT_EQ(text->bytes(), example["output"].get<std::string>()) << source;
    return;
  }
  ASSERT_FALSE(text.ok()) << text->bytes() << "\n" << source;
  if (!example["error"].is_string()) return;
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << text.status();
  EXPECT_EQ(std::string(text.status().message()), example["error"].get<std::string>());
}

// Renders NAME.jinja over the cases of every NAME.json in `folder`; how many there were.
size_t CheckFolder(const std::filesystem::path& folder) {
  size_t families = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".jinja") continue;
    ++families;
    const std::string source = ReadFileOrDie(entry.path());
    const Json file =
        Json::parse(ReadFileOrDie(std::filesystem::path(entry.path()).replace_extension(".json")));
    EXPECT_FALSE(file["cases"].empty());
    for (const Json& example : file["cases"]) {
      SCOPED_TRACE(absl::StrCat(entry.path().filename().string(), " / ",
                                example["name"].get<std::string>()));
      CheckCase(source, example["input"], example);
    }
  }
  return families;
}

TEST(TemplateOracle, OwnTemplatesRenderAsJinja2RendersThem) {
  EXPECT_GE(CheckFolder(SourcePath("tests/testdata/templates")), 12u);
}

TEST(TemplateOracle, PublishedTemplatesRenderAsJinja2RendersThem) {
  const std::string folder = SharedPath("data/templates");
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "oracle data absent: " << folder;
  EXPECT_GE(CheckFolder(folder), 6u);
}

TEST(TemplateOracle, SnippetsRenderAsJinja2RendersThem) {
  const Json file =
      Json::parse(ReadFileOrDie(SourcePath("tests/testdata/templates/snippets.json")));
  EXPECT_GE(file["cases"].size(), 100u);
  for (const Json& snippet : file["cases"]) {
    CheckCase(snippet["template"].get<std::string>(), file["input"], snippet);
  }
}

TEST(Template, TellsTheTimeItIsGiven) {
  setenv("TZ", "UTC", 1);
  EXPECT_EQ(RenderOrError("{{ strftime_now('%d %b %Y') }}"), "01 Jan 1970");
  EXPECT_NE(RenderOrError("{{ strftime_now('%999999d') }}").find("FAILED_PRECONDITION"),
            std::string::npos);
}

TEST(Template, ErrorsNameTheLineAndTheThing) {
  const struct {
    const char* source;
    const char* expected;
  } cases[] = {
      {"a\n{{ b", "INVALID_ARGUMENT: line 2: {{ has no end }}"},
      {"{% if a %}", "INVALID_ARGUMENT: line 1: unexpected the end of the template"},
      {"\n{% endif %}", "line 2: unexpected 'endif'"},
      {"{% include 'x' %}", "no other tag is supported"},
      {"{{ 1 + }}", "line 1: unexpected '}}', expected an expression"},
      {"{{ 'a }}", "line 1: a string has no closing quote"},
      {"{{ 99999999999999999999 }}", "does not fit into 64 bits"},
      {"{{ a ? b }}", "unexpected character '?'"},
      {"{% set true = 1 %}", "cannot assign to true"},
      {"{% break %}", "break outside of a loop"},
      {"\n\n{{ a.b }}", "FAILED_PRECONDITION: line 3: 'a' is undefined"},
      {"{{ 1|shout }}", "line 1: there is no filter 'shout'"},
      {"{{ 1 is odder }}", "there is no test 'odder'"},
      {"{{ 'a' + 1 }}", "'+' does not work on a str object and a int object"},
      {"{{ [1].append(2) }}", "templates cannot change lists and dicts"},
      {"{{ 1 // 0 }}", "division by zero"},
      {"{{ 9223372036854775807 + 1 }}", "leaves the range of 64 bits"},
      {"{{ (0 - 9223372036854775807 - 1) // -1 }}", "leaves the range of 64 bits"},
      {"{{ (0 - 9223372036854775807 - 1) % -1 }}", "0"},
      {"{% for a, b in [[1]] %}{% endfor %}", "1 values to unpack into 2 names"},
      {"{% set x.y = 1 %}", "cannot assign attribute on non-namespace object 'x'"},
      {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "takes not more than 1 argument"},
      {"{{ raise_exception('No ' + 'way') }}", "INVALID_ARGUMENT: No way"},
      // Cuts are between characters.
      {"{{ raise_exception('x' + '\xc3\xa9' * 600) }}", "INVALID_ARGUMENT: x\xc3\xa9"},
      {"{% set a = {} %}{{ a['x' + '\xc3\xa9' * 60].b }}", "FAILED_PRECONDITION: line 1: "},
      {"{% set a = 1 %}{{ a['x' + '\xc3\xa9' * 60].b }}", "FAILED_PRECONDITION: line 1: "},
  };
  for (const auto& [source, expected] : cases) {
    EXPECT_NE(RenderOrError(source).find(expected), std::string::npos) << source << "\n"
                                                                       << RenderOrError(source);
    EXPECT_TRUE(IsValidUtf8(RenderOrError(source))) << source;
  }
}

std::string Repeated(const std::string& piece, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += piece;
  return out;
}

// Every one of these would take for ever, or all memory, or the stack.
TEST(Template, HostileTemplatesEndAtALimit) {
  const std::string cases[] = {
      "{% for i in range(1000000000) %}{% endfor %}",
      "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
      "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
      "{{ n.s }}",
      "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
      "{{ n.s }}",
      "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
      "{{ n.s|tojson }}",
      "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
      "{{ n.s == n.s + [] }}",
      "{% set n = namespace(x=1) %}{% for i in range(99999) %}{% for y in [n.x] %}"
      "{% set n.x = loop %}{% endfor %}{% endfor %}",
      "{{ 'x' * 999999999999 }}",
      "{{ [0] * 999999999999 }}",
      "{{ 'x'.ljust(999999999999) }}",
      "{{ 'x'|center(999999999999) }}",
      "{{ ('a' * 4000000).replace('a', 'b' * 4000000) }}",
      "{{ (('a' * 4000000) ~ 'b') in ('a' * 8000000) }}",
      "{{ 'x'|indent(999999999999) }}",
      "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m(a) %}{{ m([a, a]) }}{{ m(a) }}{% endmacro %}{{ m(1) }}",
      "{% macro m(a=m()) %}{% endmacro %}{{ m() }}",
      "{{ 'a'|map(" + Repeated("'map', ", 2000) + "'upper')|list }}",
      "{{ [1]|batch(999999999999, 0)|list }}",
      "{% set n = namespace() %}{% for i in range(99999) %}{% set n.s = 'x' * 8000000 %}{% endfor "
      "%}",
  };
  for (const std::string& source : cases) {
    const absl::StatusOr<Text> text = Render(source, "{}");
    EXPECT_EQ(text.status().code(), absl::StatusCode::kResourceExhausted) << text.status() << "\n"
                                                                          << source.substr(0, 200);
  }
  const std::string deep[] = {
      Repeated("{{ ", 1) + Repeated("(", 100000) + "1" + Repeated(")", 100000) + " }}",
      "{{ " + Repeated("[", 100000) + Repeated("]", 100000) + " }}",
      "{{ " + Repeated("{1:", 100000) + "1" + Repeated("}", 100000) + " }}",
      "{{ " + Repeated("not ", 100000) + "1 }}",
      "{{ " + Repeated("-", 100000) + "1 }}",
      "{{ 1" + Repeated("+1", 100000) + " }}",
      "{{ 1" + Repeated("|int", 100000) + " }}",
      "{{ a" + Repeated(".b", 100000) + " }}",
      "{{ a" + Repeated("[a", 100000) + Repeated("]", 100000) + " }}",
      "{{ a" + Repeated("(a", 100000) + Repeated(")", 100000) + " }}",
      "{{ 1" + Repeated(" if 1 else 1", 100000) + " }}",
      Repeated("{% if 1 %}", 100000) + Repeated("{% endif %}", 100000),
      Repeated("{% for i in [1] %}", 100000),
      Repeated("a", kMaxSourceBytes + 1),
  };
  for (const std::string& source : deep) {
    const absl::StatusOr<Text> text = Render(source, "{}");
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << text.status() << "\n"
                                                                        << source.substr(0, 60);
  }
}

TEST(Template, MacroOutlivingItsScopeIsAnError) {
  EXPECT_NE(RenderOrError("{% set n = namespace() %}{% for i in [1] %}{% macro m() %}{{ i }}"
                          "{% endmacro %}{% set n.m = m %}{% endfor %}{{ n.m() }}")
                .find("called after the block that defines it"),
            std::string::npos);
}

// What came from outside, in brackets.
std::string Marked(const Text& text) {
  std::string out;
  size_t at = 0;
  for (const Text::Span& span : text.data_spans()) {
    out += text.bytes().substr(at, span.begin - at) + "[" +
           text.bytes().substr(span.begin, span.end - span.begin) + "]";
    at = span.end;
  }
  return out + text.bytes().substr(at);
}

TEST(Template, MarksWhatCameFromOutside) {
  const struct {
    const char* source;
    const char* expected;
  } cases[] = {
      {"<u>{{ c }}<e>", "<u>[ aB c ]<e>"},
      {"{{ '<u>' + c|trim + '<e>' }}", "<u>[aB c]<e>"},
      {"{{ '<u>' ~ c.strip().upper() ~ c[2:] }}", "<u>[AB CB c ]"},
      {"{{ ('<u>' + c)|lower }}", "<u>[ ab c ]"},
      {"{{ ('<u>' + c)[:4] }}|{{ c|replace('B', '<x>') }}", "<u>[ ]|[ a]<x>[ c ]"},
      {"{{ c.split()|join('<s>') }}", "[aB]<s>[c]"},
      {"{% set x %}<u>{{ c }}{% endset %}{{ x|trim }}", "<u>[ aB c]"},
      {"{% macro m(t) %}<{{ t|trim }}>{% endmacro %}{{ m(c) }}", "<[aB c]>"},
      {"{{ {'k': c}|tojson }}", "{\"k\": \"[ aB c ]\"}"},
      {"{{ [c, 1] }}", "['[ aB c ]', 1]"},
      {"{% for x in c.split() %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}", "[aB],[c]"},
      {"{{ '%s<e>' % c }}{{ '{}<e>'.format(c) }}", "[ aB c ]<e>[ aB c ]<e>"},
      {"{{ c|reverse }}", "[ c Ba ]"},
      {"{{ 'x<u>'|indent ~ (c * 2) }}", "x<u>[ aB c  aB c ]"},
      {"{% filter upper %}<u>{{ c }}{% endfilter %}", "<U>[ AB C ]"},
  };
  for (const auto& [source, expected] : cases) {
    const absl::StatusOr<Text> text = Render(source, R"({"c": " aB c "})");
    ASSERT_TRUE(text.ok()) << text.status() << "\n" << source;
    EXPECT_EQ(Marked(*text), expected) << source;
  }
}

}  // namespace tidegate::jinja::template_test
