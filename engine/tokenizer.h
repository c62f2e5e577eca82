// Text to token ids and back for SentencePiece-style vocabularies in GGUF metadata
// (tokenizer.ggml.model = "llama"): the pair of neighbouring symbols whose joined piece has the
// best score is merged first (leftmost on ties), what is no piece in the end becomes byte tokens.
// Spaces are U+2581 in such vocabularies; a U+2581 in a text is therefore taken for a space.
// User-defined tokens are found in the text before anything is merged, from left to right, the
// longest first; tokens marked unused are never produced. Source: Kudo and Richardson,
// SentencePiece (arXiv 1808.06226), and its identity normalisation.
//
// Thread-safe after Create(): all methods are const.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

using TokenId = int32_t;

class Tokenizer {
 public:
  // INVALID_ARGUMENT: a tokenizer model that is not supported (named), ids, sizes or byte tokens
  // that do not fit, a vocabulary that cannot express every byte.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const store::v1::Tokenizer& data);
  ~Tokenizer();

  // Ids of `text`. With add_special, BOS/EOS are put around it as the model asks. Text that looks
  // like a control token ("</s>") stays text. Invalid UTF-8 becomes byte tokens; where the
  // vocabulary lacks a byte, the unknown token stands for the character. Time O(n log n), memory
  // O(n).
  std::vector<TokenId> Encode(std::string_view text, bool add_special) const;

  // Bytes that a token stands for, exactly; control tokens and the unknown token are empty unless
  // `render_special`.
  // REQUIRES: IsValid(id).
  std::string_view Piece(TokenId id, bool render_special = false) const;

  // Text of a whole sequence; the space that Encode put in front is removed again. The bytes are
  // not always UTF-8. REQUIRES: IsValid() of every id.
  std::string Decode(const std::vector<TokenId>& ids, bool render_special = false) const;

  bool IsValid(TokenId id) const;
  bool IsEndOfGeneration(TokenId id) const;  // EOS, EOT
  size_t vocab_size() const;
  TokenId bos_id() const;  // -1 if there is none
  TokenId eos_id() const;
  bool adds_space_prefix() const;  // Encode puts a space in front of a text

 private:
  struct Data;
  explicit Tokenizer(std::unique_ptr<Data> data);
  std::unique_ptr<Data> data_;
};

// Turns a growing sequence of tokens into text that is valid UTF-8 at every step: bytes of an
// unfinished character wait for the rest. Bytes that can never become a character come out as
// U+FFFD, so that every text event can be a protobuf string. Owned by one stream.
class StreamingDetokenizer {
 public:
  // `tokenizer` is not owned. `continues_text`: false drops the leading space that Encode adds.
  StreamingDetokenizer(const Tokenizer& tokenizer, bool continues_text);

  // Text that became complete with this token; may be empty. REQUIRES: IsValid(id).
  std::string Add(TokenId id);

  // What is left at the end of the stream.
  std::string Finish();

 private:
  std::string TakeComplete(bool all);

  const Tokenizer& tokenizer_;
  bool drop_space_;
  std::string pending_;
};

}  // namespace tidegate
