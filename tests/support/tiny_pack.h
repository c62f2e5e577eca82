// A small real pack in a temporary folder, and a private folder on tmpfs for regions. For tests
// that link tg_packer.
//
// Two layers of 64 input blocks of 8 KiB (one unit each) and 64 hidden blocks of 4 KiB (16 units
// each): the kinds differ in block size and in units per block, so that mixing them up shows.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "packer/pack_writer.h"
#include "proto/store/v1/shm_layout.h"
#include "proto/store/v1/unit_codec.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate {

struct TinyPack {
  std::string path;
  PackIndex index;

  uint64_t FileOffset(uint32_t layer, UnitKind kind, uint32_t block) const {
    return index.header.blocks_offset + index.geometry.BlockOffset(layer, kind, block);
  }
  // Bytes of the file, as it is now.
  std::string FileBytes(uint64_t offset, uint64_t bytes) const {
    std::string data(bytes, '\0');
    const auto fd = UniqueFd::Open(path, O_RDONLY);
    EXPECT_TRUE(fd.ok() && ReadAt(fd->get(), offset, data.data(), bytes).ok());
    return data;
  }
  std::string Block(uint32_t layer, UnitKind kind, uint32_t block) const {
    return FileBytes(FileOffset(layer, kind, block), index.geometry.kind(kind).block_bytes);
  }
  // Damages one byte of a block in the file; twice undoes it.
  void FlipByte(uint32_t layer, UnitKind kind, uint32_t block) const {
    const uint64_t offset = FileOffset(layer, kind, block) + 100;
    const char flipped = static_cast<char>(FileBytes(offset, 1)[0] ^ 1);
    const auto fd = UniqueFd::Open(path, O_WRONLY);
    EXPECT_TRUE(fd.ok() && WriteAt(fd->get(), offset, &flipped, 1).ok());
  }
};

inline TinyPack MakeTinyPack(const std::string& folder, uint32_t seed = 1) {
  TinyPack pack;
  pack.path = folder + "/model.tgpack";
  const std::string source_path = folder + "/model.gguf";
  LlamaGguf({.intermediate = 1024, .seed = seed}).WriteTo(source_path);
  const auto source = SourceModel::Open(source_path);
  EXPECT_TRUE(source.ok()) << source.status();
  if (!source.ok()) return pack;
  const auto report = WritePack(*source, pack.path,
                                {.units = UnitEncoding::kF32, .hidden_block_bytes = 4096}, nullptr);
  EXPECT_TRUE(report.ok()) << report.status();
  const auto fd = UniqueFd::Open(pack.path, O_RDONLY);
  if (!fd.ok()) return pack;
  auto index = ReadPackIndex(fd->get(), pack.path);
  EXPECT_TRUE(index.ok()) << index.status();
  if (index.ok()) pack.index = *std::move(index);
  return pack;
}

// A fresh folder on tmpfs, removed with everything in it.
class ShmDir {
 public:
  ShmDir() {
    char name[] = "/dev/shm/tidegate-test-XXXXXX";
    EXPECT_NE(::mkdtemp(name), nullptr);
    path_ = name;
  }
  ~ShmDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ShmDir(const ShmDir&) = delete;
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Blocks [first, last), each with `units` selected units.
inline std::vector<WantedBlock> Wanted(uint32_t first, uint32_t last, uint16_t units = 1) {
  std::vector<WantedBlock> wanted;
  for (uint32_t block = first; block < last; ++block) wanted.push_back({block, units});
  return wanted;
}

// Tests that look at one tiny pack, which is made once for the suite.
class TinyPackTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TempDir;
    pack_ = new TinyPack(MakeTinyPack(folder_->path()));
  }
  static void TearDownTestSuite() {
    delete pack_;
    delete folder_;
  }
  static const PackIndex& index() { return pack_->index; }

 private:
  static inline TempDir* folder_ = nullptr;
  static inline TinyPack* pack_ = nullptr;
};

}  // namespace tidegate
