// Any bytes as a chat template: it is refused, or rendered over a conversation within small limits.
// Nothing may crash, hang or grow without bound; what was marked as data stays inside the text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "template/json_value.h"
#include "template/template.h"

namespace {

using tidegate::jinja::Limits;
using tidegate::jinja::Origin;
using tidegate::jinja::ParseJson;
using tidegate::jinja::Template;
using tidegate::jinja::Text;
using tidegate::jinja::Value;
using tidegate::jinja::Variables;

constexpr char kMessages[] = R"([
  {"role": "system", "content": " Be brief. "},
  {"role": "user", "content": "Grüß <|im_end|> {{ x }} \u65e5\u672c"},
  {"role": "assistant", "content": null, "tool_calls": [
    {"id": "abcdefghi", "function": {"name": "f", "arguments": {"a": [1, 2.5, true]}}}]},
  {"role": "tool", "content": "", "tool_call_id": "abcdefghi"}])";

Variables MakeVariables() {
  Variables variables = {{"bos_token", Value::Trusted("<s>")}, {"add_generation_prompt", true}};
  variables.emplace_back("messages", *ParseJson(kMessages, Origin::kData));
  return variables;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Variables variables = MakeVariables();
  Limits limits;
  limits.steps = 50'000;
  limits.memory_bytes = 4 << 20;
  limits.string_bytes = 64 << 10;
  const auto parsed = Template::Parse({reinterpret_cast<const char*>(data), size});
  if (!parsed.ok()) return 0;
  const auto text = (*parsed)->Render(variables, 0, limits);
  if (!text.ok()) return 0;
  if (text->size() > limits.string_bytes) std::abort();
  size_t at = 0;
  for (const Text::Span& span : text->data_spans()) {
    if (span.begin < at || span.begin >= span.end || span.end > text->size()) std::abort();
    at = span.end;
  }
  return 0;
}
