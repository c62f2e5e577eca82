#include "engine/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/utf8.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::tokenizer_test {

using testing::ElementsAre;
using testing::HasSubstr;

using Ids = std::vector<TokenId>;

// Spaces are written "_" in these tests' vocabularies and texts stay as they are.
std::string Marked(std::string text) {
  std::string out;
  for (const char c : text) out += c == '_' ? "\u2581" : std::string(1, c);
  return out;
}

using Pieces = std::vector<std::pair<std::string, float>>;

store::v1::Tokenizer Vocabulary(Pieces pieces) {
  for (auto& [text, score] : pieces) text = Marked(text);
  return TinyVocabulary(pieces);
}

// Tokens as their bytes: easier to read than ids.
std::vector<std::string> PiecesOf(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> pieces;
  for (const TokenId id : tokenizer.Encode(text, false)) {
    pieces.emplace_back(tokenizer.Piece(id, true));
  }
  return pieces;
}

TEST(TokenizerEncode, MergesTheBestScoreFirst) {
  const auto left = MakeTokenizer(Vocabulary({{"_", -9}, {"ab", -1}, {"bc", -2}}));
  EXPECT_THAT(PiecesOf(*left, "abc"), ElementsAre(" ", "ab", "c"));
  const auto right = MakeTokenizer(Vocabulary({{"_", -9}, {"ab", -2}, {"bc", -1}}));
  EXPECT_THAT(PiecesOf(*right, "abc"), ElementsAre(" ", "a", "bc"));
}

TEST(TokenizerEncode, MergesTheLeftmostOfEqualScores) {
  const auto tokenizer = MakeTokenizer(Vocabulary({{"_", -9}, {"aa", -1}, {"ab", -1}, {"bc", -1}}));
  EXPECT_THAT(PiecesOf(*tokenizer, "aaa"), ElementsAre(" ", "aa", "a"));
  EXPECT_THAT(PiecesOf(*tokenizer, "abc"), ElementsAre(" ", "ab", "c"));
}

TEST(TokenizerEncode, ReachesLongPiecesOnlyThroughShorterOnes) {
  const auto tokenizer =
      MakeTokenizer(Vocabulary({{"_", -9}, {"ab", -2}, {"abc", -3}, {"_abc", -1}, {"xyz", -1}}));
  EXPECT_THAT(PiecesOf(*tokenizer, "abc"), ElementsAre(" abc"));
  EXPECT_THAT(PiecesOf(*tokenizer, "xyz"), ElementsAre(" ", "x", "y", "z"));
}

TEST(TokenizerEncode, PutsOneSpaceInFrontIfTheModelAsks) {
  auto data = Vocabulary({{"_", -5}, {"__", -4}, {"_a", -1}, {"a", -2}});
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "a"), ElementsAre(" a"));
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), " a"), ElementsAre(" ", " a"));
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), " "), ElementsAre("  "));
  EXPECT_TRUE(MakeTokenizer(data)->Encode("", false).empty());
  data.set_add_space_prefix(false);
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "a"), ElementsAre("a"));
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "a a"), ElementsAre("a", " a"));
}

TEST(TokenizerEncode, AddsBosAndEosAsTheModelAsks) {
  auto data = Vocabulary({{"_a", -1}});
  EXPECT_THAT(MakeTokenizer(data)->Encode("a", true), ElementsAre(kTinyBos, kTinyFirstPiece));
  EXPECT_THAT(MakeTokenizer(data)->Encode("", true), ElementsAre(kTinyBos));
  data.set_add_eos(true);
  EXPECT_THAT(MakeTokenizer(data)->Encode("a", true),
              ElementsAre(kTinyBos, kTinyFirstPiece, kTinyEos));
  data.set_add_bos(false);
  EXPECT_THAT(MakeTokenizer(data)->Encode("a", true), ElementsAre(kTinyFirstPiece, kTinyEos));
  EXPECT_THAT(MakeTokenizer(data)->Encode("a", false), ElementsAre(kTinyFirstPiece));
}

