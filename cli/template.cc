// `tidegate template`: what a chat template makes of a conversation.
#include "template/template.h"

#include <cstdio>
#include <ctime>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "cli/terminal_text.h"
#include "template/json_value.h"
#include "template/lexer.h"

namespace tidegate {
namespace {

constexpr size_t kMaxConversationBytes = 16 << 20;

struct TemplateOptions {
  std::string template_file, conversation_file;
};

// The conversation's members as variables.
absl::StatusOr<jinja::Variables> ReadConversation(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxConversationBytes));
  const absl::StatusOr<jinja::Value> value = jinja::ParseJson(json, jinja::Origin::kData);
  if (!value.ok()) return Annotate(value.status(), path);
  const jinja::Value* messages =
      value->is_dict() ? value->dict().Find(std::string_view("messages")) : nullptr;
  if (messages == nullptr || !messages->is_list()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": no list of messages; write {\"messages\": [{\"role\": \"user\", \"content\": "
        "\"Hi\"}], \"add_generation_prompt\": true}"));
  }
  jinja::Variables variables;
  for (const auto& [key, member] : value->dict().entries) {
    variables.emplace_back(key.text().bytes(), member);
  }
  return variables;
}

absl::Status RunTemplate(const TemplateOptions& options) {
  ASSIGN_OR_RETURN(const std::string source,
                   ReadFile(options.template_file, jinja::kMaxSourceBytes));
  const auto parsed = jinja::Template::Parse(source);
  if (!parsed.ok()) return Annotate(parsed.status(), options.template_file);
  ASSIGN_OR_RETURN(const jinja::Variables variables, ReadConversation(options.conversation_file));
  const auto text = (*parsed)->Render(variables, std::time(nullptr));
  if (!text.ok()) return Annotate(text.status(), options.template_file);
  const std::string shown = ForOutput(text->bytes());
  std::fwrite(shown.data(), 1, shown.size(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddTemplateCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<TemplateOptions>();
  CLI::App& command = AddSubcommand(
      app, "template", "Print a conversation as a chat template has it",
      "\nThe conversation is a JSON object; every member is a variable of the template:\n"
      "  {\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"add_generation_prompt\": "
      "true,\n"
      "   \"bos_token\": \"<s>\", \"eos_token\": \"</s>\"}\n"
      "Templates are rendered as Hugging Face transformers renders them, within limits of time and "
      "size.\n\n"
      "Examples:\n"
      "  tidegate template --template model.jinja --conversation hello.json\n"
      "  echo '{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}' |\n"
      "    tidegate template --template model.jinja --conversation -\n",
      [options, &run](const CLI::App&) { run = [options] { return RunTemplate(*options); }; });
  AddFileFlag(command, "--template", options->template_file, "File with the template").Required();
  AddFileFlag(command, "--conversation", options->conversation_file,
              "File with the conversation; - is standard input")
      .Required();
}

}  // namespace tidegate
