#include "cli/pack_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <thread>

#include "base/unique_fd.h"
#include "packer/source_model.h"
#include "proto/store/v1/pack_format.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/hf_folder.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_cache_test {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PackCacheTest : public ::testing::Test {
 protected:
  void SetUp() override { LlamaGguf({}).WriteTo(dir_.File("m.gguf")); }

  std::string Cache() const { return dir_.File("cache"); }
  // The pack of `name` in the test's folder; told_ receives the lines for a person.
  ReadyPack Make(const std::string& name, const std::string& units = "") {
    told_.clear();
    const auto pack = PackFor({dir_.File(name), units, Cache()},
                              [this](const std::string& line) { told_ += line + "\n"; });
    EXPECT_TRUE(pack.ok()) << pack.status();
    return pack.value_or(ReadyPack());
  }
  absl::Status Refused(const PackRequest& request) const {
    return PackFor(request, [](const std::string&) {}).status();
  }
  static PackIndex Index(const std::string& path) {
    const auto fd = UniqueFd::Open(path, O_RDONLY);
    EXPECT_TRUE(fd.ok()) << fd.status();
    auto index = ReadPackIndex(fd->get(), path);
    EXPECT_TRUE(index.ok()) << index.status();
    return *std::move(index);
  }
  static std::string Uuid(const ReadyPack& pack) { return UuidText(Index(pack.path).header.uuid); }
  int PacksInCache() const {
    int packs = 0;
    for (const auto& entry : fs::directory_iterator(Cache())) {
      packs += entry.path().extension() == ".tgpack";
    }
    return packs;
  }

  TempDir dir_;
  std::string told_;
};

TEST_F(PackCacheTest, PacksOnce) {
  const ReadyPack first = Make("m.gguf");
  EXPECT_TRUE(first.packed_now);
  EXPECT_THAT(told_, HasSubstr("packing " + dir_.File("m.gguf")));
  EXPECT_THAT(told_, HasSubstr("q8 units"));
  EXPECT_EQ(first.bytes, fs::file_size(first.path));
  EXPECT_THAT(first.path, HasSubstr(Cache() + "/m.q8."));
  EXPECT_EQ(Index(first.path).manifest.unit_encoding(), 3u);
  const std::string uuid = Uuid(first);
  const ReadyPack second = Make("m.gguf");
  EXPECT_FALSE(second.packed_now);
  EXPECT_EQ(told_, "");
  EXPECT_EQ(second.path, first.path);
  EXPECT_EQ(second.bytes, first.bytes);
  EXPECT_EQ(Uuid(second), uuid);
}

// By whatever name it is called; another file of the same name is another model.
TEST_F(PackCacheTest, AModelIsItsFile) {
  const ReadyPack first = Make("m.gguf");
  fs::create_symlink(dir_.File("m.gguf"), dir_.File("link.gguf"));
  const ReadyPack linked = Make("link.gguf");
  EXPECT_EQ(linked.path, first.path);
  EXPECT_FALSE(linked.packed_now);
  fs::create_directory(dir_.File("sub"));
  LlamaGguf({.seed = 2}).WriteTo(dir_.File("sub/m.gguf"));
  EXPECT_TRUE(Make("sub/m.gguf").packed_now);
  EXPECT_FALSE(Make("m.gguf").packed_now);
  EXPECT_EQ(PacksInCache(), 2);
}

TEST_F(PackCacheTest, AChangedModelIsPackedAnewInTheSamePlace) {
  const ReadyPack first = Make("m.gguf");
  const std::string uuid = Uuid(first);
  LlamaGguf({.seed = 2}).WriteTo(dir_.File("m.gguf"));
  fs::last_write_time(dir_.File("m.gguf"),
                      fs::last_write_time(dir_.File("m.gguf")) + std::chrono::seconds(5));
  const ReadyPack second = Make("m.gguf");
  EXPECT_TRUE(second.packed_now);
  EXPECT_EQ(second.path, first.path);
  EXPECT_NE(Uuid(second), uuid);
  EXPECT_EQ(PacksInCache(), 1);
}

TEST_F(PackCacheTest, OtherUnitsAreAnotherPack) {
  Make("m.gguf");
  const ReadyPack wide = Make("m.gguf", "f16");
  EXPECT_TRUE(wide.packed_now);
  EXPECT_EQ(Index(wide.path).manifest.unit_encoding(), 2u);
  EXPECT_FALSE(Make("m.gguf", "q8").packed_now);
  EXPECT_FALSE(Make("m.gguf", "f16").packed_now);
}