TEST(TokenizerEncode, FallsBackToBytes) {
  const auto tokenizer = MakeTokenizer(Vocabulary({{"_", -1}, {"\xc3\xa4", -1}}));
  const auto byte = [](int b) { return kTinyFirstByte + b; };
  EXPECT_THAT(tokenizer->Encode("\xc3\xa4", false),
              ElementsAre(kTinyFirstPiece, kTinyFirstPiece + 1));
  EXPECT_THAT(tokenizer->Encode("\xf0\x9f\x98\x80", false),
              ElementsAre(kTinyFirstPiece, byte(0xf0), byte(0x9f), byte(0x98), byte(0x80)));
  // Not UTF-8: a lone lead byte, an overlong slash, a surrogate, a byte that is never used.
  EXPECT_THAT(tokenizer->Encode("\xc3", false), ElementsAre(kTinyFirstPiece, byte(0xc3)));
  EXPECT_THAT(tokenizer->Encode("\xc0\xaf", false),
              ElementsAre(kTinyFirstPiece, byte(0xc0), byte(0xaf)));
  EXPECT_THAT(tokenizer->Encode("\xed\xa0\x80", false),
              ElementsAre(kTinyFirstPiece, byte(0xed), byte(0xa0), byte(0x80)));
  EXPECT_THAT(tokenizer->Encode(std::string_view("\0\xff", 2), false),
              ElementsAre(kTinyFirstPiece, byte(0), byte(0xff)));
}

TEST(TokenizerEncode, UsesTheUnknownTokenWhereAByteIsMissing) {
  store::v1::Tokenizer data;
  data.set_model("llama");
  AddToken(data, "\u2581", -1, 1);
  AddToken(data, "?", 0, 2);  // unknown_id is not set: found by its type
  AddToken(data, "<0xF0>", 0, 6);
  AddToken(data, "<0x62>", 0, 6);
  data.set_add_space_prefix(true);
  // One for each character, never part of a character as bytes.
  EXPECT_THAT(MakeTokenizer(data)->Encode("a\xf0\x9f\x98\x80"
                                          "b",
                                          false),
              ElementsAre(0, 1, 1, 3));
}

TEST(TokenizerEncode, LeavesControlTokensInTextAlone) {
  const auto tokenizer = MakeTokenizer(Vocabulary({{"_", -1}, {"s>", -1}, {"</", -1}}));
  EXPECT_THAT(PiecesOf(*tokenizer, "</s>"), ElementsAre(" ", "</", "s>"));
}

TEST(TokenizerEncode, FindsUserDefinedTokensFirst) {
  auto data = Vocabulary({{"_", -9}, {"ab", -1}, {"bc", -1}});
  AddToken(data, "bc", -1000, 4);
  AddToken(data, "<go>", -1000, 4);
  AddToken(data, "<go><go>", -1000, 4);
  AddToken(data, "\u2581\u2581", -1000, 4);
  const auto tokenizer = MakeTokenizer(data);
  EXPECT_EQ(tokenizer->Encode("abc", false).back(), kTinyFirstPiece + 3);
  EXPECT_THAT(PiecesOf(*tokenizer, "abc"), ElementsAre(" ", "a", "bc"));
  EXPECT_THAT(PiecesOf(*tokenizer, "<go><go><go>ab<go"),
              ElementsAre("<go><go>", "<go>", " ", "ab", "<", "g", "o"));
  EXPECT_THAT(PiecesOf(*tokenizer, "<go>  ab"), ElementsAre("<go>", "  ", " ", "ab"));
}

TEST(TokenizerEncode, NeverProducesUnusedTokens) {
  auto data = Vocabulary({{"_", -9}, {"abc", -1}});
  AddToken(data, "ab", 0, 5);
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "abc"), ElementsAre(" ", "a", "b", "c"));
}

TEST(TokenizerEncode, NeverMergesToAPieceWithARealBlank) {
  auto data = Vocabulary({{"_", -9}, {"_b", -1}});
  AddToken(data, "a b", 0, 1);
  EXPECT_THAT(PiecesOf(*MakeTokenizer(data), "a b"), ElementsAre(" ", "a", " b"));
}

TEST(TokenizerEncode, TakesTheSmallestIdOfEqualPieces) {
  const auto tokenizer = MakeTokenizer(Vocabulary({{"_", -9}, {"ab", -1}, {"ab", -5}}));
  EXPECT_THAT(tokenizer->Encode("ab", false), ElementsAre(kTinyFirstPiece, kTinyFirstPiece + 1));
}

