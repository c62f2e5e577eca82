// Every number that the `tidegate` command takes goes through base/numbers.h.
#include "tests/support/number_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/cli/command_line.h"

namespace tidegate::number_flags_test {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

const AddCommand kCommands[] = {
    AddPackCommand,     AddInspectCommand, AddGenerateCommand, AddChatCommand,
    AddTokenizeCommand, AddLogitsCommand,  AddEvalCommand,     AddProfileCommand,
    AddSimulateCommand, AddBenchCommand,   AddTemplateCommand, AddLoadCommand,
    AddHealthCommand,   AddStatsCommand,   AddDoctorCommand,   AddServeCommand,
    AddRunCommand,      AddPlanCommand,    AddTopCommand,      AddCancelCommand};

TEST(NumberFlags, AllAreChecked) {
  size_t count = 0;
  for (const auto& add : kCommands) {
    const CommandFacts command = FactsOf(add);
    for (const NumberFlag& flag : NumberFlags(command.help)) {
      EXPECT_TRUE(flag.ours) << command.name << " " << flag.name;
      ++count;
      for (const std::string& text : NoNumbers()) {
        const absl::Status status =
            RunCommand(add, {command.name, flag.name + "=" + text}, /*out=*/nullptr);
        EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << flag.name << " " << text;
        EXPECT_THAT(std::string(status.message()), StartsWith(flag.name + ": ")) << text;
      }
    }
  }
  EXPECT_GE(count, 60u);
}

TEST(NumberFlags, SeedsKeepTheirSign) {
  for (const char* seed : {"-1", "99999999999999999999999", "18446744073709551616"}) {
    EXPECT_EQ(
        std::string(
            RunCommand(AddGenerateCommand, {"generate", "a", "--seed", seed}, nullptr).message()),
        std::string("--seed: '") + seed + "' is not a whole number from 0 to 18446744073709551615");
  }
}

TEST(NumberFlags, ServersAreCheckedAtOnce) {
  for (const char* server :
       {"127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:", "127.0.0.1", "999.1.1.1:5", "unix:"}) {
    const std::string message(
        RunCommand(AddHealthCommand, {"health", "--server", server}, nullptr).message());
    EXPECT_THAT(message, StartsWith("--server: "));
    EXPECT_THAT(message, Not(HasSubstr("free"))) << "a hint for servers";
  }
}

}  // namespace tidegate::number_flags_test
