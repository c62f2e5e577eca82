// Bad input from files, flags, budgets, sockets and requests: a clear error that names the thing,
// and never a crash.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/store/v1/pack_format.h"
#include "tests/support/daemons.h"
#include "tests/support/error_details.h"
#include "tests/support/gguf_builder.h"

namespace tidegate::bad_input_test {

using testing::HasSubstr;
using testing::Not;

constexpr std::chrono::minutes kLimit(1);

class BadInput : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir();
    PackDemoModel(File("demo.tgpack"));
    WriteFileOrDie(File("text.gguf"),
                   "Once upon a time there was a file that was no model at all.\n");
    WriteFileOrDie(File("empty.gguf"), "");
    const std::string gguf = ReadFileOrDie(DemoModelPath());
    WriteFileOrDie(File("short.gguf"), std::string_view(gguf).substr(0, 100));
    WriteFileOrDie(File("half.gguf"), std::string_view(gguf).substr(0, gguf.size() / 2));
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  static std::string File(const std::string& name) { return dir_->File(name); }
  static std::string Pack() { return File("demo.tgpack"); }

  // Runs a program, which must fail by itself and say `text` on standard error.
  static void ExpectError(const std::string& program, std::vector<std::string> arguments,
                          const std::string& text) {
    SCOPED_TRACE(absl::StrCat(program, " ", absl::StrJoin(arguments, " ")));
    arguments.insert(arguments.begin(), BinaryPath(program));
    const RunResult run = RunProgram(arguments, kLimit);
    EXPECT_GT(run.exit_code, 0) << "it should have failed (-1: it hangs)\n" << run.out;
    EXPECT_LT(run.exit_code, 128) << "it crashed";
    EXPECT_THAT(absl::StrCat(run.out, run.err), HasSubstr(text));
  }
  static std::vector<std::string> StoreArguments(const std::string& pack,
                                                 const std::string& budget) {
    return {"--pack",       pack,       "--memory-budget",  budget, "--socket", File("s.sock"),
            "--region-dir", "/dev/shm", "--metrics-listen", "off"};
  }
  // A copy of the demo pack after `change` has worked on its bytes.
  template <typename Change>
  static std::string ChangedPack(const std::string& name, Change change) {
    std::string bytes = ReadFileOrDie(Pack());
    PackHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    change(header, bytes);
    header.header_xxh3 = Checksum(&header, offsetof(PackHeader, header_xxh3));
    std::memcpy(bytes.data(), &header, sizeof(header));
    WriteFileOrDie(File(name), bytes);
    return File(name);
  }
  // Damages one byte of the first input block of layer 0, which every prompt reads.
  static std::string DamagedPack() {
    return ChangedPack("damaged.tgpack", [](const PackHeader& header, std::string& bytes) {
      bytes[header.blocks_offset + 100] =
          static_cast<char>(bytes[header.blocks_offset + 100] ^ 0x10);
    });
  }

 private:
  static inline TempDir* dir_ = nullptr;
};

TEST_F(BadInput, ModelFiles) {
  const std::vector<std::pair<std::string, std::string>> cases = {{"nope.gguf", "cannot open"},
                                                                  {"short.gguf", "truncated"},
                                                                  {"half.gguf", "truncated"},
                                                                  {"text.gguf", "not a"},
                                                                  {"empty.gguf", "empty.gguf"}};
  for (const auto& [name, text] : cases) {
    ExpectError("tidegate", {"pack", File(name), "-o", File("out.tgpack")}, text);
    ExpectError("tidegate", {"inspect", File(name)}, text);
    ExpectError("tidegate", {"logits", File(name), "--tokens", "1"}, text);
    ExpectError("tidegate", {"tokenize", File(name)}, name);
    EXPECT_FALSE(FileExists(File("out.tgpack"))) << name;
  }
}

