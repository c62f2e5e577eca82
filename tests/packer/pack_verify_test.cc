#include "packer/pack_verify.h"

#include <gtest/gtest.h>

#include "base/unique_fd.h"
#include "packer/pack_writer.h"
#include "packer/source_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_verify_test {

TEST(PackVerifyTest, NamesEveryDamagedBlockAndTensor) {
  TempDir dir;
  LlamaGguf({}).WriteTo(dir.File("m.gguf"));
  const auto source = SourceModel::Open(dir.File("m.gguf"));
  ASSERT_TRUE(WritePack(*source, dir.File("p"), {}, nullptr).ok());
  const auto fd = UniqueFd::Open(dir.File("p"), O_RDWR);
  const auto index = ReadPackIndex(fd->get(), "p");
  ASSERT_TRUE(index.ok()) << index.status();

  const auto clean = VerifyPack(fd->get(), *index, nullptr);
  ASSERT_TRUE(clean.ok());
  EXPECT_TRUE(clean->ok());
  EXPECT_EQ(clean->static_tensors, 15u);

  const auto flip = [&](uint64_t offset) {
    char byte;
    ASSERT_TRUE(ReadAt(fd->get(), offset, &byte, 1).ok());
    byte ^= 1;
    ASSERT_TRUE(WriteAt(fd->get(), offset, &byte, 1).ok());
  };
  const uint64_t blocks = index->header.blocks_offset;
  flip(blocks + index->geometry.BlockOffset(1, UnitKind::kInput, 2) + 17);
  flip(blocks + index->geometry.BlockOffset(0, UnitKind::kHidden, 1) + 511);  // in the padding
  flip(index->header.static_offset + index->manifest.static_tensors(3).offset());

  uint64_t last = 0;
  const auto report = VerifyPack(fd->get(), *index, [&](uint64_t done, uint64_t) { last = done; });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_FALSE(report->ok());
  ASSERT_EQ(report->bad_blocks.size(), 2u);
  EXPECT_EQ(report->bad_blocks[0].layer, 0u);
  EXPECT_EQ(report->bad_blocks[0].kind, UnitKind::kHidden);
  EXPECT_EQ(report->bad_blocks[0].block, 1u);
  EXPECT_EQ(report->bad_blocks[1].layer, 1u);
  EXPECT_EQ(report->bad_blocks[1].kind, UnitKind::kInput);
  EXPECT_EQ(report->bad_blocks[1].block, 2u);
  ASSERT_EQ(report->bad_tensors.size(), 1u);
  EXPECT_EQ(report->bad_tensors[0], index->manifest.static_tensors(3).name());
  EXPECT_GT(last, index->header.blocks_bytes);
}

}  // namespace tidegate::pack_verify_test
