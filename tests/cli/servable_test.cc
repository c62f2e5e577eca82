// Models that can be packed and that no engine would serve: `pack` and `inspect` say what the
// engine would say, before anything is written.
#include "cli/servable.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "cli/inspect_report.h"
#include "packer/pack_writer.h"
#include "packer/source_model.h"
#include "proto/store/v1/pack_format.h"
#include "tests/cli/command_line.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_support.h"

namespace tidegate::servable_test {

using testing::HasSubstr;
using testing::Not;

constexpr char kChatMl[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + m.content + '<|im_end|>' }}{% endfor %}";

// Tokens, types and scores of the model that LlamaGguf() makes, from id 300 on with others.
struct Tail {
  std::string text;
  int32_t type = 1;
  float score = 0;
};
void SetTail(GgufBuilder& gguf, const std::vector<Tail>& tail) {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int32_t> types = {2, 3, 3};
  static constexpr char kHex[] = "0123456789ABCDEF";
  for (int b = 0; b < 256; ++b) {
    tokens.push_back(std::string("<0x") + kHex[b / 16] + kHex[b % 16] + ">");
    types.push_back(6);
  }
  while (tokens.size() < 300) {
    tokens.push_back("t" + std::to_string(tokens.size()));
    types.push_back(1);
  }
  std::vector<float> scores(tokens.size());
  for (const Tail& token : tail) {
    tokens.push_back(token.text);
    types.push_back(token.type);
    scores.push_back(token.score);
  }
  gguf.SetStrings("tokenizer.ggml.tokens", tokens);
  gguf.SetInt32s("tokenizer.ggml.token_type", types);
  gguf.SetFloats("tokenizer.ggml.scores", scores);
}

class ServableTest : public testing::Test {
 protected:
  std::string Write(const std::function<void(GgufBuilder&)>& edit) {
    GgufBuilder gguf = LlamaGguf({});
    edit(gguf);
    gguf.WriteTo(dir_.File("m.gguf"));
    return dir_.File("m.gguf");
  }
  absl::Status Pack(std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"pack", dir_.File("m.gguf")});
    return RunCommand(AddPackCommand, more, &out_);
  }
  Json Inspect(const std::string& name) {
    const absl::Status status =
        RunCommand(AddInspectCommand, {"inspect", dir_.File(name), "--json"}, &out_);
    Json report = Json::parse(out_);
    const bool usable = report.contains("packing") ? report["packing"]["possible"].get<bool>()
                                                   : report["serving"]["served"].get<bool>();
    EXPECT_EQ(status.ok(), usable) << status;
    return report;
  }

  TempDir dir_;
  std::string out_;
};

struct Fault {
  const char* name;
  std::function<void(GgufBuilder&)> edit;
  const char* message;
};

std::vector<Fault> Faults() {
  return {
      {"NoBos",
       [](GgufBuilder& g) {
         g.Remove("tokenizer.ggml.bos_token_id");
         g.SetBool("tokenizer.ggml.add_bos_token", true);
       },
       "add_bos is set but there is no bos_id"},
      {"NoEos",
       [](GgufBuilder& g) {
         g.Remove("tokenizer.ggml.eos_token_id");
         g.SetBool("tokenizer.ggml.add_eos_token", true);
       },
       "add_eos is set but there is no eos_id"},
      {"LongAddedToken",
       [](GgufBuilder& g) {
         SetTail(g, {{std::string(2000, 'x'), 4}});
       },
       "token 300 is control or user-defined and has 2000 bytes"},
      {"TypeZero",
       [](GgufBuilder& g) {
         SetTail(g, {{"x", 0}});
       },
       "token 300 has type 0"},
      {"TypeSeven",
       [](GgufBuilder& g) {
         SetTail(g, {{"x", 7}});
       },
       "token 300 has type 7"},
      {"NegativeType",
       [](GgufBuilder& g) {
         SetTail(g, {{"x", -1}});
       },
       "token 300 has type -1"},
      {"ScoreIsNoNumber",
       [](GgufBuilder& g) {
         SetTail(g, {{"x", 1, std::numeric_limits<float>::quiet_NaN()}});
       },
       "the score of token 300 is not a number"},
      {"TwoTokensForAByte",
       [](GgufBuilder& g) {
         SetTail(g, {{"<0x0A>", 6}});
       },
       "are both <0x0a>"},
      {"ByteTokenIsNone",
       [](GgufBuilder& g) {
         SetTail(g, {{"newline", 6}});
       },
       "byte token 300 is \"newline\""},
      {"NotEveryTextHasIds",
       [](GgufBuilder& g) {
         std::vector<int32_t> types(320, 1);
         types[1] = types[2] = 3;
         g.SetInt32s("tokenizer.ggml.token_type", types);
         g.Remove("tokenizer.ggml.unknown_token_id");
       },
       "nor an unknown token"},
  };
}