// The definition, slowly: look at all pairs, merge the best, again.
std::vector<std::string> MergeSlowly(const std::map<std::string, float>& scores,
                                     const std::string& text) {
  std::vector<std::string> symbols;
  for (const char c : text) symbols.emplace_back(1, c);
  for (;;) {
    size_t best = symbols.size();
    float best_score = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = scores.find(symbols[i] + symbols[i + 1]);
      if (found == scores.end()) continue;
      if (best < symbols.size() && found->second <= best_score) continue;
      best = i;
      best_score = found->second;
    }
    if (best == symbols.size()) return symbols;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(TokenizerEncode, AgreesWithTheDefinitionOnRandomVocabularies) {
  std::mt19937_64 rng(7);
  const auto random_text = [&rng](size_t length, size_t letters) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text += "_abcd"[rng() % letters];
    return text;
  };
  for (int round = 0; round < 200; ++round) {
    const size_t letters = 2 + rng() % 4;
    std::map<std::string, float> scores;
    for (int i = 0; i < 40; ++i) {
      // Few different scores: ties are common.
      scores[random_text(2 + rng() % 4, letters)] = -static_cast<float>(rng() % 5);
    }
    auto data = Vocabulary(Pieces(scores.begin(), scores.end()));
    data.set_add_space_prefix(false);
    const auto tokenizer = MakeTokenizer(data);
    const std::string text = random_text(1 + rng() % 60, letters);
    std::string spaced = text;
    std::replace(spaced.begin(), spaced.end(), '_', ' ');
    std::vector<std::string> expected;
    for (std::string piece : MergeSlowly(scores, text)) {
      std::replace(piece.begin(), piece.end(), '_', ' ');
      if (piece != " ") {
        expected.push_back(piece);
      } else {  // no piece of its own here: the bytes of U+2581
        for (const char* byte : {"\xe2", "\x96", "\x81"}) expected.emplace_back(byte);
      }
    }
    ASSERT_EQ(PiecesOf(*tokenizer, spaced), expected) << "round " << round << ": " << text;
  }
}

TEST(TokenizerEncode, TakesALongTextWithoutAnyPlaceToCut) {
  Pieces pieces = {{"_", -99}};
  for (int i = 1; i <= 12; ++i) pieces.push_back({std::string(size_t{1} << i, 'a'), -1.0f * i});
  const auto tokenizer = MakeTokenizer(Vocabulary(pieces));
  const std::string text(size_t{1} << 20, 'a');
  const Ids ids = tokenizer->Encode(text, false);
  EXPECT_EQ(ids.size(), 1 + (size_t{1} << 20) / 4096);
  EXPECT_EQ(tokenizer->Decode(ids), text);
}

TEST(TokenizerPiece, IsTheExactBytes) {
  auto data = Vocabulary({{"_a_", -1}});
  AddToken(data, "<go>", 0, 4);
  const auto tokenizer = MakeTokenizer(data);
  EXPECT_EQ(tokenizer->Piece(kTinyFirstPiece), " a ");
  EXPECT_EQ(tokenizer->Piece(kTinyFirstPiece + 1), "<go>");
  EXPECT_EQ(tokenizer->Piece(kTinyFirstByte), std::string_view("\0", 1));
  EXPECT_EQ(tokenizer->Piece(kTinyFirstByte + 0xff), "\xff");
  for (const TokenId special : {kTinyUnknown, kTinyBos, kTinyEos}) {
    EXPECT_EQ(tokenizer->Piece(special), "");
  }
  EXPECT_EQ(tokenizer->Piece(kTinyEos, true), "</s>");
  EXPECT_EQ(tokenizer->Piece(kTinyUnknown, true), "<unk>");
}

TEST(TokenizerDecode, TakesTheSpaceInFrontAwayOnce) {
  auto data = Vocabulary({{"_", -9}, {"_a", -1}, {"b", -1}});
  const auto tokenizer = MakeTokenizer(data);
  const TokenId space = kTinyFirstPiece, a = space + 1, b = space + 2;
  EXPECT_EQ(tokenizer->Decode({kTinyBos, a, a}), "a a");
  EXPECT_EQ(tokenizer->Decode({space, a}), " a");
  EXPECT_EQ(tokenizer->Decode({b, a}), "b a");
  EXPECT_EQ(tokenizer->Decode({kTinyBos, a, kTinyEos}, true), "<s>a</s>");
  EXPECT_EQ(tokenizer->Decode({}), "");
  data.set_add_space_prefix(false);
  EXPECT_EQ(MakeTokenizer(data)->Decode({a, b}), " ab");
}

