// A conversation with a server in the terminal: turns, what is remembered of them, Ctrl-C. Or, with
// a model that has no chat template, one text after the other that it continues.
// Main thread: it takes SIGINT over while it runs.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "cli/client_options.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

// The commands of a conversation, for help.
extern const char kChatHelp[];

struct ChatOptions {
  ServerTarget server;
  std::string system;       // what the model is told before the first turn
  bool accounts = false;    // of each answer, on standard error
  bool continues = false;   // every text is continued as it is (Generate), none is remembered
  v1::ChatRequest request;  // what is not set takes the server's defaults; no messages yet
};

// Answers the lines of standard input until its end. On a terminal errors are shown and the next
// line is waited for, through a pipe the first one ends it.
absl::Status RunChat(const ChatOptions& options);

// Answers `prompt` alone. CANCELLED if a signal came.
absl::Status AnswerOnce(const ChatOptions& options, const std::string& prompt);

}  // namespace tidegate
