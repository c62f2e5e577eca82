#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "base/utf8.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::detokenizer_test {

using testing::ElementsAre;

constexpr char kBad[] = "\xef\xbf\xbd";  // U+FFFD

TokenId Byte(int byte) { return kTinyFirstByte + byte; }

// " a", "b", "ä", " "
std::unique_ptr<Tokenizer> Tiny(bool space_prefix = true) {
  auto data = TinyVocabulary({{"\u2581a", -1}, {"b", -1}, {"\xc3\xa4", -1}, {"\u2581", -9}});
  data.set_add_space_prefix(space_prefix);
  return MakeTokenizer(data);
}
constexpr TokenId kSpaceA = kTinyFirstPiece, kB = kSpaceA + 1, kUmlaut = kSpaceA + 2,
                  kSpace = kSpaceA + 3;

// What each Add() gave, then Finish().
std::vector<std::string> Stream(const Tokenizer& tokenizer, const std::vector<TokenId>& ids,
                                bool continues_text = false) {
  StreamingDetokenizer stream(tokenizer, continues_text);
  std::vector<std::string> events;
  for (const TokenId id : ids) events.push_back(stream.Add(id));
  events.push_back(stream.Finish());
  EXPECT_EQ(stream.Finish(), "");
  return events;
}

TEST(StreamingDetokenizer, GivesTextAsItCompletes) {
  const auto tokenizer = Tiny();
  EXPECT_THAT(Stream(*tokenizer, {kSpaceA, kB, kUmlaut, kSpaceA}),
              ElementsAre("a", "b", "\xc3\xa4", " a", ""));
}

TEST(StreamingDetokenizer, DropsOnlyTheSpaceThatEncodeAdds) {
  const auto tokenizer = Tiny();
  EXPECT_THAT(Stream(*tokenizer, {kSpaceA, kSpaceA}, true), ElementsAre(" a", " a", ""));
  EXPECT_THAT(Stream(*tokenizer, {kTinyBos, kSpaceA, kSpaceA}), ElementsAre("", "a", " a", ""));
  EXPECT_THAT(Stream(*tokenizer, {kSpace, kSpaceA}), ElementsAre("", " a", ""));
  EXPECT_THAT(Stream(*tokenizer, {kB, kSpaceA}), ElementsAre("b", " a", ""));
  EXPECT_THAT(Stream(*tokenizer, {Byte(' '), kSpaceA}), ElementsAre("", " a", ""));
  EXPECT_THAT(Stream(*Tiny(false), {kSpaceA}), ElementsAre(" a", ""));
}

TEST(StreamingDetokenizer, LeavesControlTokensOut) {
  EXPECT_THAT(Stream(*Tiny(), {kTinyBos, kB, kTinyUnknown, kTinyEos}),
              ElementsAre("", "b", "", "", ""));
}

TEST(StreamingDetokenizer, KeepsTheBytesOfACharacterTogether) {
  const auto tokenizer = Tiny();
  EXPECT_THAT(Stream(*tokenizer, {Byte(0xf0), Byte(0x9f), Byte(0x98), Byte(0x80), kB}),
              ElementsAre("", "", "", "\xf0\x9f\x98\x80", "b", ""));
  // A control token in between changes nothing.
  EXPECT_THAT(Stream(*tokenizer, {Byte(0xc3), kTinyEos, Byte(0xa4)}),
              ElementsAre("", "", "\xc3\xa4", ""));
  EXPECT_THAT(Stream(*tokenizer, {Byte(0)}), ElementsAre(std::string(1, '\0'), ""));
}

TEST(StreamingDetokenizer, ReplacesWhatCannotBecomeACharacter) {
  const auto tokenizer = Tiny();
  EXPECT_THAT(Stream(*tokenizer, {Byte(0x80)}), ElementsAre(kBad, ""));
  EXPECT_THAT(Stream(*tokenizer, {Byte(0xc3), kB}), ElementsAre("", std::string(kBad) + "b", ""));
  // Three bytes of four, then the end: one replacement for the three.
  EXPECT_THAT(Stream(*tokenizer, {Byte(0xf0), Byte(0x9f), Byte(0x98)}),
              ElementsAre("", "", "", kBad));
  // The second byte already shows that no character comes of it.
  EXPECT_THAT(Stream(*tokenizer, {Byte(0xe0), Byte(0x80)}),
              ElementsAre("", std::string(kBad) + kBad, ""));
  EXPECT_THAT(Stream(*tokenizer, {Byte(0xe2), Byte(0x82), kUmlaut}),
              ElementsAre("", "", std::string(kBad) + "\xc3\xa4", ""));
}

TEST(StreamingDetokenizer, GivesNothingForNothing) {
  EXPECT_THAT(Stream(*Tiny(), {}), ElementsAre(""));
}

std::string Replaced(std::string_view bytes) {
  std::string text;
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    text += step.kind == Utf8Kind::kCharacter ? bytes.substr(0, step.bytes) : kBad;
    bytes.remove_prefix(step.bytes);
  }
  return text;
}

TEST(StreamingDetokenizer, EventsAreUtf8AndJoinToTheDecodedText) {
  const auto tokenizer = Tiny();
  std::mt19937_64 rng(5);
  // Mostly parts of characters, so that all states of the decoder are met.
  const TokenId kinds[] = {kSpaceA,    kB,         kUmlaut,    kSpace,     kTinyEos,
                           Byte(0xc3), Byte(0xa4), Byte(0xe0), Byte(0xe2), Byte(0x82),
                           Byte(0xac), Byte(0xed), Byte(0xf0), Byte(0x9f), Byte(0x98),
                           Byte(0x80), Byte(0xf4), Byte(0xff), Byte(0x20), Byte(0)};
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> ids;
    for (size_t i = rng() % 20; i > 0; --i) ids.push_back(kinds[rng() % std::size(kinds)]);
    const bool continues_text = rng() % 2 == 0;
    std::string expected = tokenizer->Decode(ids);
    if (continues_text) {  // as after a token that is a "b"
      std::vector<TokenId> all = {kB};
      all.insert(all.end(), ids.begin(), ids.end());
      expected = tokenizer->Decode(all).substr(1);
    }
    std::string joined;
    for (const std::string& event : Stream(*tokenizer, ids, continues_text)) {
      ASSERT_EQ(Replaced(event), event) << "round " << round << ": not UTF-8";
      joined += event;
    }
    ASSERT_EQ(joined, Replaced(expected)) << "round " << round;
  }
}

}  // namespace tidegate::detokenizer_test