TEST(TokenizerDecode, GivesBackWhatWasEncoded) {
  std::mt19937_64 rng(11);
  auto data =
      Vocabulary({{"_", -9}, {"__", -3}, {"_a", -1}, {"ab", -2}, {"\n\n", -2}, {"\xc3\xa4", -4}});
  AddToken(data, "<go>", 0, 4);
  AddToken(data, "  ", 0, 4);
  for (const bool prefix : {false, true}) {
    data.set_add_space_prefix(prefix);
    const auto tokenizer = MakeTokenizer(data);
    for (int round = 0; round < 500; ++round) {
      static const std::string kParts[] = {" ",
                                           "a",
                                           "b",
                                           "\n",
                                           "<go>",
                                           "\xc3\xa4",
                                           "\xc3",
                                           "\xff",
                                           std::string(1, '\0'),
                                           "\xf0\x9f\x98\x80",
                                           "\xe2\x96",
                                           "  "};
      std::string text;
      for (size_t i = rng() % 30; i > 0; --i) text += kParts[rng() % std::size(kParts)];
      // "\xe2\x96" + "\x81" would be U+2581, which is a space here; 0x81 is not among the parts.
      ASSERT_EQ(tokenizer->Decode(tokenizer->Encode(text, true)), text) << "round " << round;
    }
  }
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  auto data = Vocabulary({{"a", -1}, {"b", -1}});
  data.set_eot_id(kTinyFirstPiece);
  const auto tokenizer = MakeTokenizer(data);
  EXPECT_EQ(tokenizer->vocab_size(), size_t{kTinyFirstPiece} + 2);
  EXPECT_EQ(tokenizer->bos_id(), kTinyBos);
  EXPECT_EQ(tokenizer->eos_id(), kTinyEos);
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(kTinyEos));
  EXPECT_TRUE(tokenizer->IsEndOfGeneration(kTinyFirstPiece));
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(kTinyFirstPiece + 1));
  EXPECT_TRUE(tokenizer->IsValid(0));
  EXPECT_TRUE(tokenizer->IsValid(kTinyFirstPiece + 1));
  EXPECT_FALSE(tokenizer->IsValid(kTinyFirstPiece + 2));
  EXPECT_FALSE(tokenizer->IsValid(-1));
}

TEST(Tokenizer, WithoutSpecialTokensEndsNothing) {
  auto data = Vocabulary({{"a", -1}});
  data.clear_bos_id();
  data.clear_eos_id();
  data.set_add_bos(false);
  const auto tokenizer = MakeTokenizer(data);
  EXPECT_EQ(tokenizer->bos_id(), -1);
  EXPECT_EQ(tokenizer->eos_id(), -1);
  EXPECT_FALSE(tokenizer->IsEndOfGeneration(-1));
}

TEST(TokenizerCreate, NamesWhatIsWrong) {
  struct Case {
    const char* message;
    void (*spoil)(store::v1::Tokenizer&);
  };
  const Case cases[] = {
      {"model \"bert\" is not supported", [](auto& d) { d.set_model("bert"); }},
      {"model \"a\\u{1}\" is not supported", [](auto& d) { d.set_model("a\x01"); }},
      {"vocabulary is empty", [](auto& d) { d.clear_tokens(); }},
      {"260 tokens, but 259 scores and 260 types",
       [](auto& d) { d.mutable_scores()->RemoveLast(); }},
      {"260 tokens, but 260 scores and 261 types", [](auto& d) { d.add_types(1); }},
      {"token 259 has type 7", [](auto& d) { d.set_types(259, 7); }},
      {"token 0 has type 0", [](auto& d) { d.set_types(0, 0); }},
      {"score of token 259 is not a number", [](auto& d) { d.set_scores(259, NAN); }},
      {"byte token 3 is \"<0x0>\"", [](auto& d) { d.set_tokens(3, "<0x0>"); }},
      {"byte token 3 is \"<0x0G>\"", [](auto& d) { d.set_tokens(3, "<0x0G>"); }},
      {"byte token 3 is \"\"", [](auto& d) { d.set_tokens(3, ""); }},
      {"tokens 3 and 4 are both <0x00>", [](auto& d) { d.set_tokens(4, "<0x00>"); }},
      {"bos_id is 260, outside the vocabulary of 260", [](auto& d) { d.set_bos_id(260); }},
      {"eos_id is 4294967295", [](auto& d) { d.set_eos_id(4294967295u); }},
      {"eot_id is 260", [](auto& d) { d.set_eot_id(260); }},
      {"unknown_id is 260", [](auto& d) { d.set_unknown_id(260); }},
      {"add_bos is set but there is no bos_id", [](auto& d) { d.clear_bos_id(); }},
      {"add_eos is set but there is no eos_id",
       [](auto& d) {
         d.set_add_eos(true);
         d.clear_eos_id();
       }},
      {"neither a byte token <0x41>",
       [](auto& d) {
         d.clear_unknown_id();
         d.set_types(0, 3);
         d.set_types(kTinyFirstByte + 0x41, 1);
       }},
  };
  for (const Case& c : cases) {
    auto data = Vocabulary({{"a", -1}});
    ASSERT_TRUE(Tokenizer::Create(data).ok());
    c.spoil(data);
    const absl::Status status = Tokenizer::Create(data).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

}  // namespace tidegate::tokenizer_test
