// `tidegate key new`: makes an API key and the line of a key file for it.
#include <cstdio>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/status_macros.h"
#include "cli/commands.h"
#include "server/access/key_file.h"

namespace tidegate {
namespace {

// Exact as a double, which the limits are counted in.
constexpr IntegerRange kLimitRange = {1, uint64_t{1} << 40};

absl::Status MakeKey(KeyEntry& entry) {
  if (entry.id.empty()) return absl::InvalidArgumentError("--id is missing: name the key");
  if (entry.scopes == 0) {
    return absl::InvalidArgumentError(
        "--scopes is missing: infer, tokenize, model.read, admin, metrics");
  }
  ASSIGN_OR_RETURN(const std::string key, NewApiKey());
  entry.hash = HashOfKey(key);
  // The line may go into a file by `>>`; the key is for eyes alone, and is shown once.
  std::printf("%s\n", FormatKeyLine(entry).c_str());
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", key.c_str());
  return absl::OkStatus();
}

void AddLimitFlagsOfKey(CLI::App& command, LimitValues& limits) {
  const auto add = [&command](const char* name, uint64_t& value, const char* help) {
    AddIntegerFlag(
        command, name, [&value](uint64_t v) { value = v; }, kLimitRange, help);
  };
  add("--requests-per-second", limits.requests_per_second, "Calls of every kind in a second");
  add("--requests-per-minute", limits.requests_per_minute, "Calls of every kind in a minute");
  add("--concurrent", limits.concurrent, "Requests for text that wait or run");
  add("--tokens-per-minute", limits.tokens_per_minute, "Tokens of prompts and answers in a minute");
  AddRealFlag(command, "--queue-share", limits.queue_share, {0, 1, true},
              "Part of the server's --max-waiting that the key's requests may take");
}

}  // namespace

void AddKeyCommand(CLI::App& app, CommandRun& run) {
  auto entry = std::make_shared<KeyEntry>();
  CLI::App& key = AddSubcommand(
      app, "key", "Make keys for clients of a server",
      "\nExamples:\n"
      "  tidegate key new --id team-a --scopes infer,tokenize >> keys\n"
      "  tidegate-engine --access-keys keys\n",
      [&run](const CLI::App&) {
        if (run) return;  // `new` was named
        run = [] { return absl::InvalidArgumentError("say what to do: tidegate key new"); };
      });
  CLI::App& command = AddSubcommand(
      key, "new",
      "Print the line of a new key, for the file of --access-keys, and on standard error the key",
      "\nThe key is shown this once: the line has only its hash. docs/security.md says what scopes "
      "and limits mean.\n",
      [entry, &run](const CLI::App&) { run = [entry] { return MakeKey(*entry); }; });
  AddTextFlag(
      command, "--id",
      [entry](const std::string& id) {
        entry->id = id;
        return CheckKeyId(id);
      },
      "Name of the key in the file and in logs")
      .Type("NAME");
  AddTextListFlag(
      command, "--scopes", [entry] { entry->scopes = 0; },
      [entry](const std::string& name) {
        ASSIGN_OR_RETURN(const Scope scope, ParseScope(name));
        entry->scopes |= 1u << static_cast<uint32_t>(scope);
        return absl::OkStatus();
      },
      "What it may be used for: infer, tokenize, model.read, admin, metrics")
      .Type("SCOPE,...");
  AddTextFlag(
      command, "--expires",
      [entry](const std::string& text) {
        ASSIGN_OR_RETURN(entry->expires, ParseExpiry(text));
        return absl::OkStatus();
      },
      "Date or time from which it is refused: 2027-01-31, 2027-01-31T12:00:00Z")
      .Type("DATE");
  AddLimitFlagsOfKey(command, entry->limits);
}

}  // namespace tidegate