TEST_F(BadInput, UnsupportedModelsAreNamed) {
  const std::string quantised = File("iq2_xxs.gguf");
  GgufBuilder gguf = LlamaGguf({.hidden = 256});
  gguf.AddRawTensor("blk.0.ffn_up.weight", 16, {256, 96}, std::string(96 * 66, 'x'));
  gguf.WriteTo(quantised);
  const std::string other = File("rwkv6.gguf");
  gguf = LlamaGguf({});
  gguf.SetString("general.architecture", "rwkv6");
  gguf.WriteTo(other);
  for (const char* command : {"pack", "logits"}) {
    std::vector<std::string> rest = {"-o", File("out.tgpack")};
    if (std::string(command) == "logits") rest = {"--tokens", "1"};
    ExpectError("tidegate", {command, quantised, rest[0], rest[1]}, "IQ2_XXS is not supported");
    ExpectError("tidegate", {command, other, rest[0], rest[1]}, "'rwkv6' is not supported");
  }
  EXPECT_FALSE(FileExists(File("out.tgpack")));
}

TEST_F(BadInput, PacksOfAnotherVersionOrTruncated) {
  const std::string newer = ChangedPack(
      "newer.tgpack", [](PackHeader& header, std::string&) { header.version = kPackVersion + 1; });
  const std::string cut = ChangedPack(
      "cut.tgpack", [](const PackHeader&, std::string& bytes) { bytes.resize(bytes.size() / 2); });
  for (const auto& [pack, text] : {std::pair(newer, std::string("pack version 3")),
                                   {cut, "truncated"},
                                   {DemoModelPath(), "not a Tidegate pack"},
                                   {File("no.tgpack"), "cannot open"}}) {
    ExpectError("tidegate-store", StoreArguments(pack, kSmallBudget), text);
  }
  ExpectError("tidegate", {"inspect", newer}, "pack version 3");
  ExpectError("tidegate", {"logits", cut, "--tokens", "1"}, "truncated");
}

TEST_F(BadInput, DamagedBlocksAreFoundByInspect) {
  ExpectError("tidegate", {"inspect", "--verify", DamagedPack()}, "layer 0");
  const RunResult whole =
      RunProgram({BinaryPath("tidegate"), "inspect", "--verify", Pack()}, kLimit);
  EXPECT_EQ(whole.exit_code, 0) << whole.err;
}

TEST_F(BadInput, DamagedBlocksAreNotServed) {
  Daemons daemons(DamagedPack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start());
  for (int attempt = 0; attempt < 2; ++attempt) {
    const StreamResult story = daemons.Generate(StoryRequest(8));
    EXPECT_EQ(story.status.error_code(), grpc::StatusCode::DATA_LOSS)
        << story.status.error_message();
    EXPECT_THAT(story.status.error_message(), HasSubstr("layer 0"));
    EXPECT_THAT(story.status.error_message(), HasSubstr("input"));
    EXPECT_TRUE(story.ids.empty()) << "tokens from damaged weights";
  }
  const auto stats = daemons.Stats();
  ASSERT_TRUE(stats.has_value());
  EXPECT_EQ(stats->stats().flash().corrupt_blocks(), 1u);
  // The lease goes back after the client has its answer.
  EXPECT_TRUE(WaitUntil(
      [&] {
        const auto now = daemons.Stats();
        return now.has_value() && now->stats().cache().pinned_bytes() == 0;
      },
      kDaemonLimit))
      << "blocks stay pinned after an error";
  // Told once, although it was met twice.
  const std::string log = daemons.store().Output();
  const size_t first = log.find("layer 0");
  ASSERT_NE(first, std::string::npos) << log;
  EXPECT_EQ(log.find("layer 0", log.find('\n', first)), std::string::npos) << log;
}

