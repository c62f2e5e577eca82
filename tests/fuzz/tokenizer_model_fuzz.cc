// Any bytes as tokenizer.model: an error or a tokenizer, and where the engine takes that one, ids
// for a short text that it can decode.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "engine/tokenizer/tokenizer.h"
#include "packer/hf_tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto read = tidegate::TokenizerFromSentencePiece(
      std::string_view(reinterpret_cast<const char*>(data), size));
  if (!read.ok()) return 0;
  const auto tokenizer = tidegate::Tokenizer::Create(*read);
  if (!tokenizer.ok()) return 0;
  const auto ids = (*tokenizer)->Encode("Hello  w\xc3\xb6rld 123!\n\n a.b<s>ab\xff", true);
  for (const tidegate::TokenId id : ids) CHECK((*tokenizer)->IsValid(id));
  (*tokenizer)->Decode(ids, true);
  return 0;
}
