#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/access/key_file.h"
#include "tests/cli/command_line.h"
#include "tests/support/test_support.h"

namespace tidegate::key_test {

using ::testing::HasSubstr;

TEST(KeyCommandTest, PrintsALineThatTheServerReadsAndTheKeyApartFromIt) {
  const RunResult result = RunProgram({BinaryPath("tidegate"), "key", "new", "--id", "team-a",
                                       "--scopes", "infer,model.read", "--tokens-per-minute",
                                       "6000", "--queue-share", "0.5", "--expires", "2027-01-31"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto entries = ParseKeyFile(result.out);
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 1u);
  const KeyEntry& entry = entries->front();
  EXPECT_EQ(entry.id, "team-a");
  EXPECT_TRUE(entry.Has(Scope::kInfer));
  EXPECT_TRUE(entry.Has(Scope::kModelRead));
  EXPECT_FALSE(entry.Has(Scope::kTokenize));
  EXPECT_EQ(entry.limits, (LimitValues{.tokens_per_minute = 6000, .queue_share = 0.5}));
  EXPECT_EQ(entry.expires, ParseExpiry("2027-01-31").value());
  ASSERT_EQ(result.err.size(), 47u);
  EXPECT_EQ(entry.hash, HashOfKey(result.err.substr(0, 46)));
}

TEST(KeyCommandTest, SaysWhatIsMissingOrWrong) {
  const auto error = [](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "key");
    return std::string(RunCommand(AddKeyCommand, arguments).message());
  };
  EXPECT_THAT(error({}), HasSubstr("tidegate key new"));
  EXPECT_THAT(error({"new", "--scopes", "infer"}), HasSubstr("--id is missing"));
  EXPECT_THAT(error({"new", "--id", "a"}), HasSubstr("--scopes is missing"));
  EXPECT_THAT(error({"new", "--id", "a b", "--scopes", "infer"}), HasSubstr("is no id"));
  EXPECT_THAT(error({"new", "--id", "a", "--scopes", "infer,all"}), HasSubstr("'all' is no scope"));
  EXPECT_THAT(error({"new", "--id", "a", "--scopes", "infer", "--concurrent", "0"}),
              HasSubstr("--concurrent"));
  EXPECT_THAT(error({"new", "--id", "a", "--scopes", "infer", "--expires", "soon"}),
              HasSubstr("is no date"));
}

}  // namespace tidegate::key_test