TEST_F(PackCacheTest, WhatIsDamagedIsPackedAnew) {
  const ReadyPack first = Make("m.gguf");
  fs::resize_file(first.path, first.bytes - 1);
  EXPECT_TRUE(Make("m.gguf").packed_now);
  EXPECT_THAT(told_, HasSubstr("packing anew"));
  std::string bytes = ReadFileOrDie(first.path);
  bytes[bytes.size() - 20] ^= 1;  // in the manifest
  WriteFileOrDie(first.path, bytes);
  EXPECT_TRUE(Make("m.gguf").packed_now);
  EXPECT_THAT(told_, HasSubstr("packing anew"));
  // Nobody knows what it was made of.
  fs::remove(first.path + ".source");
  EXPECT_TRUE(Make("m.gguf").packed_now);
  EXPECT_FALSE(Make("m.gguf").packed_now);
}

TEST_F(PackCacheTest, OfAFolderThoseFilesCountThatMatter) {
  const auto model = SourceModel::Open(dir_.File("m.gguf"));
  ASSERT_TRUE(model.ok()) << model.status();
  WriteHfFolder(*model, dir_.File("hf"));
  WriteFileOrDie(dir_.File("hf/tokenizer.json"), R"({
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"],
                "unk_token": "<unk>"}})");
  EXPECT_TRUE(Make("hf").packed_now);
  WriteFileOrDie(dir_.File("hf/README.md"), "what it is");
  EXPECT_FALSE(Make("hf").packed_now);
  EXPECT_FALSE(Make("hf/").packed_now);
  WriteFileOrDie(dir_.File("hf/chat_template.jinja"), "{{ messages[0].content }}");
  EXPECT_TRUE(Make("hf").packed_now);
  EXPECT_EQ(PacksInCache(), 1);
}

TEST_F(PackCacheTest, TwoAtOncePackOnce) {
  absl::StatusOr<ReadyPack> packs[2];
  std::thread threads[2];
  for (int i = 0; i < 2; ++i) {
    threads[i] = std::thread([&, i] {
      packs[i] = PackFor({dir_.File("m.gguf"), "", Cache()}, [](const std::string&) {});
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(packs[0].ok() && packs[1].ok()) << packs[0].status() << packs[1].status();
  EXPECT_NE(packs[0]->packed_now, packs[1]->packed_now);
  EXPECT_EQ(packs[0]->path, packs[1]->path);
}

TEST_F(PackCacheTest, APackStaysAsItIs) {
  const std::string path = Make("m.gguf").path;
  const auto given = PackFor({path, "", dir_.File("unused")}, [](const std::string&) {});
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_EQ(given->path, path);
  EXPECT_FALSE(FileExists(dir_.File("unused")));
  EXPECT_THAT(std::string(Refused({path, "q8"}).message()), HasSubstr("is a pack already"));
}

TEST_F(PackCacheTest, TheFolderIsTheUsers) {
  setenv("XDG_CACHE_HOME", "/x", 1);
  EXPECT_EQ(*DefaultCacheFolder(), "/x/tidegate");
  setenv("XDG_CACHE_HOME", "relative", 1);
  setenv("HOME", "/h", 1);
  EXPECT_EQ(*DefaultCacheFolder(), "/h/.cache/tidegate");
  unsetenv("XDG_CACHE_HOME");
  unsetenv("HOME");
  EXPECT_THAT(std::string(DefaultCacheFolder().status().message()), HasSubstr("--cache-dir"));
}

TEST_F(PackCacheTest, MistakesAreNamed) {
  WriteFileOrDie(dir_.File("text.gguf"), "hello there");
  fs::create_directory(dir_.File("empty"));
  struct Row {
    PackRequest request;
    std::string message;
  };
  const Row kRows[] = {
      {{dir_.File("none.gguf"), "", Cache()}, "does not exist; give a GGUF file"},
      {{dir_.File("text.gguf"), "", Cache()}, "it starts with \"hello there\""},
      {{dir_.File("m.gguf"), "q5", Cache()}, "unknown unit encoding 'q5'"},
      {{dir_.File("m.gguf"), "", dir_.File("text.gguf/x")}, "choose another with --cache-dir"},
      {{dir_.File("empty"), "", Cache()}, "empty"},
  };
  for (const Row& row : kRows) {
    EXPECT_THAT(std::string(Refused(row.request).message()), HasSubstr(row.message));
  }
  EXPECT_EQ(PacksInCache(), 0);
}

}  // namespace tidegate::pack_cache_test
