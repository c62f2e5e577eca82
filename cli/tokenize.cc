// `tidegate tokenize`: text to ids and back.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "base/units.h"
#include "cli/commands.h"
#include "cli/load_tokenizer.h"

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

// Everything up to the end of a file, a pipe or a terminal. `name` is for messages.
absl::StatusOr<std::string> ReadAll(int fd, const std::string& name) {
  std::string content;
  std::vector<char> buffer(size_t{64} << 10);
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read ", name));
    if (n == 0) return content;
    content.append(buffer.data(), static_cast<size_t>(n));
    if (content.size() > kMaxInputBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is larger than ", FormatBytes(kMaxInputBytes), "; split it"));
    }
  }
}

absl::StatusOr<std::string> ReadInput(const std::string& file) {
  if (file.empty()) return ReadAll(STDIN_FILENO, "standard input");
  ASSIGN_OR_RETURN(const UniqueFd fd, UniqueFd::Open(file, O_RDONLY));
  return ReadAll(fd.get(), file);
}

absl::Status Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return absl::ErrnoToStatus(errno, "cannot write to standard output");
  }
  return absl::OkStatus();
}

// Ids of "[1, 2, 3]" or of the same without brackets or without commas.
absl::StatusOr<std::vector<TokenId>> ParseIds(const std::string& text, const Tokenizer& tokenizer) {
  std::vector<TokenId> ids;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar("[], \t\r\n"), absl::SkipEmpty())) {
    TokenId id = 0;
    if (!absl::SimpleAtoi(word, &id) || !tokenizer.IsValid(id)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "\"", absl::CHexEscape(word.substr(0, 40)),
          "\" is not a token id; ids of this model are 0 to ", tokenizer.vocab_size() - 1));
    }
    ids.push_back(id);
  }
  return ids;
}

absl::Status RunTokenize(const TokenizeOptions& options) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(options.model));
  ASSIGN_OR_RETURN(const std::string input, ReadInput(options.file));
  if (options.decode) {
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, ParseIds(input, *tokenizer));
    return Print(tokenizer->Decode(ids, /*render_special=*/!options.no_special));
  }
  const PromptPart part = {input, /*trusted=*/options.parse_special};
  const std::vector<TokenId> ids =
      tokenizer->EncodePrompt({&part, 1}, /*add_special=*/!options.no_special);
  return Print(absl::StrCat("[", absl::StrJoin(ids, ", "), "]\n"));
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Print the token ids of a text");
  command->footer(
      "The text is taken as it is, a line break at its end included. The ids are a JSON array.\n"
      "Names of control tokens in the text, such as </s>, are text unless --parse-special is "
      "given.\n"
      "\n"
      "Examples:\n"
      "  printf 'Once upon a time' | tidegate tokenize model.gguf\n"
      "  tidegate tokenize model.tgpack --file story.txt --no-special\n"
      "  echo '[1, 429, 337]' | tidegate tokenize model.gguf --decode");
  command->add_option("MODEL", options->model, "GGUF file, pack or Hugging Face folder")
      ->required();
  command->add_option("--file", options->file, "Read this file, not standard input")
      ->check(NotEmpty());
  command->add_flag("--no-special", options->no_special,
                    "Ids: add no BOS and no EOS. Text (--decode): leave special tokens out");
  command->add_flag("--parse-special", options->parse_special,
                    "Names of control tokens in the text are these tokens, as in a chat template");
  command->add_flag("--decode", options->decode, "The other way: read ids, print their text");
  command->callback([options, &run] { run = [options] { return RunTokenize(*options); }; });
}

}  // namespace tidegate
