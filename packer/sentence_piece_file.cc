// tokenizer.model: a protobuf message, of which proto/sentencepiece/model.proto has the part we
// need.
#include <climits>

#include "absl/strings/str_cat.h"
#include "packer/hf_tokenizer.h"
#include "packer/special_tokens.h"
#include "proto/sentencepiece/model.pb.h"

namespace tidegate {
namespace {

constexpr int kBpe = 2;

bool InVocabulary(int id, const store::v1::Tokenizer& tokenizer) {
  return id >= 0 && id < tokenizer.tokens_size();  // -1: there is none
}

}  // namespace

absl::StatusOr<store::v1::Tokenizer> TokenizerFromSentencePiece(std::string_view bytes) {
  sentencepiece::Model model;
  if (bytes.size() > INT_MAX ||
      !model.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      model.pieces_size() == 0) {
    return absl::InvalidArgumentError("not a SentencePiece model");
  }
  if (model.trainer_spec().model_type() != kBpe) {
    return absl::InvalidArgumentError(absl::StrCat(
        "SentencePiece model type ", model.trainer_spec().model_type(),
        " is not supported; 2 (BPE) is, as Llama 2, Mistral, Phi-3 and Gemma have it"));
  }
  if (static_cast<uint64_t>(model.pieces_size()) > kMaxVocabularyTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat(model.pieces_size(), " pieces; at most ", kMaxVocabularyTokens, " are read"));
  }
  store::v1::Tokenizer tokenizer;
  tokenizer.set_model("llama");
  for (const sentencepiece::Piece& piece : model.pieces()) {
    tokenizer.add_tokens(piece.text());
    tokenizer.add_scores(piece.score());
    tokenizer.add_types(static_cast<uint32_t>(piece.type()));
  }
  const sentencepiece::TrainerSpec& spec = model.trainer_spec();
  if (InVocabulary(spec.bos_id(), tokenizer)) {
    tokenizer.set_bos_id(static_cast<uint32_t>(spec.bos_id()));
  }
  if (InVocabulary(spec.eos_id(), tokenizer)) {
    tokenizer.set_eos_id(static_cast<uint32_t>(spec.eos_id()));
  }
  if (InVocabulary(spec.unk_id(), tokenizer)) {
    tokenizer.set_unknown_id(static_cast<uint32_t>(spec.unk_id()));
  }
  tokenizer.set_add_bos(tokenizer.has_bos_id());  // What LlamaTokenizer does if nothing is said.
  tokenizer.set_add_space_prefix(model.normalizer_spec().add_dummy_prefix());
  return tokenizer;
}

}  // namespace tidegate
