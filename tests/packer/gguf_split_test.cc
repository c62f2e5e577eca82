#include "packer/gguf_split.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "packer/source_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::gguf_split_test {

using ::testing::HasSubstr;

// The usual small model in three files: all metadata in the first one, tensors dealt out in turn.
class SplitTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kFiles = 3;

  void SetUp() override {
    LlamaGguf({}).WriteTo(dir_.File("whole.gguf"));
    whole_ = std::make_unique<SourceModel>(*SourceModel::Open(dir_.File("whole.gguf")));
    for (uint64_t i = 0; i < kFiles; ++i) Part(i, kFiles).WriteTo(Path(i));
  }
  GgufBuilder Part(uint64_t number, uint64_t count) const {
    GgufBuilder part = number == 0 ? LlamaGguf({}) : GgufBuilder();
    const std::vector<GgufTensor>& tensors = whole_->tensors();
    for (size_t i = 0; i < tensors.size(); ++i) {
      part.RemoveTensor(tensors[i].name);
      if (i % kFiles != number) continue;
      std::string bytes(tensors[i].bytes, '\0');
      EXPECT_TRUE(whole_->ReadBytes(tensors[i], 0, bytes.size(), bytes.data()).ok());
      part.AddRawTensor(tensors[i].name, tensors[i].type, tensors[i].dims, bytes);
    }
    part.SetRaw("split.no", 2, U16(number));
    part.SetRaw("split.count", 2, U16(count));
    part.SetInt32("split.tensors.count", static_cast<int32_t>(tensors.size()));
    return part;
  }
  static std::string U16(uint64_t value) {
    return {static_cast<char>(value & 255), static_cast<char>(value >> 8)};
  }
  std::string Path(uint64_t i) const {
    return dir_.File(absl::StrCat("m-0000", i + 1, "-of-00003.gguf"));
  }
  static std::string Error(const std::string& path) {
    return std::string(SourceModel::Open(path).status().message());
  }

  TempDir dir_;
  std::unique_ptr<SourceModel> whole_;
};

TEST_F(SplitTest, AnyFileOpensTheWholeModel) {
  for (uint64_t i = 0; i < kFiles; ++i) {
    const auto file = SourceModel::Open(Path(i));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->path(), Path(0));
    EXPECT_EQ(file->metadata(), whole_->metadata());
    EXPECT_EQ(file->file_count(), kFiles);
    EXPECT_GT(file->file_bytes(), whole_->file_bytes());
    ASSERT_EQ(file->tensors().size(), whole_->tensors().size());
    for (const GgufTensor& tensor : whole_->tensors()) {
      const GgufTensor* found = file->FindTensor(tensor.name);
      ASSERT_NE(found, nullptr) << tensor.name;
      std::string wanted(tensor.bytes, 'a'), bytes(tensor.bytes, 'b');
      ASSERT_TRUE(whole_->ReadBytes(tensor, 0, tensor.bytes, wanted.data()).ok());
      ASSERT_TRUE(file->ReadBytes(*found, 0, tensor.bytes, bytes.data()).ok());
      EXPECT_EQ(bytes, wanted) << tensor.name;
    }
  }
}

TEST_F(SplitTest, MissingFilesAreNamed) {
  std::filesystem::remove(Path(1));
  EXPECT_THAT(Error(Path(2)), HasSubstr("m-00002-of-00003.gguf; put all of them into one folder"));
}

TEST_F(SplitTest, FilesOfAnotherModelAreRefused) {
  std::filesystem::copy_file(Path(0), Path(1), std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(Error(Path(0)), HasSubstr("m-00002-of-00003.gguf is not file 2 of 3"));
  GgufBuilder twice = Part(1, kFiles);
  twice.AddTensor("token_embd.weight", GgmlType::kF32, {2}, {1, 2});
  twice.WriteTo(Path(1));
  EXPECT_THAT(Error(Path(0)), HasSubstr("tensor token_embd.weight appears twice"));
}

TEST_F(SplitTest, NamesAndCountsThatCannotBeAreRefused) {
  Part(0, kFiles).WriteTo(dir_.File("renamed.gguf"));
  EXPECT_THAT(Error(dir_.File("renamed.gguf")), HasSubstr("-00001-of-00003.gguf, by which"));
  Part(0, 4).WriteTo(Path(0));
  EXPECT_THAT(Error(Path(0)), HasSubstr("-00001-of-00004.gguf"));
  Part(0, 65535).WriteTo(Path(0));
  EXPECT_THAT(Error(Path(0)), HasSubstr("split.count is 65535"));
}

}  // namespace tidegate::gguf_split_test
