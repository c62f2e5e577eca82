// `tidegate pack`, run inside this process.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/unique_fd.h"
#include "packer/source_model.h"
#include "proto/store/v1/pack_format.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/hf_folder.h"
#include "tests/support/random_values.h"
#include "tests/support/test_support.h"

namespace tidegate::pack_test {

using ::testing::HasSubstr;

// Runs `tidegate pack ...`; `out` receives standard output.
absl::Status RunPackCommand(std::vector<std::string> arguments, std::string* out) {
  arguments.insert(arguments.begin(), "pack");
  return RunCommand(AddPackCommand, std::move(arguments), out);
}

class PackCommandTest : public ::testing::Test {
 protected:
  void SetUp() override { LlamaGguf({}).WriteTo(dir_.File("m.gguf")); }
  store::v1::Manifest ReadManifest(const std::string& name) {
    const auto fd = UniqueFd::Open(dir_.File(name), O_RDONLY);
    EXPECT_TRUE(fd.ok()) << fd.status();
    const auto index = ReadPackIndex(fd->get(), name);
    EXPECT_TRUE(index.ok()) << index.status();
    return index->manifest;
  }

  TempDir dir_;
  std::string out_;
};

TEST_F(PackCommandTest, WritesBesideTheModelAndSummarises) {
  ASSERT_TRUE(RunPackCommand({dir_.File("m.gguf")}, &out_).ok());
  EXPECT_EQ(ReadManifest("m.tgpack").unit_encoding(), 3u);  // q8
  EXPECT_THAT(out_, HasSubstr("m.tgpack: test-llama"));
  EXPECT_THAT(out_,
              HasSubstr("64 per layer, 224 bytes each, 2 per block of 512 B, 12.5 % padding"));
  EXPECT_THAT(out_, HasSubstr("rounding     gate 0.00"));
  EXPECT_THAT(out_, ::testing::Not(HasSubstr("warning")));
}

TEST_F(PackCommandTest, MergesAdapters) {
  const std::string adapter = dir_.File("a.gguf");
  GgufBuilder gguf;
  gguf.SetString("general.architecture", "llama");
  gguf.SetString("adapter.type", "lora");
  gguf.AddTensor("blk.0.ffn_gate.weight.lora_a", GgmlType::kF32, {64, 2}, Normals(2 * 64, 1, 1));
  gguf.AddTensor("blk.0.ffn_gate.weight.lora_b", GgmlType::kF32, {2, 96}, Normals(2 * 96, 1, 2));
  gguf.WriteTo(adapter);
  const auto pack = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.begin(), {dir_.File("m.gguf"), "-o", dir_.File(name)});
    const absl::Status packed = RunPackCommand(more, &out_);
    EXPECT_TRUE(packed.ok()) << packed;
    return ReadManifest(name).layers(0).input().norms(0);
  };
  const float plain = pack("plain", {});
  EXPECT_EQ(pack("zero", {"--lora", adapter + "=0"}), plain);
  EXPECT_NE(pack("half", {"--lora", adapter + "=0.5"}), plain);
  EXPECT_NE(pack("whole", {"--lora", adapter}), pack("half", {"--lora", adapter + "=0.5"}));
  const absl::Status bad =
      RunPackCommand({dir_.File("m.gguf"), "--lora", adapter + "=much"}, &out_);
  EXPECT_THAT(std::string(bad.message()), HasSubstr("write FILE or FILE=SCALE"));
}

TEST_F(PackCommandTest, FollowsItsFlags) {
  ASSERT_TRUE(RunPackCommand({dir_.File("m.gguf"), "-o", dir_.File("p"), "--units", "f16",
                              "--block-bytes", "16KiB"},
                             &out_)
                  .ok());
  const auto manifest = ReadManifest("p");
  EXPECT_EQ(manifest.unit_encoding(), 2u);
  EXPECT_EQ(manifest.input_units().block_bytes(), 16384u);
  EXPECT_EQ(manifest.input_units().units_per_block(), 42u);
  EXPECT_THAT(out_, HasSubstr("(relative RMS of the weights)"));
  LlamaGguf({.matrices = GgmlType::kF16}).WriteTo(dir_.File("f16.gguf"));
  ASSERT_TRUE(
      RunPackCommand({dir_.File("f16.gguf"), "-o", dir_.File("p"), "--units", "f16"}, &out_).ok());
  EXPECT_THAT(out_, HasSubstr("rounding     none: lossless"));
  // Again over the old one.
  EXPECT_TRUE(RunPackCommand({dir_.File("m.gguf"), "-o", dir_.File("p")}, &out_).ok());
  EXPECT_EQ(ReadManifest("p").unit_encoding(), 3u);
}

TEST_F(PackCommandTest, CalibratesOnAText) {
  std::string text;
  for (uint32_t i = 0; text.size() < 3000; ++i) text += static_cast<char>('a' + i * i % 7 * i % 26);
  WriteFileOrDie(dir_.File("t.txt"), text);
  const auto pack = [&](const std::string& name, std::vector<std::string> more) {
    more.insert(more.begin(), {dir_.File("m.gguf"), "-o", dir_.File(name), "--units", "q4"});
    const absl::Status packed = RunPackCommand(more, &out_);
    EXPECT_TRUE(packed.ok()) << packed;
    return ReadManifest(name);
  };
  const auto plain = pack("plain", {});
  EXPECT_THAT(out_, HasSubstr("rounding     gate 0.08"));
  EXPECT_THAT(out_, ::testing::Not(HasSubstr("perplexity")));
  const std::vector<std::string> calibrate = {"--calibrate", dir_.File("t.txt"),
                                              "--calibrate-tokens", "2049"};
  const auto first = pack("first", calibrate);
  EXPECT_THAT(out_, HasSubstr("calibrated   perplexity "));
  EXPECT_THAT(out_, HasSubstr("(256 tokens held out, 1792 learnt from)"));
  EXPECT_GT(first.layers(0).input().relative_rms_errors(0),
            plain.layers(0).input().relative_rms_errors(0));
  EXPECT_EQ(first.layers(1).SerializeAsString(),
            pack("again", calibrate).layers(1).SerializeAsString());
}

