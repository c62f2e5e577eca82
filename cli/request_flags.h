// Flags that say how to generate, for the commands that send a GenerateRequest or a ChatRequest.
// They write into the request, which must outlive the command line, so that what is not given stays
// unset and takes the server's default.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

// A flag whose value goes straight into the request.
template <typename T, typename Set>
CLI::Option* AddField(CLI::App& command, const char* name, const char* help, Set set) {
  return command.add_option_function<T>(
      name, [set](const T& value) { set(value); }, help);
}

template <typename Request>
void AddSamplingFlags(CLI::App& command, Request& request) {
  v1::SamplingParams& sampling = *request.mutable_sampling();
  v1::StopConditions& stop = *request.mutable_stop();
  AddField<uint32_t>(command, "--max-tokens,-n", "Tokens to generate at most; default 128",
                     [&](uint32_t v) { request.set_max_tokens(v); });
  AddField<float>(command, "--temperature", "0 is greedy; default 0.8",
                  [&](float v) { sampling.set_temperature(v); });
  AddField<uint32_t>(command, "--top-k", "0 is off; default 40",
                     [&](uint32_t v) { sampling.set_top_k(v); });
  AddField<float>(command, "--top-p", "1 is off; default 0.95",
                  [&](float v) { sampling.set_top_p(v); });
  AddField<float>(command, "--min-p", "0 is off; default 0.05",
                  [&](float v) { sampling.set_min_p(v); });
  AddField<float>(command, "--repetition-penalty", "1 is off; default 1",
                  [&](float v) { sampling.set_repetition_penalty(v); });
  AddField<float>(command, "--presence-penalty", "Default 0",
                  [&](float v) { sampling.set_presence_penalty(v); });
  AddField<float>(command, "--frequency-penalty", "Default 0",
                  [&](float v) { sampling.set_frequency_penalty(v); });
  AddField<uint64_t>(command, "--seed", "Default: a random one",
                     [&](uint64_t v) { sampling.set_seed(v); });
  AddField<std::vector<std::string>>(command, "--stop", "Stop at this text; may be repeated",
                                     [&](const std::vector<std::string>& v) {
                                       stop.mutable_strings()->Assign(v.begin(), v.end());
                                     });
  command.add_flag_callback(
      "--ignore-eos", [&] { stop.set_ignore_eos(true); }, "Go on after the model's end token");
}

template <typename Request>
void AddPruningFlags(CLI::App& command, Request& request) {
  v1::Pruning& pruning = *request.mutable_pruning();
  AddField<std::string>(
      command, "--mode", "dense, dip or dip_ca; default: the server's", [&](const std::string& v) {
        v1::DecodeMode mode;
        if (!v1::DecodeMode_Parse(absl::StrCat("DECODE_MODE_", absl::AsciiStrToUpper(v)), &mode)) {
          throw CLI::ValidationError(absl::StrCat("--mode ", v, ": use dense, dip or dip_ca"));
        }
        pruning.set_mode(mode);
      });
  AddField<float>(command, "--density", "Share of the MLP used; default: the server's",
                  [&](float v) { pruning.set_density(v); });
  AddField<float>(command, "--gamma", "Score factor of units not in memory; default: the server's",
                  [&](float v) { pruning.set_gamma(v); });
  AddField<uint32_t>(command, "--fixed-top-n", "Largest scores that gamma leaves alone",
                     [&](uint32_t v) { pruning.set_fixed_top_n(v); });
  AddField<float>(command, "--protected-share",
                  "Part of a mask, its largest scores, that gamma leaves alone",
                  [&](float v) { pruning.set_protected_share(v); });
  command.add_flag_callback(
      "--reproducible", [&] { pruning.set_reproducible(true); },
      "Ignore the cache, so that a seed always gives the same text");
}

// A flag that takes a time such as 300ms.
template <typename Set>
void AddTimeFlag(CLI::App& command, const char* name, const char* help, Set set) {
  command
      .add_option_function<std::string>(
          name,
          [set](const std::string& text) {
            const auto duration = ParseDuration(text);
            if (!duration.ok()) {
              throw CLI::ValidationError(std::string(duration.status().message()));
            }
            set(*duration);
          },
          help)
      ->type_name("TIME");
}

template <typename Request>
void AddMaxDurationFlag(CLI::App& command, Request& request) {
  AddTimeFlag(
      command, "--max-duration", "End the stream after this time and keep its text",
      [&request](std::chrono::nanoseconds duration) {
        constexpr int64_t kNanos = 1000000000;
        request.mutable_max_duration()->set_seconds(duration.count() / kNanos);
        request.mutable_max_duration()->set_nanos(static_cast<int32_t>(duration.count() % kNanos));
      });
}

}  // namespace tidegate