TEST_F(BadInput, ABudgetTooSmallNamesTheSmallestThatWorks) {
  std::vector<std::string> command = StoreArguments(Pack(), "1MiB");
  command.insert(command.begin(), BinaryPath("tidegate-store"));
  const RunResult run = RunProgram(command, kLimit);
  EXPECT_EQ(run.exit_code, 1);
  const std::string lead = "the smallest that works is ";
  const size_t at = run.err.find(lead);
  ASSERT_NE(at, std::string::npos) << run.err;
  const std::string smallest = absl::StrCat(std::stoull(run.err.substr(at + lead.size())), "KiB");
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(daemons.Start({"--memory-budget", smallest}));
  const StreamResult story = daemons.Generate(StoryRequest(8));
  EXPECT_TRUE(story.status.ok()) << story.status.error_message();
  const uint64_t below = std::stoull(smallest) - 1;
  ExpectError("tidegate-store", StoreArguments(Pack(), absl::StrCat(below, "KiB")), smallest);
}

// A limit on file sizes ends a program without a word, unless the signal is ignored.
TEST_F(BadInput, AFileSizeLimitIsAnErrorThatNamesTheFile) {
  const auto run = [](const std::string& command) {
    return RunProgram({"/bin/sh", "-c", "ulimit -f 1000; exec " + command}, kLimit);
  };
  const RunResult pack = run(absl::StrCat(BinaryPath("tidegate"), " pack ", DemoModelPath(), " -o ",
                                          File("limited.tgpack")));
  EXPECT_EQ(pack.exit_code, 1) << pack.err;
  EXPECT_THAT(pack.err, HasSubstr("limited.tgpack"));
  EXPECT_THAT(pack.err, HasSubstr("File too large"));
  EXPECT_FALSE(FileExists(File("limited.tgpack")));
  RegionFolder region;
  std::vector<std::string> arguments = StoreArguments(Pack(), kSmallBudget);
  arguments[7] = region.path();
  const RunResult store =
      run(absl::StrCat(BinaryPath("tidegate-store"), " ", absl::StrJoin(arguments, " ")));
  EXPECT_EQ(store.exit_code, 1) << store.err;
  EXPECT_THAT(store.err, HasSubstr("File too large"));
  EXPECT_TRUE(std::filesystem::is_empty(region.path())) << "an empty region stays behind";
}

TEST_F(BadInput, WrongSocketsAreNamed) {
  std::vector<std::string> arguments = StoreArguments(Pack(), kSmallBudget);
  arguments[5] = File("text.gguf");
  ExpectError("tidegate-store", arguments, "not a socket");
  EXPECT_TRUE(FileExists(File("text.gguf")));

  Daemons store(Pack());
  ASSERT_NO_FATAL_FAILURE(store.StartStore({"--memory-budget", kSmallBudget}));
  for (const std::string& socket : {File("text.gguf"), store.socket() + ".grpc"}) {
    Daemons daemons(Pack());
    ASSERT_NO_FATAL_FAILURE(daemons.StartEngine({}, socket));
    const bool told = WaitUntil(
        [&] { return daemons.engine().Output().find(socket) != std::string::npos; }, kDaemonLimit);
    EXPECT_TRUE(told) << daemons.engine().Output();
    EXPECT_FALSE(daemons.Ready()) << socket;
    EXPECT_TRUE(daemons.engine().running()) << daemons.engine().Output();
    // The log names the socket; the network does not learn of it.
    const grpc::Status status = daemons.Generate(StoryRequest(2)).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(status.error_message(), "the weight store is not attached; retry shortly");
    EXPECT_THAT(status.error_details(), Not(HasSubstr(socket)));
  }
  EXPECT_TRUE(store.store().running());
}

