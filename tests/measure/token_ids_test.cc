#include "measure/token_ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/test_support.h"

namespace tidegate::token_ids_test {

using testing::ElementsAre;
using testing::HasSubstr;

std::string FileOf(const TempDir& folder, const std::string& text) {
  const std::string path = folder.path() + "/ids";
  std::ofstream(path) << text;
  return path;
}

TEST(ReadTokenIds, TakesListsAndJsonArrays) {
  const TempDir folder;
  EXPECT_THAT(*ReadTokenIds(FileOf(folder, "1 2\n3\t4")), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(*ReadTokenIds(FileOf(folder, "[1, 2]\n")), ElementsAre(1, 2));
  EXPECT_TRUE(ReadTokenIds(FileOf(folder, ""))->empty());
}

TEST(ReadTokenIds, NamesWhatIsWrong) {
  const TempDir folder;
  const absl::Status word = ReadTokenIds(FileOf(folder, "1 two")).status();
  EXPECT_EQ(word.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(word.ToString(), HasSubstr("token ids: 'two' is not a whole number"));
  EXPECT_EQ(ReadTokenIds(folder.path() + "/none").status().code(), absl::StatusCode::kNotFound);
}

TEST(CheckTokenIds, BoundsAreTheVocabulary) {
  EXPECT_TRUE(CheckTokenIds(std::vector<TokenId>{0, 9}, 10).ok());
  EXPECT_THAT(CheckTokenIds(std::vector<TokenId>{0, 10}, 10).ToString(), HasSubstr("10"));
  EXPECT_FALSE(CheckTokenIds(std::vector<TokenId>{-1}, 10).ok());
}

}  // namespace tidegate::token_ids_test
