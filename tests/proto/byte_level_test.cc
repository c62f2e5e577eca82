#include "proto/gguf/byte_level.h"

#include <gtest/gtest.h>

#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate::byte_level_test {

TEST(BytesOfByteLevel, KnowsEveryByte) {
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(BytesOfByteLevel(ByteLevelCharacter(byte)), std::string(1, static_cast<char>(byte)))
        << byte;
  }
  EXPECT_EQ(BytesOfByteLevel("\u0120Hello\u010a"), " Hello\n");
  EXPECT_EQ(BytesOfByteLevel("\u00c3\u00a4"), "\xc3\xa4");
  EXPECT_EQ(BytesOfByteLevel(""), "");
}

TEST(BytesOfByteLevel, RefusesOtherCharacters) {
  for (const char* text :
       {" ", "a b", "\n", "\x7f", "\u00a0", "\u00ad", "\u0144", "\u2581", "\xc4", "\xff",
        "\xc4"
        "a",
        "\xc0\x80", "\xc1\xbf", "\xf0\x9f\x98\x80"}) {
    EXPECT_FALSE(BytesOfByteLevel(text).has_value()) << text;
  }
}

}  // namespace tidegate::byte_level_test
