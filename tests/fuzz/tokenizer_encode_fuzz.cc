// Any text under tiny vocabularies of both kinds: encoding ends, gives valid ids, and decoding
// gives the text back. The first byte chooses; bytes of the text choose what is trusted.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate {
namespace {

store::v1::Tokenizer ByteLevel(bool cut) {
  auto data = TinyByteLevel({{"a", "a"}, {"a", "b"}, {"aa", "a"}, {"_", "a"}, {"\n", "\n"}});
  data.add_tokens("<|x|>");
  data.add_types(3);
  data.add_tokens("<y>");
  data.add_types(4);
  if (cut) AddPattern(data, R"( ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)");
  return data;
}

store::v1::Tokenizer SentencePiece(bool prefix) {
  auto data =
      TinyVocabulary({{"\u2581", -9}, {"\u2581a", -1}, {"aa", -2}, {"ab", -2}, {"\n\n", -3}});
  AddToken(data, "<|x|>", 0, 3);
  AddToken(data, "<y>", 0, 4);
  data.set_add_space_prefix(prefix);
  return data;
}

void EncodeAndDecode(const Tokenizer& tokenizer, std::string_view text, bool keeps_marks) {
  std::vector<PromptPart> parts;
  for (size_t at = 0; at < text.size();) {
    const size_t bytes =
        std::min(text.size() - at, 1 + static_cast<uint8_t>(text[at]) % size_t{16});
    parts.push_back({text.substr(at, bytes), text[at] % 2 == 0});
    at += bytes;
  }
  for (const std::vector<TokenId>& ids :
       {tokenizer.Encode(text, true), tokenizer.EncodePrompt(parts, false)}) {
    for (const TokenId id : ids) CHECK(tokenizer.IsValid(id));
    StreamingDetokenizer stream(tokenizer, false);
    for (const TokenId id : ids) stream.Add(id);
    stream.Finish();
  }
  const std::vector<TokenId> ids = tokenizer.EncodePrompt(parts, false);
  if (keeps_marks) CHECK(tokenizer.Decode(ids, true) == text);
}

}  // namespace
}  // namespace tidegate

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tidegate::MakeTokenizer;
  static const auto* tokenizers = new std::vector<std::unique_ptr<tidegate::Tokenizer>>([] {
    std::vector<std::unique_ptr<tidegate::Tokenizer>> all;
    for (const bool flag : {false, true}) {
      all.push_back(MakeTokenizer(tidegate::ByteLevel(flag)));
      all.push_back(MakeTokenizer(tidegate::SentencePiece(flag)));
    }
    return all;
  }());
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t which = data[0] % tokenizers->size();
  // U+2581 is a space to SentencePiece.
  const bool keeps_marks = which % 2 == 0 || text.find("\xe2\x96\x81") == std::string_view::npos;
  tidegate::EncodeAndDecode(*(*tokenizers)[which], text, keeps_marks);
  return 0;
}