TEST_F(BadInput, RequestsOutsideTheBounds) {
  Daemons daemons(Pack());
  ASSERT_NO_FATAL_FAILURE(
      daemons.Start({"--memory-budget", kSmallBudget}, {"--density-min", "0.4"}));
  for (const float density : {0.0f, 0.39f, 1.5f, -1.0f, std::numeric_limits<float>::quiet_NaN()}) {
    v1::GenerateRequest request = StoryRequest(4);
    request.mutable_pruning()->set_mode(v1::DECODE_MODE_DIP);
    request.mutable_pruning()->set_density(density);
    const grpc::Status status = daemons.Generate(request).status;
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << density;
    const auto detail = DetailOf<google::rpc::BadRequest>(status);
    ASSERT_TRUE(detail.has_value()) << density;
    EXPECT_EQ(detail->field_violations(0).field(), "pruning.density");
  }
  v1::GenerateRequest request = StoryRequest(4);
  for (int i = 0; i < 3000; ++i) request.mutable_token_ids()->add_ids(599);
  const grpc::Status status = daemons.Generate(request).status;
  EXPECT_EQ(status.error_code(), grpc::StatusCode::OUT_OF_RANGE) << status.error_message();
  const auto info = DetailOf<google::rpc::ErrorInfo>(status);
  ASSERT_TRUE(info.has_value());
  EXPECT_EQ(info->reason(), "CONTEXT_LENGTH_EXCEEDED");
  EXPECT_TRUE(daemons.Generate(StoryRequest(2)).status.ok()) << "the engine suffered";
}

TEST_F(BadInput, FlagsOfTheOracleCommands) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{"--tokens", "1,9999"}, "9999"},
      {{"--tokens", "1,x"}, "--tokens: 'x' is not a whole number"},
      {{"--tokens", ""}, "--tokens"},
      {{"--tokens", "1", "--mode", "sparse"}, "'sparse'"},
      {{"--tokens", "1", "--mode", "dip", "--density", "0"}, "--density: '0'"},
      {{"--tokens", "1", "--mode", "dip", "--density", "nan"}, "--density: 'nan'"},
      {{"--tokens", "1", "--mode", "dip_ca", "--gamma", "2"}, "--gamma: '2'"},
      {{"--tokens", "1", "--greedy", "4000000"}, "--context"},
      {{"--tokens", "1", "--kv", "q4"}, "--kv: unknown type of keys and values 'q4'"},
      {{"--tokens", "1", "--policy", "mru"}, "'mru'"},
      {{"--tokens", "1", "--cache-fraction", "7"}, "--cache-fraction: '7'"},
      {{"--tokens", "1", "--flash-model", "fast"}, "'fast'"},
      {{"--tokens", "1", "--flash-backend", "tape"}, "'tape'"},
      {{"--tokens", "1", "--threads", "100000"}, "--threads"},
      {{"--tokens", "1", "--nonsense"}, "--nonsense"}};
  for (const auto& [flags, text] : cases) {
    std::vector<std::string> arguments = {"logits", Pack()};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    ExpectError("tidegate", arguments, text);
  }
}

TEST_F(BadInput, FlagsOfTheOtherPrograms) {
  const std::string gguf = DemoModelPath();
  const std::string nowhere = File("no-folder/x.tgpack");
  ExpectError("tidegate", {"pack", gguf, "--block-bytes", "1000"}, "--block-bytes 1000");
  ExpectError("tidegate", {"pack", gguf, "-o", nowhere}, "no-folder");
  ExpectError("tidegate", {"pack", gguf, "-o", gguf}, "is one of the files to read");
  ExpectError("tidegate", {"pack", gguf, "-o", File("x.tgpack"), "--units", "q9"}, "q9");
  ExpectError("tidegate", {"frobnicate"}, "frobnicate");
  ExpectError("tidegate", {"eval", Pack()}, "--text FILE or --ids FILE");
  std::vector<std::string> unknown = StoreArguments(Pack(), kSmallBudget);
  unknown.push_back("--nonsense");
  ExpectError("tidegate-store", unknown, "--nonsense");
  ExpectError("tidegate-store", StoreArguments(Pack(), "banana"), "'banana'");
  ExpectError("tidegate-engine", {"--nonsense"}, "--nonsense");
  ExpectError("tidegate-engine", {"--density", "2"}, "--density");
  ExpectError("tidegate-engine", {"--listen", "banana"}, "--listen: ");
}

}  // namespace tidegate::bad_input_test
