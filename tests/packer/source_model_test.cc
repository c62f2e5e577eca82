#include "packer/source_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "packer/pack_plan.h"
#include "packer/source_tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::source_model_test {

using absl::StatusCode;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Le32(uint32_t value) { return std::string(reinterpret_cast<char*>(&value), 4); }
std::string Le64(uint64_t value) { return std::string(reinterpret_cast<char*>(&value), 8); }
std::string Text(const std::string& text) { return Le64(text.size()) + text; }

GgufBuilder SmallFile() {
  GgufBuilder gguf;
  gguf.SetUint32("a.u32", 7);
  gguf.SetInt32("a.i32", -7);
  gguf.SetUint64("a.u64", uint64_t{1} << 40);
  gguf.SetFloat("a.f32", 0.5f);
  gguf.SetBool("a.bool", true);
  gguf.SetString("a.text", "hello");
  gguf.SetStrings("a.texts", {"x", "", "yz"});
  gguf.SetFloats("a.floats", {1, 2});
  gguf.SetInt32s("a.ints", {-1, 3});
  gguf.AddTensor("m", GgmlType::kF32, {3, 2}, {1, 2, 3, 4, 5, 6});
  gguf.AddTensor("v", GgmlType::kF16, {4}, {0.5f, -1, 2, 65504});
  return gguf;
}

absl::StatusOr<SourceModel> OpenBytes(const std::string& bytes) {
  TempDir dir;  // The file stays readable through its descriptor.
  WriteFileOrDie(dir.File("f.gguf"), bytes);
  return SourceModel::Open(dir.File("f.gguf"));
}

TEST(SourceModelTest, ReadsEveryKindOfValue) {
  for (const uint32_t version : {2u, 3u}) {
    GgufBuilder gguf = SmallFile();
    gguf.version = version;
    const auto file = OpenBytes(gguf.Build());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->version(), version);
    EXPECT_EQ(*file->GetUint("a.u32"), 7u);
    EXPECT_EQ(*file->GetUint("a.u64"), uint64_t{1} << 40);
    EXPECT_EQ(*file->GetNumber("a.i32"), -7);
    EXPECT_EQ(*file->GetNumber("a.f32"), 0.5);
    EXPECT_TRUE(*file->GetBool("a.bool"));
    EXPECT_EQ(*file->GetString("a.text"), "hello");
    EXPECT_THAT(std::get<std::vector<std::string>>(file->metadata().at("a.texts")),
                ElementsAre("x", "", "yz"));
    EXPECT_THAT(std::get<std::vector<double>>(file->metadata().at("a.floats")), ElementsAre(1, 2));
    EXPECT_THAT(std::get<std::vector<int64_t>>(file->metadata().at("a.ints")), ElementsAre(-1, 3));
  }
}

TEST(SourceModelTest, LookUpsNameTheKeyAndWhatIsWrong) {
  const auto file = OpenBytes(SmallFile().Build());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->GetUint("nope").status().code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(file->GetUint("nope").status().message()), HasSubstr("nope"));
  EXPECT_EQ(file->GetUint("a.i32").status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(file->GetUint("a.text").status().message()),
              HasSubstr("a.text is a text"));
  EXPECT_THAT(std::string(file->GetString("a.ints").status().message()),
              HasSubstr("an array of signed"));
  EXPECT_FALSE(file->GetBool("a.u32").ok());
  EXPECT_FALSE(file->GetNumber("a.bool").ok());
}

