#include "server/access/api_key.h"

#include <gtest/gtest.h>

#include <set>

namespace tidegate::api_key_test {

TEST(ApiKeyTest, NewKeysDifferAndHaveTheForm) {
  std::set<std::string> keys;
  for (int i = 0; i < 100; ++i) {
    const absl::StatusOr<std::string> key = NewApiKey();
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_EQ(key->size(), 46u);
    EXPECT_EQ(key->substr(0, 3), "tg-");
    keys.insert(*key);
  }
  EXPECT_EQ(keys.size(), 100u);
}

TEST(ApiKeyTest, HashesAsOthersDo) {
  // FIPS 180-2, appendix B.1.
  EXPECT_EQ(HashToHex(HashOfKey("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(ApiKeyTest, HexGoesThereAndBack) {
  const KeyHash hash = HashOfKey("abc");
  EXPECT_EQ(HashFromHex(HashToHex(hash)).value(), hash);
  for (const std::string& text : {std::string(), std::string(63, 'a'), std::string(65, 'a'),
                                  std::string(64, 'g'), std::string(64, ' ')}) {
    EXPECT_EQ(HashFromHex(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ApiKeyTest, ComparesEveryByte) {
  const KeyHash hash = HashOfKey("abc");
  EXPECT_TRUE(SameHash(hash, hash));
  for (size_t i = 0; i < hash.size(); ++i) {
    KeyHash other = hash;
    other[i] ^= 1;
    EXPECT_FALSE(SameHash(hash, other)) << i;
  }
}

}  // namespace tidegate::api_key_test
