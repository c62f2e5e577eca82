#include "packer/json_pipeline.h"

#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "packer/pre_tokenizers.h"

namespace tidegate {
namespace {

using Json = nlohmann::json;
using store::v1::SplitStep;
using store::v1::Tokenizer;

constexpr char kSpaceMark[] = "\xe2\x96\x81";  // U+2581
constexpr int kMaxDepth = 8;

using StepTaker = std::function<absl::Status(const Json& step, const std::string& type)>;

// Calls `take` for each step of a tree that is not itself a sequence, in order.
absl::Status ForEachStep(const Json& tree, const StepTaker& take, int depth = 0) {
  if (tree.is_null()) return absl::OkStatus();
  const std::string type = JsonText(tree, "type");
  if (depth > kMaxDepth || type.empty()) {
    return absl::InvalidArgumentError("a step without a type, or sequences too deep");
  }
  if (type != "Sequence") return take(tree, type);
  for (const char* key : {"normalizers", "pretokenizers", "processors", "decoders"}) {
    for (const Json& step : JsonMember(tree, key)) {
      RETURN_IF_ERROR(ForEachStep(step, take, depth + 1));
    }
  }
  return absl::OkStatus();
}

absl::Status NotSupported(const char* part, const std::string& type) {
  return absl::InvalidArgumentError(
      absl::StrCat(part, " step \"", Printable(type, 80), "\" is not supported"));
}

void AddStep(const std::string& pattern, SplitStep::Cut cut, bool invert, Tokenizer& tokenizer) {
  SplitStep& step = *tokenizer.add_split_steps();
  step.set_pattern(pattern);
  step.set_cut(cut);
  step.set_invert(invert);
}

absl::StatusOr<SplitStep::Cut> CutOf(const std::string& behavior) {
  static constexpr std::pair<const char*, SplitStep::Cut> kCuts[] = {
      {"Isolated", SplitStep::CUT_ISOLATED},
      {"Removed", SplitStep::CUT_REMOVED},
      {"MergedWithPrevious", SplitStep::CUT_MERGED_WITH_PREVIOUS},
      {"MergedWithNext", SplitStep::CUT_MERGED_WITH_NEXT},
      {"Contiguous", SplitStep::CUT_CONTIGUOUS},
  };
  for (const auto& [name, cut] : kCuts) {
    if (behavior == name) return cut;
  }
  return NotSupported("pre_tokenizer behavior", behavior);
}

// `text` as a pattern that matches nothing else.
std::string Literally(const std::string& text) {
  std::string pattern;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x80 && !absl::ascii_isalnum(byte)) {
      absl::StrAppend(&pattern, "\\x{", absl::Hex(byte), "}");
    } else {
      pattern.push_back(c);
    }
  }
  return pattern;
}

absl::Status TakeSplit(const Json& step, Tokenizer& tokenizer) {
  const Json& pattern = JsonMember(step, "pattern");
  const std::string regex = JsonText(pattern, "Regex");
  const std::string literal = JsonText(pattern, "String");
  if (tokenizer.model() == "llama") {
    // Spaces are U+2581 by then: Gemma's cut at spaces finds none.
    if (literal == " ") return absl::OkStatus();
    return NotSupported("pre_tokenizer", "Split of a SentencePiece vocabulary");
  }
  if (regex.empty() && literal.empty()) return NotSupported("pre_tokenizer", "Split by nothing");
  ASSIGN_OR_RETURN(const SplitStep::Cut cut, CutOf(JsonText(step, "behavior")));
  AddStep(regex.empty() ? Literally(literal) : regex, cut, JsonFlag(step, "invert", false),
          tokenizer);
  return absl::OkStatus();
}

absl::Status TakeMetaspace(const Json& step, Tokenizer& tokenizer) {
  if (JsonText(step, "replacement") != kSpaceMark || tokenizer.model() != "llama") {
    return NotSupported("pre_tokenizer", "Metaspace with another replacement");
  }
  if (JsonFlag(step, "split", true)) {
    return NotSupported("pre_tokenizer", "Metaspace that splits words");
  }
  const std::string scheme = JsonText(step, "prepend_scheme");
  tokenizer.set_add_space_prefix(scheme.empty() ? JsonFlag(step, "add_prefix_space", true)
                                                : scheme != "never");
  return absl::OkStatus();
}

void TakeByteLevel(const Json& step, Tokenizer& tokenizer) {
  if (JsonFlag(step, "use_regex", true)) {
    AddStep(Gpt2Pattern(), SplitStep::CUT_ISOLATED, false, tokenizer);
  }
  if (JsonFlag(step, "add_prefix_space", true)) tokenizer.set_add_space_prefix(true);
}