TEST(SourceModelTest, ReadsRowsAndBytesWithinBoundsOnly) {
  const auto file = OpenBytes(SmallFile().Build());
  ASSERT_TRUE(file.ok());
  const GgufTensor* m = file->FindTensor("m");
  ASSERT_NE(m, nullptr);
  EXPECT_EQ(m->columns(), 3u);
  EXPECT_EQ(m->rows(), 2u);
  float rows[6] = {};
  ASSERT_TRUE(file->ReadRows(*m, 0, 2, rows).ok());
  EXPECT_THAT(rows, ElementsAre(1, 2, 3, 4, 5, 6));
  ASSERT_TRUE(file->ReadRows(*m, 1, 1, rows).ok());
  EXPECT_EQ(rows[0], 4);
  EXPECT_FALSE(file->ReadRows(*m, 1, 2, rows).ok());
  EXPECT_FALSE(file->ReadRows(*m, 3, 0, rows).ok());
  EXPECT_FALSE(file->ReadRows(*m, 1, UINT64_MAX, rows).ok());
  char bytes[24];
  EXPECT_TRUE(file->ReadBytes(*m, 0, 24, bytes).ok());
  EXPECT_FALSE(file->ReadBytes(*m, 1, 24, bytes).ok());
  EXPECT_FALSE(file->ReadBytes(*m, 8, UINT64_MAX, bytes).ok());
  float v[4];
  ASSERT_TRUE(file->ReadRows(*file->FindTensor("v"), 0, 1, v).ok());
  EXPECT_THAT(v, ElementsAre(0.5f, -1, 2, 65504));
  EXPECT_EQ(file->FindTensor("w"), nullptr);
}

TEST(SourceModelTest, LongTensorsAreReadInPieces) {
  std::vector<float> values(3 * 400'000);  // 1.6 MB per row: more than one internal read
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 1000);
  GgufBuilder gguf;
  gguf.AddTensor("t", GgmlType::kF32, {400'000, 3}, values);
  const auto file = OpenBytes(gguf.Build());
  ASSERT_TRUE(file.ok());
  std::vector<float> read(values.size());
  ASSERT_TRUE(file->ReadRows(*file->FindTensor("t"), 0, 3, read.data()).ok());
  EXPECT_EQ(read, values);
}

TEST(SourceModelTest, OtherAlignmentsAreFollowed) {
  GgufBuilder gguf = SmallFile();
  gguf.alignment = 256;
  gguf.SetUint32("general.alignment", 256);
  const auto file = OpenBytes(gguf.Build());
  ASSERT_TRUE(file.ok()) << file.status();
  float rows[6] = {};
  ASSERT_TRUE(file->ReadRows(*file->FindTensor("m"), 0, 2, rows).ok());
  EXPECT_EQ(rows[5], 6);
}

TEST(SourceModelTest, AFileWithoutTensorsIsFine) {
  GgufBuilder gguf;
  gguf.SetString("general.architecture", "llama");
  const auto file = OpenBytes(gguf.Build());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->tensors().empty());
}

TEST(SourceModelTest, SizesOfTypesThatCannotBeReadAreKnown) {
  GgufBuilder gguf;
  gguf.AddRawTensor("k", 16, {256, 2}, std::string(2 * 66, 'x'));  // IQ2_XXS
  gguf.AddRawTensor("new", 99, {8}, "");
  const auto file = OpenBytes(gguf.Build());
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->FindTensor("k")->bytes, 132u);
  EXPECT_EQ(file->FindTensor("new")->bytes, 0u);
  float out[512];
  const absl::Status status = file->ReadRows(*file->FindTensor("k"), 0, 1, out);
  EXPECT_THAT(std::string(status.message()), HasSubstr("IQ2_XXS"));
}

TEST(SourceModelTest, MissingFilesAndFoldersAreNamed) {
  TempDir dir;
  const auto missing = SourceModel::Open(dir.File("no.gguf"));
  EXPECT_EQ(missing.status().code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("no.gguf"));
  EXPECT_THAT(std::string(SourceModel::Open(dir.path()).status().message()),
              HasSubstr("is a folder"));
}

// One row per way that a file can be wrong.
struct BadFile {
  const char* name;
  std::string bytes;
  StatusCode code;
  const char* message;
};

