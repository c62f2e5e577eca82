#include "measure/choice_questions.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "base/config_file.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxChoices = 16;
constexpr size_t kMaxFileBytes = size_t{1} << 30;
constexpr size_t kMaxQuestionTokens = 4096;  // of a question with its longest choice

struct QuestionText {
  std::string context;
  std::vector<std::string> choices;
  size_t answer = 0;
};

absl::StatusOr<QuestionText> ParseLine(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [](const std::string& what) { return absl::InvalidArgumentError(what); };
  if (!json.is_object()) return wrong("no JSON object");
  static const std::vector<std::string>& keys =
      *new std::vector<std::string>{"context", "choices", "answer"};
  for (const auto& [key, value] : json.items()) {
    if (std::find(keys.begin(), keys.end(), key) != keys.end()) continue;
    const std::string nearest = NearestName(key, keys);
    return wrong(absl::StrCat("the key ", Quoted(key), " is not known",
                              nearest.empty() ? "; use context, choices and answer"
                                              : absl::StrCat("; did you mean ", nearest, "?")));
  }
  QuestionText question;
  const auto context = json.find("context"), choices = json.find("choices"),
             answer = json.find("answer");
  if (context == json.end() || !context->is_string()) return wrong("\"context\" is no string");
  question.context = context->get<std::string>();
  if (choices == json.end() || !choices->is_array() || choices->size() < 2 ||
      choices->size() > kMaxChoices) {
    return wrong(absl::StrCat("\"choices\" is no list of 2 to ", kMaxChoices, " texts"));
  }
  for (const Json& choice : *choices) {
    if (!choice.is_string() || choice.get<std::string>().empty()) {
      return wrong("a choice is no text");
    }
    question.choices.push_back(choice.get<std::string>());
  }
  if (answer == json.end() || !answer->is_number_unsigned() ||
      answer->get<uint64_t>() >= question.choices.size()) {
    return wrong("\"answer\" is no index into \"choices\", counted from 0");
  }
  question.answer = answer->get<size_t>();
  return question;
}

// Tokens depend on what follows them: the context of a question is what all of its choices have in
// common, and less than any of them.
absl::StatusOr<ChoiceQuestion> Encode(const QuestionText& text, const Tokenizer& tokenizer) {
  std::vector<TokenId> context = tokenizer.Encode(text.context, true);
  std::vector<std::vector<TokenId>> whole;
  size_t common = context.size();
  for (const std::string& choice : text.choices) {
    whole.push_back(tokenizer.Encode(text.context + choice, true));
    const auto& ids = whole.back();
    const auto differs = std::mismatch(context.begin(), context.end(), ids.begin(), ids.end());
    common = std::min({common, static_cast<size_t>(differs.first - context.begin()),
                       ids.size() - std::min<size_t>(ids.size(), 1)});
    if (ids.size() > kMaxQuestionTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat("has ", ids.size(), " tokens, more than ", kMaxQuestionTokens));
    }
  }
  if (common == 0) {
    return absl::InvalidArgumentError("\"context\" is empty, and the model has no BOS token");
  }
  ChoiceQuestion question;
  question.answer = text.answer;
  question.context.assign(context.begin(), context.begin() + static_cast<ptrdiff_t>(common));
  for (size_t i = 0; i < whole.size(); ++i) {
    question.choices.emplace_back(whole[i].begin() + static_cast<ptrdiff_t>(common),
                                  whole[i].end());
    question.choice_bytes.push_back(text.choices[i].size());
  }
  return question;
}

}  // namespace

absl::StatusOr<std::vector<ChoiceQuestion>> ReadChoiceQuestions(const std::string& path,
                                                                const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(std::string content, ReadFile(path, kMaxFileBytes));
  std::istringstream in(std::move(content));
  std::vector<ChoiceQuestion> questions;
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = absl::StrCat(path, ":", number);
    const auto text = ParseLine(line);
    if (!text.ok()) return Annotate(text.status(), where);
    auto question = Encode(*text, tokenizer);
    if (!question.ok()) return Annotate(question.status(), where);
    questions.push_back(*std::move(question));
    if (questions.size() > kMaxQuestions) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": more than ", kMaxQuestions, " questions"));
    }
  }
  if (questions.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no questions"));
  return questions;
}

}  // namespace tidegate
