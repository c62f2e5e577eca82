#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::byte_level_model_test {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Merges = std::vector<std::pair<std::string, std::string>>;

constexpr char kWords[] = R"( ?\p{L}+| ?\p{N}+|\s+)";

std::vector<std::string> PiecesOf(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::vector<std::string> pieces;
  for (const TokenId id : ids) pieces.emplace_back(tokenizer.Piece(id, true));
  return pieces;
}

std::vector<std::string> PiecesOf(const Tokenizer& tokenizer, std::string_view text) {
  return PiecesOf(tokenizer, tokenizer.Encode(text, false));
}

TEST(ByteLevelEncode, MergesTheFirstMergeFirst) {
  EXPECT_THAT(PiecesOf(*MakeTokenizer(TinyByteLevel({{"a", "b"}, {"b", "c"}})), "abc"),
              ElementsAre("ab", "c"));
  EXPECT_THAT(PiecesOf(*MakeTokenizer(TinyByteLevel({{"b", "c"}, {"a", "b"}})), "abc"),
              ElementsAre("a", "bc"));
  // A token is reached only by its own merges: "abc" from "a" + "bc", which never is there.
  EXPECT_THAT(PiecesOf(*MakeTokenizer(TinyByteLevel({{"a", "b"}, {"b", "c"}, {"a", "bc"}})), "abc"),
              ElementsAre("ab", "c"));
  EXPECT_THAT(PiecesOf(*MakeTokenizer(TinyByteLevel({{"a", "a"}})), "aaa"), ElementsAre("aa", "a"));
}

TEST(ByteLevelEncode, MergesWithinWordsOnly) {
  auto data = TinyByteLevel({{"a", "_"}, {"_", "a"}, {"a", "a"}});
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "aa a"), ElementsAre("a", "a ", "a"));
  AddPattern(data, kWords);
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "aa a"), ElementsAre("aa", " a"));
}

TEST(ByteLevelEncode, TakesWholeWordsWhereMergesAreIgnored) {
  auto data = TinyByteLevel({{"a", "b"}, {"b", "c"}, {"a", "bc"}});
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "abc"), ElementsAre("ab", "c"));
  data.set_ignore_merges(true);
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "abc"), ElementsAre("abc"));
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "abcc"), ElementsAre("ab", "c", "c"));
}

TEST(ByteLevelEncode, TakesAnyBytes) {
  auto data = TinyByteLevel({{"\xc3", "\xa4"}});
  AddPattern(data, kWords);
  const auto tokenizer = MakeTokenizer(data);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(all, false)), all);
  EXPECT_EQ(tokenizer->Encode("\xc3\xa4", false), std::vector<TokenId>{256});
  EXPECT_THAT(tokenizer->Encode("", false), IsEmpty());
}

TEST(ByteLevelEncode, FallsBackToTheUnknownTokenOrToNothing) {
  auto data = TinyByteLevel({});
  data.set_types('b', 5);  // unused: never produced
  EXPECT_THAT(MakeTokenizer(data)->Encode("abc", false), ElementsAre('a', 'c'));
  AddToken(data, "<unk>", 0, 2);
  data.clear_scores();
  EXPECT_THAT(MakeTokenizer(data)->Encode("abc", false), ElementsAre('a', 256, 'c'));
}

TEST(ByteLevelEncode, NeverMergesToAControlToken) {
  auto data = TinyByteLevel({{"a", "b"}});
  data.set_types(256, 3);
  EXPECT_THAT(MakeTokenizer(data)->Encode("ab", false), ElementsAre('a', 'b'));
  data.set_ignore_merges(true);
  EXPECT_THAT(MakeTokenizer(data)->Encode("ab", false), ElementsAre('a', 'b'));
}

// Command-R's vocabulary has emoji and joiners as such, besides the pieces that give their bytes.
TEST(ByteLevelEncode, NeverMergesToATokenOutsideTheAlphabet) {
  const std::string joiner = "\u200d";
  auto data = TinyByteLevel({});
  data.add_tokens(joiner);  // 256
  data.add_types(1);
  for (const size_t bytes : {2, 3}) {  // 257, 258
    data.add_tokens(ByteLevelText(joiner.substr(0, bytes)));
    data.add_types(1);
    data.add_merges(bytes == 2 ? 0xe2 : 257);
    data.add_merges(bytes == 2 ? 0x80 : 0x8d);
  }
  EXPECT_THAT(MakeTokenizer(data)->Encode(joiner, false), ElementsAre(258));
  EXPECT_EQ(MakeTokenizer(data)->Piece(256), joiner);
  data.set_ignore_merges(true);
  EXPECT_THAT(MakeTokenizer(data)->Encode(joiner, false), ElementsAre(258));
}