std::string Head(uint32_t version, uint64_t tensors, uint64_t entries) {
  return "GGUF" + Le32(version) + Le64(tensors) + Le64(entries);
}
std::string Entry(const std::string& key, uint32_t type, const std::string& value) {
  return Text(key) + Le32(type) + value;
}
std::string TensorInfo(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type,
                       uint64_t offset) {
  std::string out = Text(name) + Le32(static_cast<uint32_t>(dims.size()));
  for (const uint64_t n : dims) out += Le64(n);
  return out + Le32(type) + Le64(offset);
}
const std::string kRoom(256, '\0');

std::vector<BadFile> BadFiles() {
  constexpr auto kInvalid = StatusCode::kInvalidArgument;
  constexpr auto kLoss = StatusCode::kDataLoss;
  constexpr uint64_t kHuge = uint64_t{1} << 62;
  return {
      {"Empty", "", kInvalid, "empty"},
      {"TextFile", "<!DOCTYPE html><html>", kInvalid, "it starts with \"<!DOCTYPE html><\""},
      {"BinaryFile",
       std::string("\x7f"
                   "ELF\0\1",
                   6),
       kInvalid, "starts with \"\\x7f"},
      {"PartOfTheMagic", "GG", kInvalid, "it starts with \"GG\""},
      {"Pack", "1TGPACK1" + kRoom, kInvalid, "pack already"},
      {"OnlyTheMagic", "GGUF", kLoss, "truncated"},
      {"Version1", Head(1, 0, 0), kInvalid, "version 1"},
      {"Version4", Head(4, 0, 0), kInvalid, "version 4"},
      {"BigEndian", Head(0x03000000, 0, 0), kInvalid, "big-endian"},
      {"NoCounts", "GGUF" + Le32(3), kLoss, "truncated"},
      {"TooManyTensors", Head(3, kHuge, 0) + kRoom, kLoss, "damaged"},
      {"TooManyEntries", Head(3, 0, kHuge) + kRoom, kLoss, "damaged"},
      {"EntriesMissing", Head(3, 0, 3), kLoss, "a metadata key"},
      {"LongKey", Head(3, 0, 1) + Le64(kHuge) + kRoom, kLoss, "too long"},
      {"LongText", Head(3, 0, 1) + Entry("k", 8, Le64(kHuge)) + kRoom, kLoss, "k: damaged"},
      {"TextPastTheEnd", Head(3, 0, 1) + Entry("k", 8, Le64(1000)) + kRoom, kLoss, "truncated"},
      {"UnknownType", Head(3, 0, 1) + Entry("k", 13, kRoom), kLoss, "unknown type 13"},
      {"LongArray", Head(3, 0, 1) + Entry("k", 9, Le32(4) + Le64(kHuge)) + kRoom, kLoss,
       "array of"},
      {"ArrayPastTheEnd", Head(3, 0, 1) + Entry("k", 9, Le32(4) + Le64(100)) + kRoom, kLoss,
       "does not fit"},
      {"TextsPastTheEnd", Head(3, 0, 1) + Entry("k", 9, Le32(8) + Le64(100)) + kRoom, kLoss,
       "does not fit"},
      {"NestedArray", Head(3, 0, 1) + Entry("k", 9, Le32(9) + Le64(1)) + kRoom, kLoss,
       "arrays inside arrays"},
      {"KeyTwice", Head(3, 0, 2) + Entry("k", 4, Le32(1)) + Entry("k", 4, Le32(1)), kLoss, "twice"},
      {"OddAlignment", Head(3, 0, 1) + Entry("general.alignment", 4, Le32(48)), kLoss,
       "power of two"},
      {"ZeroAlignment", Head(3, 0, 1) + Entry("general.alignment", 4, Le32(0)), kLoss,
       "power of two"},
      {"HugeAlignment", Head(3, 0, 1) + Entry("general.alignment", 4, Le32(1u << 31)), kLoss,
       "power of two"},
      {"FiveDims", Head(3, 1, 0) + TensorInfo("t", {1, 1, 1, 1, 1}, 0, 0) + kRoom, kLoss,
       "5 dimensions"},
      {"EmptyDim", Head(3, 1, 0) + TensorInfo("t", {4, 0}, 0, 0) + kRoom, kLoss,
       "impossible shape"},
      {"DimsOverflow", Head(3, 1, 0) + TensorInfo("t", {kHuge, 4}, 0, 0) + kRoom, kLoss,
       "impossible shape"},
      {"BytesOverflow", Head(3, 1, 0) + TensorInfo("t", {kHuge, 1}, 0, 0) + kRoom, kLoss,
       "impossible shape"},
      {"RowsNotWholeBlocks", Head(3, 1, 0) + TensorInfo("t", {33}, 8, 0) + kRoom, kLoss,
       "not whole Q8_0 blocks"},
      {"TensorTwice",
       Head(3, 2, 0) + TensorInfo("t", {4}, 0, 0) + TensorInfo("t", {4}, 0, 0) + kRoom, kLoss,
       "tensor t appears twice"},
      {"TensorPastTheEnd", Head(3, 1, 0) + TensorInfo("t", {64, 64}, 0, 0) + kRoom, kLoss,
       "truncated: tensor t"},
      {"OffsetPastTheEnd", Head(3, 1, 0) + TensorInfo("t", {4}, 0, kHuge) + kRoom, kLoss,
       "truncated: tensor t"},
      {"OffsetNotAligned", Head(3, 1, 0) + TensorInfo("t", {4}, 0, 8) + kRoom, kLoss, "odd offset"},
      {"TensorsMissing", Head(3, 2, 0) + TensorInfo("t", {4}, 0, 0), kLoss, "a tensor name"},
  };
}

