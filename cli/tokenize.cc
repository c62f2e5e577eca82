// `tidegate tokenize`: text to ids and back.
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/flags.h"
#include "base/numbers.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/terminal_text.h"
#include "measure/load_tokenizer.h"

namespace tidegate {
namespace {

constexpr uint64_t kMaxInputBytes = kGiB;

struct TokenizeOptions {
  std::string model;
  std::string file;  // empty: standard input
  bool no_special = false;
  bool parse_special = false;
  bool decode = false;
};

// Ids of "[1, 2, 3]" or of the same without brackets or without commas.
absl::StatusOr<std::vector<TokenId>> ParseIds(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar("[], \t\r\n"), absl::SkipEmpty())) {
    const auto id = ParseInteger({word.data(), word.size()}, {0, tokenizer.vocab_size() - 1});
    if (!id.ok()) return Annotate(id.status(), "token ids of this model");
    ids.push_back(static_cast<TokenId>(*id));
  }
  return ids;
}

absl::Status RunTokenize(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(options.model));
  ASSIGN_OR_RETURN(const std::string input,
                   ReadFile(options.file.empty() ? "-" : options.file, kMaxInputBytes));
  if (options.decode) {
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, ParseIds(input, *tokenizer));
    const std::string text = tokenizer->Decode(ids, /*render_special=*/!options.no_special);
    const std::string shown = ForOutput(text);
    std::fwrite(shown.data(), 1, shown.size(), stdout);
    return absl::OkStatus();
  }
  const PromptPart part = {input, /*trusted=*/options.parse_special};
  const std::vector<TokenId> ids =
      tokenizer->EncodePrompt({&part, 1}, /*add_special=*/!options.no_special);
  std::printf("[%s]\n", absl::StrJoin(ids, ", ").c_str());
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App& command = AddSubcommand(
      app, "tokenize", "Print the token ids of a text",
      "The text is taken as it is, a line break at its end included. The ids are a JSON array.\n"
      "Names of control tokens in the text, such as </s>, are text unless --parse-special is "
      "given.\n"
      "\n"
      "Examples:\n"
      "  printf 'Once upon a time' | tidegate tokenize model.gguf\n"
      "  tidegate tokenize model.tgpack --file story.txt --no-special\n"
      "  echo '[1, 429, 337]' | tidegate tokenize model.gguf --decode",
      [options, &run](const CLI::App&) { run = [options] { return RunTokenize(*options); }; });
  AddTextFlag(command, "MODEL", options->model, "GGUF file, pack or Hugging Face folder")
      .Required();
  AddFileFlag(command, "--file", options->file, "Read this file, not standard input");
  AddSwitch(command, "--no-special", options->no_special,
            "Ids: add no BOS and no EOS. Text (--decode): leave special tokens out");
  AddSwitch(command, "--parse-special", options->parse_special,
            "Names of control tokens in the text are these tokens, as in a chat template");
  AddSwitch(command, "--decode", options->decode, "The other way: read ids, print their text");
}

}  // namespace tidegate
