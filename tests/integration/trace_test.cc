// From recorded masks to a placed pack, through the programs: the model must stay the same model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/test_support.h"

namespace tidegate::trace_test {

using Json = nlohmann::json;
using ::testing::HasSubstr;

class TraceTest : public ::testing::Test {
 protected:
  static RunResult Tidegate(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), BinaryPath("tidegate"));
    return RunProgram(arguments);
  }
  RunResult Eval(const std::string& model, std::vector<std::string> more) {
    std::vector<std::string> arguments = {
        "eval",         model,    "--units",
        "f16",          "--text", ModelPath("tinystories-heldout.txt"),
        "--max-tokens", "256",    "--precision",
        "exact",        "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return Tidegate(arguments);
  }

  const std::string gguf_ = DemoModelPath();
  TempDir dir_;
};

TEST_F(TraceTest, PlacingUnitsChangesTheirOrderOnly) {
  const std::string trace = dir_.File("t.trace"), pack = dir_.File("placed.tgpack");
  const std::vector<std::string> dip = {"--mode", "dip", "--density", "0.5"};
  std::vector<std::string> recording = dip;
  recording.insert(recording.end(), {"--record", trace});
  const RunResult recorded = Eval(gguf_, recording);
  ASSERT_EQ(recorded.exit_code, 0) << recorded.err;
  // 6 layers, 256 input and 1024 hidden units.
  EXPECT_EQ(ReadFileOrDie(trace).size(), 24u + 256u * 6 * (32 + 128));
  const RunResult packed =
      Tidegate({"pack", gguf_, "-o", pack, "--units", "f16", "--trace", trace});
  ASSERT_EQ(packed.exit_code, 0) << packed.err;
  const RunResult verified = Tidegate({"inspect", "--verify", pack});
  EXPECT_EQ(verified.exit_code, 0) << verified.out;
  EXPECT_THAT(verified.out, ::testing::ContainsRegex("placed by trace +yes"));

  const RunResult placed = Eval(pack, dip);
  ASSERT_EQ(placed.exit_code, 0) << placed.err;
  const Json a = Json::parse(recorded.out), b = Json::parse(placed.out);
  EXPECT_NEAR(a.at("nll").get<double>(), b.at("nll").get<double>(), 2e-4);
  // What a mask uses most lies in front: the trace of the placed pack is the same trace.
  const std::string again = dir_.File("again.trace");
  recording.back() = again;
  ASSERT_EQ(Eval(pack, recording).exit_code, 0);
  const std::string before = ReadFileOrDie(trace), after = ReadFileOrDie(again);
  ASSERT_EQ(before.size(), after.size());
  size_t differing = 0;
  for (size_t i = 0; i < before.size(); ++i) differing += before[i] != after[i];
  EXPECT_LT(differing, before.size() / 1000) << "sums in another order move few masks";
}

TEST_F(TraceTest, BadTracesAreNamed) {
  const std::string text = dir_.File("text");
  WriteFileOrDie(text, "This is a story and not a trace.\n");
  const RunResult packed = Tidegate({"pack", gguf_, "-o", dir_.File("p"), "--trace", text});
  EXPECT_EQ(packed.exit_code, 1);
  EXPECT_THAT(packed.err, HasSubstr("is not a trace; make one with `tidegate eval --record`"));
  EXPECT_FALSE(FileExists(dir_.File("p")));
  const RunResult dense = Eval(gguf_, {"--record", dir_.File("t")});
  EXPECT_EQ(dense.exit_code, 1);
  EXPECT_THAT(dense.err, HasSubstr("--record: mode dense has no masks; use --mode dip"));
  const RunResult full =
      Eval(gguf_, {"--mode", "dip", "--density", "1", "--record", dir_.File("t")});
  EXPECT_EQ(full.exit_code, 1);
  EXPECT_THAT(full.err, HasSubstr("--record: at density 1 masks hold every unit"));
  EXPECT_FALSE(FileExists(dir_.File("t")));
}

TEST_F(TraceTest, ARecordingNeverReplacesWhatItReads) {
  const std::string model = dir_.File("m.gguf");
  WriteFileOrDie(model, ReadFileOrDie(gguf_));
  const RunResult same = Eval(model, {"--mode", "dip", "--density", "0.5", "--record", model});
  EXPECT_EQ(same.exit_code, 1);
  EXPECT_THAT(same.err, HasSubstr("is one of the files to read"));
  EXPECT_EQ(ReadFileOrDie(model).size(), ReadFileOrDie(gguf_).size());
  const std::string adapter = dir_.File("adapter.gguf");
  WriteFileOrDie(adapter, "an adapter");
  const RunResult lora =
      Eval(gguf_, {"--mode", "dip", "--density", "0.5", "--lora", adapter, "--record", adapter});
  EXPECT_EQ(lora.exit_code, 1);
  EXPECT_THAT(lora.err, HasSubstr("is one of the files to read"));
  EXPECT_EQ(ReadFileOrDie(adapter), "an adapter");
}

}  // namespace tidegate::trace_test
