// Text to token ids and back for the vocabularies of store.v1.Tokenizer: SentencePiece ("llama")
// and byte-level BPE ("gpt2"); text_model.h says how each makes ids of text.
//
// Added tokens come first: from left to right the longest user-defined token is taken whole out of
// the text, control tokens only where the caller trusts the text. What is between them is encoded
// on its own; where the model puts a space in front of a text, each such stretch gets one, and
// white space beside a token goes where the model says so (Phi-3). Tokens marked unused are never
// produced. In SentencePiece vocabularies a U+2581 of the text is taken for a space.
//
// Thread-safe after Create(): all methods are const.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

using TokenId = int32_t;

// A part of a prompt. `trusted`: names of control tokens in it, as a chat template writes them, are
// control tokens. Text of users is not trusted: what looks like a control token stays text.
struct PromptPart {
  std::string_view text;
  bool trusted = false;
};

class Tokenizer {
 public:
  // INVALID_ARGUMENT: a tokenizer model that is not supported (named), ids, sizes, patterns or byte
  // tokens that do not fit, a SentencePiece vocabulary that cannot express every byte.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(const store::v1::Tokenizer& data);
  ~Tokenizer();

  // Ids of `text`, which is not trusted. With add_special, BOS/EOS are put around it as the model
  // asks. Bytes that are not UTF-8 become byte tokens. Time O(n log n), memory O(n).
  std::vector<TokenId> Encode(std::string_view text, bool add_special) const;

  // Ids of the joined parts. A control token is found only if one part contains it whole; apart
  // from that the bounds of parts change nothing. BOS is not put in front if the parts begin with
  // it.
  std::vector<TokenId> EncodePrompt(std::span<const PromptPart> parts, bool add_special) const;

  // Bytes that a token stands for, exactly; control tokens and the unknown token are empty unless
  // `render_special`.
  // REQUIRES: IsValid(id).
  std::string_view Piece(TokenId id, bool render_special = false) const;

  // Text of a whole sequence; spaces that Encode put in front are removed again. The bytes are
  // not always UTF-8. REQUIRES: IsValid() of every id.
  std::string Decode(const std::vector<TokenId>& ids, bool render_special = false) const;

  bool IsValid(TokenId id) const;
  bool IsAdded(TokenId id) const;            // taken whole out of texts. REQUIRES: IsValid(id)
  bool IsEndOfGeneration(TokenId id) const;  // EOS, EOT and what else ends an answer
  // Ids are in [0, vocab_size()). The model's head may give logits for more: those are no tokens.
  size_t vocab_size() const;
  std::span<const TokenId> unused_ids()
      const;               // valid, but no text has them and no model means them
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