TEST(ByteLevelEncode, PutsASpaceInFrontIfTheModelAsks) {
  auto data = TinyByteLevel({{"_", "a"}});
  data.set_add_space_prefix(true);
  const auto tokenizer = MakeTokenizer(data);
  EXPECT_THAT(PiecesOf(*tokenizer, "a"), ElementsAre(" a"));
  EXPECT_THAT(PiecesOf(*tokenizer, " a"), ElementsAre(" a"));
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode("a a", false)), "a a");
}

TEST(ByteLevelEncode, LeavesTheTextsOfAddedTokensAsTheyAre) {
  auto data = TinyByteLevel({});
  for (const char* text : {"a b", "\u00e4"}) {
    data.add_tokens(text);
    data.add_types(4);
  }
  const auto tokenizer = MakeTokenizer(data);
  EXPECT_EQ(tokenizer->Piece(256), "a b");
  EXPECT_EQ(tokenizer->Piece(257), "\u00e4");
  EXPECT_THAT(tokenizer->Encode("xa b\u00e4", false), ElementsAre('x', 256, 257));
}

// The definition, slowly: look at all pairs, merge the best, again.
std::vector<std::string> MergeSlowly(const Merges& merges, const std::string& text) {
  std::vector<std::string> symbols;
  for (const char c : text) symbols.emplace_back(1, c);
  for (const auto& [left, right] : merges) {
    // Later merges cannot make an earlier one possible again: its parts come from earlier merges.
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      if (symbols[i] != left || symbols[i + 1] != right) continue;
      symbols[i] += right;
      symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
  }
  return symbols;
}

TEST(ByteLevelEncode, AgreesWithTheDefinitionOnRandomMerges) {
  std::mt19937_64 rng(3);
  for (int round = 0; round < 200; ++round) {
    const size_t letters = 2 + rng() % 3;
    std::vector<std::string> tokens;
    for (size_t i = 0; i < letters; ++i) tokens.emplace_back(1, "abcd"[i]);
    Merges merges;
    for (int i = 0; i < 15; ++i) {
      const std::pair<std::string, std::string> merge = {tokens[rng() % tokens.size()],
                                                         tokens[rng() % tokens.size()]};
      const std::string joined = merge.first + merge.second;
      // One merge for each token, so that the slow definition holds.
      if (std::count(tokens.begin(), tokens.end(), joined) > 0 || joined.size() > 12) continue;
      merges.push_back(merge);
      tokens.push_back(joined);
    }
    std::string text;
    for (size_t i = 1 + rng() % 60; i > 0; --i) text += "abcd"[rng() % letters];
    ASSERT_EQ(PiecesOf(*MakeTokenizer(TinyByteLevel(merges)), text), MergeSlowly(merges, text))
        << "round " << round << ": " << text;
  }
}

// A million bytes that no pattern cuts: quadratic work would take minutes.
TEST(ByteLevelEncode, TakesALongWord) {
  Merges merges;
  for (std::string half = "a"; half.size() < 512; half += half) merges.emplace_back(half, half);
  auto data = TinyByteLevel(merges);
  AddPattern(data, kWords);
  const auto tokenizer = MakeTokenizer(data);
  const std::string text(size_t{1} << 20, 'a');
  const std::vector<TokenId> ids = tokenizer->Encode(text, false);
  EXPECT_EQ(ids.size(), text.size() / 512);
  EXPECT_EQ(tokenizer->Decode(ids), text);
}

TEST(ByteLevelCreate, NamesWhatIsWrong) {
  const auto message = [](const store::v1::Tokenizer& data) {
    const absl::Status status = Tokenizer::Create(data).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  auto data = TinyByteLevel({{"a", "b"}});
  data.set_merges(1, 257);
  EXPECT_THAT(message(data), HasSubstr("merge 0 joins tokens 97 and 257"));
  data.add_merges(0);
  EXPECT_THAT(message(data), HasSubstr("not pairs"));
  data = TinyByteLevel({});
  AddPattern(data, "(");
  EXPECT_THAT(message(data), HasSubstr("no regular expression"));
  data = TinyByteLevel({});
  data.add_end_ids(256);
  EXPECT_THAT(message(data), HasSubstr("end_ids"));
  data = TinyByteLevel({});
  data.add_strip_right_ids(300);
  EXPECT_THAT(message(data), HasSubstr("strip_right_ids"));
  data = TinyByteLevel({});
  data.add_tokens(std::string(2000, 'x'));
  data.add_types(4);
  EXPECT_THAT(message(data), HasSubstr("token 256 is control or user-defined and has 2000 bytes"));
}

}  // namespace tidegate::byte_level_model_test