absl::Status TakeTemplate(const Json& step, Tokenizer& tokenizer) {
  bool before = true;
  const Json& specials = JsonMember(step, "special_tokens");
  for (const Json& item : JsonMember(step, "single")) {
    if (item.contains("Sequence")) before = false;
    if (!item.contains("SpecialToken")) continue;
    const Json& named = JsonMember(specials, JsonText(item["SpecialToken"], "id").c_str());
    const Json& ids = JsonMember(named, "ids");
    if (!ids.is_array() || ids.size() != 1 || !ids[0].is_number_unsigned() ||
        ids[0].get<uint64_t>() >= static_cast<uint64_t>(tokenizer.tokens_size()) ||
        (before ? tokenizer.add_bos() : tokenizer.add_eos())) {
      return NotSupported("post_processor", "TemplateProcessing with other than one token a side");
    }
    if (before) {
      tokenizer.set_bos_id(ids[0].get<uint32_t>());
      tokenizer.set_add_bos(true);
    } else {
      tokenizer.set_eos_id(ids[0].get<uint32_t>());
      tokenizer.set_add_eos(true);
    }
  }
  return absl::OkStatus();
}

}  // namespace

const Json& JsonMember(const Json& object, const char* key) {
  static const Json& null = *new Json();
  if (!object.is_object()) return null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

std::string JsonText(const Json& object, const char* key) {
  const Json& value = JsonMember(object, key);
  return value.is_string() ? value.get<std::string>() : "";
}

bool JsonFlag(const Json& object, const char* key, bool fallback) {
  const Json& value = JsonMember(object, key);
  return value.is_boolean() ? value.get<bool>() : fallback;
}

bool HasStep(const Json& tree, const std::string& wanted) {
  bool found = false;
  const absl::Status status = ForEachStep(tree, [&](const Json&, const std::string& type) {
    found = found || type == wanted;
    return absl::OkStatus();
  });
  return status.ok() && found;
}

absl::Status TakeNormalizer(const Json& tree, Tokenizer& tokenizer) {
  const bool marks_spaces = tokenizer.model() == "llama";
  return ForEachStep(tree, [&](const Json& step, const std::string& type) -> absl::Status {
    if (type == "NFC" || type == "NFKC") return absl::OkStatus();
    if (type == "Prepend" && marks_spaces && JsonText(step, "prepend") == kSpaceMark) {
      tokenizer.set_add_space_prefix(true);
      return absl::OkStatus();
    }
    if (type == "Replace" && marks_spaces && JsonText(step, "content") == kSpaceMark &&
        JsonText(JsonMember(step, "pattern"), "String") == " ") {
      return absl::OkStatus();
    }
    return NotSupported("normalizer", type);
  });
}

absl::Status TakePreTokenizer(const Json& tree, Tokenizer& tokenizer) {
  const bool byte_level = tokenizer.model() == "gpt2";
  return ForEachStep(tree, [&](const Json& step, const std::string& type) -> absl::Status {
    if (type == "Split") return TakeSplit(step, tokenizer);
    if (type == "Metaspace") return TakeMetaspace(step, tokenizer);
    if (!byte_level) return NotSupported("pre_tokenizer", type);
    if (type == "ByteLevel") {
      TakeByteLevel(step, tokenizer);
    } else if (type == "Digits") {
      AddStep(JsonFlag(step, "individual_digits", false) ? R"(\p{N})" : R"(\p{N}+)",
              SplitStep::CUT_ISOLATED, false, tokenizer);
    } else if (type == "Punctuation") {
      const std::string behavior = JsonText(step, "behavior");
      ASSIGN_OR_RETURN(const SplitStep::Cut cut, CutOf(behavior.empty() ? "Isolated" : behavior));
      AddStep(R"([\p{P}!-/:-@\[-`{-~])", cut, false, tokenizer);
    } else {
      return NotSupported("pre_tokenizer", type);
    }
    return absl::OkStatus();
  });
}

absl::Status TakePostProcessor(const Json& tree, Tokenizer& tokenizer) {
  return ForEachStep(tree, [&](const Json& step, const std::string& type) -> absl::Status {
    if (type == "ByteLevel") return absl::OkStatus();  // Only offsets.
    if (type == "TemplateProcessing") return TakeTemplate(step, tokenizer);
    return NotSupported("post_processor", type);
  });
}

}  // namespace tidegate
