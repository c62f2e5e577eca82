// How a stretch of text without added tokens becomes ids: one implementation per kind of
// vocabulary. Only tokenizer.h uses it.
//
// Thread-safe: all methods are const.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/tokenizer/vocabulary.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

class TextModel {
 public:
  virtual ~TextModel() = default;

  // Appends the ids of `text`, which may be any bytes. Time O(n log n), memory O(n).
  virtual void Encode(std::string_view text, std::vector<int32_t>& out) const = 0;
};

// SentencePiece: the pair of neighbouring symbols whose joined piece has the best score is merged
// first (or, where the vocabulary has merges, the pair with the first of them), what is no piece in
// the end becomes byte tokens, and where the vocabulary lacks one of these the unknown token stands
// for the character. INVALID_ARGUMENT: a vocabulary that cannot express every byte, duplicate
// bytes. `vocabulary` is not owned. Source: Kudo and Richardson, SentencePiece (arXiv 1808.06226),
// and its identity normalisation.
absl::StatusOr<std::unique_ptr<TextModel>> MakeSentencePieceModel(const store::v1::Tokenizer& data,
                                                                  const Vocabulary& vocabulary);

// Byte-level BPE: the text is cut into words (pre_tokenizer.h), bytes of a word are merged, the
// first merge first. A byte without a token becomes the unknown token, nothing if there is none.
// INVALID_ARGUMENT: ids outside the vocabulary, patterns. `vocabulary` is not owned.
// Source: Radford et al., GPT-2.
absl::StatusOr<std::unique_ptr<TextModel>> MakeByteLevelModel(const store::v1::Tokenizer& data,
                                                              const Vocabulary& vocabulary);

}  // namespace tidegate
