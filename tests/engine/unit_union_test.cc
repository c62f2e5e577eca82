#include "engine/unit_union.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidegate::unit_union_test {

using testing::ElementsAre;

std::vector<uint32_t> Blocks(const UnitUnion& wanted) {
  std::vector<uint32_t> blocks;
  for (const WantedBlock& block : wanted.blocks()) blocks.push_back(block.block);
  return blocks;
}

std::vector<uint32_t> Units(const UnitUnion& wanted) {
  std::vector<uint32_t> units;
  for (const WantedBlock& block : wanted.blocks()) units.push_back(block.units);
  return units;
}

TEST(UnitUnionTest, ListsEveryBlockOnceAndSumsUpItsUses) {
  UnitUnion wanted;
  wanted.Begin(/*units_per_block=*/4, /*first=*/0, /*end=*/18);
  wanted.Add(std::vector<uint32_t>{0, 3, 9});
  wanted.Add(std::vector<uint32_t>{1, 8, 9, 17});
  wanted.Finish();
  EXPECT_THAT(Blocks(wanted), ElementsAre(0, 2, 4));
  EXPECT_THAT(Units(wanted), ElementsAre(3, 3, 1));
  EXPECT_EQ(wanted.Positions(0), std::pair(0u, 4u));
  EXPECT_EQ(wanted.Positions(2), std::pair(16u, 18u)) << "the last block is cut off";
}

TEST(UnitUnionTest, UsersOfAllWantEveryBlockOfTheirExpert) {
  UnitUnion wanted;
  wanted.Begin(4, /*first=*/8, /*end=*/18);  // of an expert that begins at unit 8
  wanted.AddAll(2);
  wanted.Add(std::vector<uint32_t>{9, 16});
  wanted.Finish();
  EXPECT_THAT(Blocks(wanted), ElementsAre(2, 3, 4));
  EXPECT_THAT(Units(wanted), ElementsAre(9, 8, 5));
  EXPECT_EQ(wanted.all_users(), 2u);
}

TEST(UnitUnionTest, SaysWhichPositionsOfAUserLieInWhichBlock) {
  UnitUnion wanted;
  wanted.Begin(4, 0, 20);
  const std::vector<uint32_t> one = {0, 3, 9}, other = {13};
  wanted.Add(one);
  wanted.Add(other);
  wanted.Finish();
  std::vector<uint32_t> begin;
  wanted.Ranges(one, begin);
  EXPECT_THAT(begin, ElementsAre(0, 2, 3, 3));
  wanted.Ranges(other, begin);
  EXPECT_THAT(begin, ElementsAre(0, 0, 0, 1));
}

TEST(UnitUnionTest, AScoreIsThatOfTheMasksTogether) {
  const std::vector<uint32_t> one = {0, 4}, other = {4, 8};
  const std::vector<WantedBlock> first = {{.block = 0, .score = kScoreMax},
                                          {.block = 1, .score = kScoreMax / 2}};
  const std::vector<WantedBlock> second = {{.block = 1, .score = kScoreMax},
                                           {.block = 2, .score = kScoreMax / 4}};
  UnitUnion wanted;
  wanted.Begin(4, 0, 12);
  wanted.Add(one, first);
  wanted.Finish();
  EXPECT_EQ(wanted.blocks()[0].score, kScoreMax) << "of one user: as it is";
  EXPECT_EQ(wanted.blocks()[1].score, kScoreMax / 2);
  wanted.Begin(4, 0, 12);
  wanted.Add(one, first);
  wanted.Add(other, second);
  wanted.Finish();
  EXPECT_EQ(wanted.blocks()[1].score, kScoreMax) << "both want it";
  EXPECT_GT(wanted.blocks()[0].score, wanted.blocks()[2].score);
  EXPECT_LT(wanted.blocks()[0].score, kScoreMax);
}

}  // namespace tidegate::unit_union_test