class BadGgufTest : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadGgufTest, IsRefused) {
  const auto file = OpenBytes(GetParam().bytes);
  EXPECT_EQ(file.status().code(), GetParam().code) << file.status();
  EXPECT_THAT(std::string(file.status().message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(file.status().message()), HasSubstr("f.gguf"));
}

INSTANTIATE_TEST_SUITE_P(All, BadGgufTest, ::testing::ValuesIn(BadFiles()),
                         [](const auto& row) { return std::string(row.param.name); });

// Whatever happens to the bytes: an answer, never a crash, and only tensors inside the file.
TEST(GgufFuzzTest, DamagedFilesGiveErrorsOrHarmlessFiles) {
  const uint32_t seed = 20240601;
  std::mt19937 random(seed);
  const std::string good = LlamaGguf({.layers = 1, .hidden = 32, .intermediate = 32}).Build();
  TempDir dir;
  size_t head_bytes = good.find("output.weight") + 64;
  int refused = 0;
  for (int round = 0; round < 600; ++round) {
    std::string bytes = good;
    if (round % 3 == 0) {
      bytes.resize(random() % good.size());
    } else {
      for (uint32_t flips = 1 + random() % 4; flips > 0; --flips) {
        bytes[random() % head_bytes] ^= static_cast<char>(1 << random() % 8);
      }
    }
    WriteFileOrDie(dir.File("f"), bytes);
    const auto file = SourceModel::Open(dir.File("f"));
    if (!file.ok()) {
      ++refused;
      continue;
    }
    for (const GgufTensor& tensor : file->tensors()) {
      ASSERT_LE(tensor.offset, bytes.size()) << "seed " << seed << " round " << round;
      ASSERT_LE(tensor.bytes, bytes.size() - tensor.offset)
          << "seed " << seed << " round " << round;
    }
    (void)PlanPack(*file, PackOptions());
  }
  EXPECT_GT(refused, 200);
}

TEST(SourceModelTest, GoldenVocabulariesOpen) {
  TG_REQUIRE_SHARED("data/tokenizers");
  const auto file = SourceModel::Open(SharedPath("data/tokenizers/ggml-vocab-llama-spm.gguf"));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->tensors().empty());
  const auto tokenizer = TokenizerOf(*file);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(tokenizer->tokens_size(), 32000);
  EXPECT_EQ(tokenizer->bos_id(), 1u);
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_FALSE(tokenizer->add_eos());
  EXPECT_TRUE(tokenizer->add_space_prefix());
}

}  // namespace tidegate::source_model_test
