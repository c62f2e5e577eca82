// The tokens of a vocabulary as bytes, with their kinds and the special ones, checked. What all
// models of text share; how texts become ids is text_model.h.
//
// Thread-safe after ReadVocabulary().
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "engine/tokenizer/added_tokens.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

inline constexpr int32_t kNoToken = -1;

// Values of tokenizer.ggml.token_type.
enum TokenType : uint32_t {
  kNormalToken = 1,
  kUnknownToken = 2,
  kControlToken = 3,
  kUserDefinedToken = 4,
  kUnusedToken = 5,
  kByteToken = 6,
};

struct Vocabulary {
  struct Token {
    std::string_view text;  // bytes that the token stands for
    uint32_t type = 0;
    // Normal, and written in the alphabet that merging works on: merging may give it. Other normal
    // tokens only have a text (emoji that stand as such in a byte-level vocabulary).
    bool is_piece = false;
    bool is_added() const { return type == kControlToken || type == kUserDefinedToken; }
  };

  std::string arena;  // owns what the views point to
  std::vector<Token> tokens;
  AddedTokens added;
  std::vector<int32_t> unused;
  absl::flat_hash_set<int32_t> ends;                     // tokens that end an answer
  absl::flat_hash_set<int32_t> strip_left, strip_right;  // added tokens that swallow white space
  int32_t bos = kNoToken, eos = kNoToken, unknown = kNoToken;
  bool add_bos = false, add_eos = false, add_space_prefix = false;
  bool byte_level = false;  // "gpt2"; otherwise "llama", where U+2581 is a space

  Vocabulary() = default;
  Vocabulary(const Vocabulary&) = delete;  // views point into it
};

// INVALID_ARGUMENT: a tokenizer model that is not supported (named), ids, sizes or byte tokens that
// do not fit. REQUIRES: `vocabulary` is new.
absl::Status ReadVocabulary(const store::v1::Tokenizer& data, Vocabulary& vocabulary);

// "text" in quotes with everything unprintable escaped, for messages.
std::string QuotedToken(std::string_view text);

}  // namespace tidegate
