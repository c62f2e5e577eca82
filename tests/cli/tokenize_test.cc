#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "measure/load_tokenizer.h"
#include "packer/pack_writer.h"
#include "packer/source_model.h"
#include "tests/cli/command_line.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::tokenize_test {

using testing::HasSubstr;

// A GGUF file with a vocabulary and no weights, made by hand.
class VocabularyFile {
 public:
  explicit VocabularyFile(const std::string& model) {
    Bytes("GGUF");
    U32(3);
    U64(0);  // tensors
    U64(5);  // keys
    Key("general.architecture", 8);
    String("llama");
    Key("tokenizer.ggml.model", 8);
    String(model);
    Array("tokenizer.ggml.tokens", 8);
    for (const std::string& token : kTokens) String(token);
    Array("tokenizer.ggml.token_type", 5);
    for (const uint32_t type : {2u, 3u, 1u, 1u, 1u}) U32(type);
    Key("tokenizer.ggml.bos_token_id", 4);
    U32(1);
  }
  const std::string& content() const { return content_; }

 private:
  const std::vector<std::string> kTokens = {"<unk>", "<s>", "\u2581", "a", "b"};

  void Bytes(const std::string& bytes) { content_ += bytes; }
  void U32(uint32_t v) {
    for (int i = 0; i < 4; ++i) content_ += static_cast<char>(v >> (8 * i));
  }
  void U64(uint64_t v) {
    U32(static_cast<uint32_t>(v));
    U32(static_cast<uint32_t>(v >> 32));
  }
  void String(const std::string& text) {
    U64(text.size());
    Bytes(text);
  }
  void Key(const std::string& name, uint32_t type) {
    String(name);
    U32(type);
  }
  void Array(const std::string& name, uint32_t element_type) {
    Key(name, 9);
    U32(element_type);
    U64(kTokens.size());
  }

  std::string content_;
};

// Standard input from a file while it lives.
class StandardInput {
 public:
  explicit StandardInput(const std::string& path) : saved_(dup(STDIN_FILENO)) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    dup2(fd, STDIN_FILENO);
    close(fd);
  }
  ~StandardInput() {
    dup2(saved_, STDIN_FILENO);
    close(saved_);
  }
  StandardInput(const StandardInput&) = delete;

 private:
  int saved_;
};

class TokenizeCommand : public testing::Test {
 protected:
  TokenizeCommand() { WriteFileOrDie(model_, VocabularyFile("llama").content()); }

  // What the command prints; a failure sets status_.
  std::string Run(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "tokenize");
    std::string out;
    status_ = RunCommand(AddTokenizeCommand, std::move(arguments), &out);
    return out;
  }

  std::string RunOn(const std::string& input, std::vector<std::string> arguments = {}) {
    WriteFileOrDie(dir_.File("input"), input);
    arguments.insert(arguments.begin(), {model_, "--file", dir_.File("input")});
    return Run(arguments);
  }

  TempDir dir_;
  const std::string model_ = dir_.File("vocabulary.gguf");
  absl::Status status_;
};

TEST_F(TokenizeCommand, PrintsIdsAsJson) {
  EXPECT_EQ(RunOn("ab b"), "[1, 2, 3, 4, 2, 4]\n");
  EXPECT_EQ(RunOn("ab b", {"--no-special"}), "[2, 3, 4, 2, 4]\n");
  EXPECT_EQ(RunOn("", {"--no-special"}), "[]\n");
  EXPECT_EQ(RunOn("a\n", {"--no-special"}), "[2, 3, 0]\n") << "the line break belongs to the text";
  EXPECT_TRUE(status_.ok()) << status_;
}

TEST_F(TokenizeCommand, ReadsStandardInput) {
  WriteFileOrDie(dir_.File("text"), "ba");
  const StandardInput input(dir_.File("text"));
  EXPECT_EQ(Run({model_}), "[1, 2, 4, 3]\n");
}

TEST_F(TokenizeCommand, DecodesWhatItPrinted) {
  EXPECT_EQ(RunOn("[1, 2, 3, 4, 2, 4]\n", {"--decode", "--no-special"}), "ab b");
  EXPECT_EQ(RunOn("1 2,3\n4", {"--decode"}), "<s>ab");
  EXPECT_EQ(RunOn("", {"--decode"}), "");
  EXPECT_TRUE(status_.ok()) << status_;
}

TEST_F(TokenizeCommand, RefusesWhatIsNoId) {
  for (const char* text : {"[1, x]", "5", "-1", "1.5", "99999999999999999999"}) {
    EXPECT_EQ(RunOn(text, {"--decode"}), "");
    EXPECT_EQ(status_.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status_.message()), HasSubstr("is not a whole number from 0 to 4"));
  }
}

TEST_F(TokenizeCommand, NamesTheFileThatIsMissing) {
  Run({dir_.File("none.gguf"), "--file", model_});
  EXPECT_EQ(status_.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status_.message()), HasSubstr("none.gguf"));
  Run({model_, "--file", dir_.File("none.txt")});
  EXPECT_EQ(status_.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status_.message()), HasSubstr("none.txt"));
  Run({model_, "--file", dir_.path()});
  EXPECT_FALSE(status_.ok()) << "a folder is no text";
}

TEST_F(TokenizeCommand, HelpHasExamples) {
  const std::string help = FactsOf(AddTokenizeCommand).help;
  EXPECT_THAT(help, HasSubstr("tidegate tokenize model.gguf"));
  EXPECT_THAT(help, HasSubstr("--no-special"));
  EXPECT_THAT(help, HasSubstr("--decode"));
}