TEST_F(PackCommandTest, CalibratesAFolder) {
  const auto model = SourceModel::Open(dir_.File("m.gguf"));
  ASSERT_TRUE(model.ok()) << model.status();
  WriteHfFolder(*model, dir_.File("hf"));
  WriteFileOrDie(dir_.File("hf/tokenizer.json"), R"({
      "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<unk>": 3}, "merges": ["a b"],
                "unk_token": "<unk>"}})");
  std::string text;
  while (text.size() < 6000) text += "abba"[text.size() * text.size() % 7 % 4];
  WriteFileOrDie(dir_.File("t.txt"), text);
  const absl::Status packed = RunPackCommand({dir_.File("hf"), "--units", "q4", "--calibrate",
                                              dir_.File("t.txt"), "--calibrate-tokens", "2049"},
                                             &out_);
  ASSERT_TRUE(packed.ok()) << packed;
  EXPECT_THAT(out_, HasSubstr("hf.tgpack: "));
  EXPECT_THAT(out_, HasSubstr("1792 learnt from"));
}

TEST_F(PackCommandTest, WarnsWhenQuantisedWeightsAreRoundedAgain) {
  LlamaGguf({.matrices = GgmlType::kQ4_0}).WriteTo(dir_.File("q4.gguf"));
  ASSERT_TRUE(RunPackCommand({dir_.File("q4.gguf")}, &out_).ok());
  EXPECT_THAT(out_, HasSubstr("warning: the MLP weights of the source (Q4_0)"));
  ASSERT_TRUE(RunPackCommand({dir_.File("q4.gguf"), "--units", "f16"}, &out_).ok());
  EXPECT_THAT(out_, ::testing::Not(HasSubstr("warning")));
}

TEST_F(PackCommandTest, ReplacesNoFileThatItReads) {
  WriteFileOrDie(dir_.File("p.json"),
                 ReadFileOrDie(SourcePath("tests/fuzz/corpus/profile/two_points.json")));
  for (const char* name : {"a.gguf", "text", "trace"}) WriteFileOrDie(dir_.File(name), "as it was");
  std::filesystem::create_hard_link(dir_.File("m.gguf"), dir_.File("link"));
  // The text is too short and the trace is none: refused before either is looked at.
  const std::vector<std::string> kInputs[] = {{"m.gguf"},
                                              {"link"},
                                              {"p.json", "--profile"},
                                              {"a.gguf", "--lora"},
                                              {"trace", "--trace"},
                                              {"text", "--units", "q4", "--calibrate"}};
  for (std::vector<std::string> flags : kInputs) {
    const std::string file = dir_.File(flags[0]), before = ReadFileOrDie(file);
    if (flags.size() > 1) flags.push_back(file);
    flags[0] = dir_.File("m.gguf");
    flags.insert(flags.end(), {"-o", file});
    const absl::Status refused = RunPackCommand(flags, &out_);
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << file;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(file + " is one of the files to read"));
    EXPECT_EQ(ReadFileOrDie(file), before);
  }
}

TEST_F(PackCommandTest, MistakesAreNamed) {
  WriteFileOrDie(dir_.File("text.gguf"), "hello there");
  WriteFileOrDie(dir_.File("empty"), "");
  struct Row {
    std::vector<std::string> arguments;
    std::string message;
  };
  const Row kRows[] = {
      {{dir_.File("none.gguf")}, "none.gguf"},
      {{dir_.File("text.gguf")}, "it starts with \"hello there\""},
      {{dir_.File("m.gguf"), "--units", "q5"}, "unknown unit encoding 'q5'"},
      {{dir_.File("m.gguf"), "--block-bytes", "big"}, "--block-bytes: 'big'"},
      {{dir_.File("m.gguf"), "--block-bytes", "0"}, "holds nothing"},
      {{dir_.File("m.gguf"), "--block-bytes", "1000"}, "not a multiple of 512"},
      {{dir_.File("m.gguf"), "-o", dir_.File("no/p")}, "cannot write into folder"},
      {{dir_.File("m.gguf"), "--calibrate", "t"}, "--calibrate is for --units q4"},
      {{dir_.File("m.gguf"), "--units", "q4", "--calibrate", dir_.File("none")}, "cannot open"},
      {{DemoModelPath(), "--units", "q4", "--calibrate", dir_.File("empty"), "-o", dir_.File("p")},
       "empty holds no text"},
      {{DemoModelPath(), "--units", "q4", "--calibrate", dir_.path(), "-o", dir_.File("p")},
       "is a folder"},
      {{DemoModelPath(), "--units", "q4", "--calibrate", dir_.File("text.gguf"), "-o",
        dir_.File("p")},
       "text.gguf: a calibration needs at least 2049 tokens"},
  };
  for (const Row& row : kRows) {
    const absl::Status status = RunPackCommand(row.arguments, &out_);
    EXPECT_FALSE(status.ok());
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
    EXPECT_EQ(out_, "");
  }
}

}  // namespace tidegate::pack_test
