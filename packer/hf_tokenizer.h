// Tokenizers of Hugging Face folders: tokenizer.json (BPE, byte-level or SentencePiece-like with
// byte fallback) or tokenizer.model (SentencePiece, BPE), with what tokenizer_config.json,
// special_tokens_map.json, generation_config.json and config.json say about special tokens.
// Stateless, thread-safe.
//
// Unicode normalisation (NFC, NFKC) that a file asks for is not applied, as llama.cpp does not.
// Files are read whole, up to kMaxTokenizerFileBytes each; every id and size in them is checked.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/store/v1/manifest.pb.h"

namespace tidegate {

inline constexpr uint64_t kMaxTokenizerFileBytes = 256u << 20;  // Gemma 3's has 33 MB

// The tokenizer of a folder; tokenizer.json is preferred. NOT_FOUND: neither file. INVALID_ARGUMENT
// names the file and what in it is not supported or wrong.
absl::StatusOr<store::v1::Tokenizer> ReadHfTokenizer(const std::string& folder);

// The contents of tokenizer.json alone.
absl::StatusOr<store::v1::Tokenizer> TokenizerFromJson(std::string_view text);

// The contents of tokenizer.model alone.
absl::StatusOr<store::v1::Tokenizer> TokenizerFromSentencePiece(std::string_view bytes);

}  // namespace tidegate