class RefusalTest : public ServableTest, public testing::WithParamInterface<Fault> {};

TEST_P(RefusalTest, IsSaidByPackAndInspect) {
  const std::string path = Write(GetParam().edit);
  const absl::Status packed = Pack();
  EXPECT_EQ(packed.code(), absl::StatusCode::kInvalidArgument) << packed;
  EXPECT_THAT(std::string(packed.message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(packed.message()), HasSubstr(path));
  EXPECT_FALSE(FileExists(dir_.File("m.tgpack")));
  const Json packing = Inspect("m.gguf")["packing"];
  EXPECT_EQ(packing["possible"], false);
  EXPECT_THAT(packing["why_not"].get<std::string>(), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, RefusalTest, testing::ValuesIn(Faults()),
                         [](const auto& test) { return std::string(test.param.name); });

// Before the long work: the text of the calibration is not even opened.
TEST_F(ServableTest, SaysSoBeforeItCalibrates) {
  Write(Faults()[0].edit);
  EXPECT_THAT(std::string(Pack({"--units", "q4", "--calibrate", dir_.File("none")}).message()),
              HasSubstr("there is no bos_id"));
}

TEST_F(ServableTest, InspectSaysItOfAPackToo) {
  Write(Faults()[0].edit);
  const auto source = SourceModel::Open(dir_.File("m.gguf"));
  ASSERT_TRUE(WritePack(*source, dir_.File("old.tgpack"), {}, nullptr).ok()) << "as pack once did";
  const Json serving = Inspect("old.tgpack")["serving"];
  EXPECT_EQ(serving["served"], false);
  EXPECT_THAT(serving["why_not"].get<std::string>(), HasSubstr("there is no bos_id"));
}

TEST_F(ServableTest, AWrongTemplateIsSaidAndPacked) {
  Write([](GgufBuilder& g) { g.SetString("tokenizer.chat_template", "{% if %}"); });
  EXPECT_TRUE(Pack().ok());
  for (const Json& where : {Inspect("m.gguf")["packing"], Inspect("m.tgpack")["serving"]}) {
    EXPECT_THAT(where["chat_template_error"].get<std::string>(), HasSubstr("line 1"));
  }
}

TEST_F(ServableTest, SaysWhichTokensBecameSpecial) {
  Write([](GgufBuilder& g) {
    SetTail(g, {{"<|im_start|>"}, {"<|im_end|>"}, {"user"}});
    g.SetString("tokenizer.chat_template", kChatMl);
  });
  ASSERT_TRUE(Pack().ok());
  EXPECT_THAT(out_, HasSubstr("<|im_start|> (300), <|im_end|> (301)\n"));
  EXPECT_EQ(Inspect("m.tgpack")["tokenizer"]["made_special"],
            "<|im_start|> (300), <|im_end|> (301)");
  EXPECT_FALSE(Inspect("m.tgpack")["serving"].contains("pack_again_for_special_tokens"));
  // As an older version packed it.
  const auto fd = UniqueFd::Open(dir_.File("m.tgpack"), O_RDONLY);
  auto index = ReadPackIndex(fd->get(), "m.tgpack");
  ASSERT_TRUE(index.ok()) << index.status();
  store::v1::Tokenizer& old = *index->manifest.mutable_tokenizer();
  old.clear_promoted_ids();
  old.set_types(300, 1);
  EXPECT_EQ(DescribePack("m.tgpack", *index)["serving"]["pack_again_for_special_tokens"],
            "<|im_start|> (300)");
  EXPECT_EQ(Inspect("m.gguf")["hyper_parameters"]["vocab_size"], 303);
  EXPECT_EQ(Inspect("m.gguf")["hyper_parameters"]["embedding_rows"], 320);
}

TEST(CheckServable, NeedsARowForEachToken) {
  store::v1::Manifest manifest;
  store::v1::Tokenizer& tokenizer = *manifest.mutable_tokenizer();
  tokenizer.set_model("gpt2");
  for (const char* text : {"a", "b"}) {
    tokenizer.add_tokens(text);
    tokenizer.add_types(1);
  }
  manifest.mutable_hyper_parameters()->set_embedding_rows(2);
  EXPECT_TRUE(CheckServable(manifest).ok());
  manifest.mutable_hyper_parameters()->set_embedding_rows(1);
  EXPECT_THAT(std::string(CheckServable(manifest).message()),
              HasSubstr("2 tokens, the embedding only 1 rows"));
}

}  // namespace tidegate::servable_test