TEST_F(TokenizeCommand, NeedsAModel) {
  Run({});
  EXPECT_EQ(status_.message(), "MODEL is required");
}

TEST_F(TokenizeCommand, ReadsAPackAsWellAsItsSource) {
  const auto gguf = SourceModel::Open(DemoModelPath());
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  const auto report = WritePack(*gguf, dir_.File("model.tgpack"), {}, [](uint64_t, uint64_t) {});
  ASSERT_TRUE(report.ok()) << report.status();
  WriteFileOrDie(dir_.File("text"), "Once upon a time, \xf0\x9f\x98\x80");
  const std::string ids = Run({DemoModelPath(), "--file", dir_.File("text")});
  EXPECT_THAT(ids, testing::StartsWith("[1, "));
  EXPECT_EQ(Run({dir_.File("model.tgpack"), "--file", dir_.File("text")}), ids);
  EXPECT_TRUE(status_.ok()) << status_;
}

TEST_F(TokenizeCommand, FindsControlTokensOnlyWhenAsked) {
  EXPECT_EQ(RunOn("ab<s>b"), "[1, 2, 3, 4, 0, 0, 0, 4]\n");
  EXPECT_EQ(RunOn("ab<s>b", {"--parse-special", "--no-special"}), "[2, 3, 4, 1, 2, 4]\n");
}

TEST_F(TokenizeCommand, ReadsByteLevelVocabularies) {
  const store::v1::Tokenizer data = TinyByteLevel({{"a", "b"}, {"_", "ab"}});
  GgufBuilder gguf = LlamaGguf({});
  gguf.SetString("tokenizer.ggml.model", "gpt2");
  gguf.SetString("tokenizer.ggml.pre", "gpt-2");
  gguf.SetStrings("tokenizer.ggml.tokens", {data.tokens().begin(), data.tokens().end()});
  gguf.SetInt32s("tokenizer.ggml.token_type", {data.types().begin(), data.types().end()});
  gguf.SetStrings("tokenizer.ggml.merges", {"a b", "\u0120 ab"});
  for (const char* key : {"scores", "bos_token_id", "eos_token_id", "unknown_token_id"}) {
    gguf.Remove(absl::StrCat("tokenizer.ggml.", key));
  }
  gguf.WriteTo(dir_.File("bpe.gguf"));
  const auto source = SourceModel::Open(dir_.File("bpe.gguf"));
  ASSERT_TRUE(source.ok()) << source.status();
  const auto report = WritePack(*source, dir_.File("bpe.tgpack"), {}, [](uint64_t, uint64_t) {});
  ASSERT_TRUE(report.ok()) << report.status();
  WriteFileOrDie(dir_.File("text"), "ab ab\xff");
  for (const char* file : {"bpe.gguf", "bpe.tgpack"}) {
    EXPECT_EQ(Run({dir_.File(file), "--file", dir_.File("text")}), "[256, 257, 255]\n") << file;
    EXPECT_TRUE(status_.ok()) << status_;
  }
}

TEST_F(TokenizeCommand, ReadsHuggingFaceFolders) {
  WriteFileOrDie(dir_.File("tokenizer.json"), R"({
      "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
      "decoder": {"type": "ByteLevel"}})");
  WriteFileOrDie(dir_.File("text"), "aba");
  EXPECT_EQ(Run({dir_.path(), "--file", dir_.File("text")}), "[2, 0]\n");
  EXPECT_TRUE(status_.ok()) << status_;
}

TEST_F(TokenizeCommand, SaysWhatIsEmpty) {
  WriteFileOrDie(dir_.File("tokenizer.json"), "");
  WriteFileOrDie(dir_.File("text"), "aba");
  EXPECT_EQ(Run({dir_.path(), "--file", dir_.File("text")}), "");
  EXPECT_THAT(std::string(status_.message()),
              HasSubstr("tokenizer.json: the file is empty, where a tokenizer is expected"));
  Run({model_, "--file", ""});
  EXPECT_EQ(status_.message(), "--file: name a file") << "not standard input";
}

TEST_F(TokenizeCommand, RefusesFilesThatHaveNoTokenizer) {
  const auto message_for = [this](const std::string& content) {
    WriteFileOrDie(dir_.File("other"), content);
    const absl::Status status = LoadTokenizer(dir_.File("other")).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_.File("other")));
    return std::string(status.message());
  };
  EXPECT_THAT(message_for(""), HasSubstr("the file is empty, neither a GGUF file nor a pack"));
  EXPECT_THAT(message_for("GGUF"), HasSubstr("neither a GGUF file nor a pack"));
  EXPECT_THAT(message_for("PK\3\4 something else"), HasSubstr("neither a GGUF file nor a pack"));
  EXPECT_THAT(message_for(VocabularyFile("bert").content()),
              HasSubstr("tokenizer model \"bert\" is not supported"));
  EXPECT_THAT(message_for(VocabularyFile("gpt2").content()), HasSubstr("tokenizer.ggml.merges"));
  EXPECT_FALSE(LoadTokenizer(dir_.path()).ok()) << "a folder";

  std::string cut = VocabularyFile("llama").content();
  cut.resize(cut.size() - 10);
  WriteFileOrDie(dir_.File("other"), cut);
  const absl::Status status = LoadTokenizer(dir_.File("other")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(dir_.File("other")));
}

}  // namespace tidegate::tokenize_test
