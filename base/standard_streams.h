// The standard streams of a program, from its first line to its last: results that could not be
// written are an error, in every program from the same place.
//
//   int main(int argc, char** argv) {
//     OpenStandardStreams();
//     return FinishStandardOutput("tidegate", Run(argc, argv));
//   }
//
// For main() alone, before threads start and after they have ended.
#pragma once

#include <string_view>

#include "absl/status/status.h"

namespace tidegate {

// Puts a descriptor that only fails in the place of each standard stream that is closed, so that no
// file that is opened later gets its number, and with it what is printed.
void OpenStandardStreams();

// Whether all that was printed to standard output, through stdio and std::cout, has been taken.
// UNAVAILABLE names the system's reason where it is known.
absl::Status FlushStandardOutput();

// Flushes standard output and gives the exit code: `code`, or 1 after a message on standard error
// if something was lost. If the reader has left (EPIPE), the program ends as SIGPIPE ends others:
// without a message.
int FinishStandardOutput(std::string_view program, int code);

}  // namespace tidegate
