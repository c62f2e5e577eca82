// Flags that say how to generate, for the commands that send a GenerateRequest or a ChatRequest.
// They write into the request, which must outlive the command line, so that what is not given stays
// unset and takes the server's default. Main thread.
#pragma once

#include <chrono>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/numbers.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "engine/generation.h"
#include "engine/request_limits.h"
#include "tidegate/v1/generation.pb.h"

namespace tidegate {

inline constexpr uint64_t kMaxUint32 = std::numeric_limits<uint32_t>::max();

// A flag that takes any text.
template <typename Set>
Flag AddAnyTextFlag(CLI::App& command, const char* name, const char* help, Set set) {
  return AddTextFlag(
      command, name,
      [set](const std::string& text) {
        set(text);
        return absl::OkStatus();
      },
      help);
}

template <typename Request>
void AddModelFlag(CLI::App& command, Request& request) {
  AddAnyTextFlag(command, "--model", "Name of the model; default: the served one",
                 [&request](const std::string& name) { request.set_model(name); });
}

template <typename Request>
Flag AddMaxTokensFlag(CLI::App& command, Request& request) {
  return AddIntegerFlag(
             command, "--max-tokens,-n",
             [&request](uint64_t v) { request.set_max_tokens(static_cast<uint32_t>(v)); },
             {1, kMaxUint32}, "Tokens to generate at most")
      .Default(absl::StrCat(GenerationRequest().max_tokens));
}

template <typename Request>
void AddSamplingFlags(CLI::App& command, Request& request) {
  v1::SamplingParams& sampling = *request.mutable_sampling();
  v1::StopConditions& stop = *request.mutable_stop();
  // What the engine does where a request leaves a field unset.
  const GenerationRequest usual;
  const SamplingParams& usually = usual.sampling;
  const auto integer = [&](const char* names, IntegerRange range, uint32_t by_default,
                           const char* help, auto set) {
    AddIntegerFlag(command, names, set, range, help).Default(absl::StrCat(by_default));
  };
  const auto real = [&](const char* names, RealRange range, float by_default, const char* help,
                        auto set) {
    AddRealFlag(command, names, set, range, help).Default(absl::StrCat(by_default));
  };
  real("--temperature", kTemperatureRange, usually.temperature, "0 is greedy",
       [&](double v) { sampling.set_temperature(static_cast<float>(v)); });
  integer("--top-k", {0, kMaxUint32}, usually.top_k, "0 is off",
          [&](uint64_t v) { sampling.set_top_k(static_cast<uint32_t>(v)); });
  real("--top-p", kTopPRange, usually.top_p, "1 is off",
       [&](double v) { sampling.set_top_p(static_cast<float>(v)); });
  real("--min-p", kMinPRange, usually.min_p, "0 is off",
       [&](double v) { sampling.set_min_p(static_cast<float>(v)); });
  real("--repetition-penalty", kRepetitionPenaltyRange, usually.repetition_penalty, "1 is off",
       [&](double v) { sampling.set_repetition_penalty(static_cast<float>(v)); });
  real("--presence-penalty", kPenaltyRange, usually.presence_penalty,
       "Subtracted once from tokens of the window",
       [&](double v) { sampling.set_presence_penalty(static_cast<float>(v)); });
  real("--frequency-penalty", kPenaltyRange, usually.frequency_penalty,
       "Subtracted for every occurrence in the window",
       [&](double v) { sampling.set_frequency_penalty(static_cast<float>(v)); });
  AddIntegerFlag(
      command, "--seed", [&](uint64_t v) { sampling.set_seed(v); }, IntegerRange(),
      "Default: a random one");
  AddRepeatedFlag(
      command, "--stop",
      [&](const std::vector<std::string>& v) {
        stop.mutable_strings()->Assign(v.begin(), v.end());
      },
      "Stop at this text; may be repeated");
  AddIntegerFlag(
      command, "--min-tokens",
      [&stop](uint64_t v) { stop.set_min_tokens(static_cast<uint32_t>(v)); }, {0, kMaxUint32},
      "Nothing but --max-tokens, the context or time ends the text before so many tokens")
      .Default(absl::StrCat(usual.stop.min_tokens));
  AddSwitch(
      command, "--ignore-eos", [&] { stop.set_ignore_eos(true); },
      "Go on after the model's end token");
}

// A flag that takes a time such as 300ms.
template <typename Set>
void AddTimeFlag(CLI::App& command, const char* name, const char* help, Set set) {
  AddTextFlag(
      command, name,
      [set](const std::string& text) {
        ASSIGN_OR_RETURN(const std::chrono::nanoseconds duration, ParseDuration(text));
        set(duration);
        return absl::OkStatus();
      },
      help)
      .Type("TIME");
}

inline void SetDuration(std::chrono::nanoseconds duration, google::protobuf::Duration& field) {
  constexpr int64_t kNanos = 1000000000;
  field.set_seconds(duration.count() / kNanos);
  field.set_nanos(static_cast<int32_t>(duration.count() % kNanos));
}

// Whose turn it is, what it is called, and what else is said of it.
template <typename Request>
void AddAdmissionFlags(CLI::App& command, Request& request) {
  AddTextFlag(
      command, "--priority",
      [&request](const std::string& text) {
        ASSIGN_OR_RETURN(const double value, ParseReal(text, {-kMaxPriority, kMaxPriority}));
        if (value != std::trunc(value)) {
          return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " is not a whole number"));
        }
        request.set_priority(static_cast<int32_t>(value));
        return absl::OkStatus();
      },
      absl::StrCat("Larger goes first, from ", -kMaxPriority, " to the server's --max-priority"))
      .Type("N")
      .Default(absl::StrCat(GenerationRequest().priority));
  AddAnyTextFlag(command, "--cache-salt",
                 "Share the server's cache of prompts only with requests of the same salt",
                 [&request](const std::string& salt) { request.set_cache_salt(salt); });
  AddAnyTextFlag(command, "--request-id",
                 "Name of the request, for the Cancel call; default: the server makes one",
                 [&request](const std::string& id) { request.set_request_id(id); })
      .Type("ID");
  AddIntegerFlag(
      command, "--logprobs",
      [&request](uint64_t v) { request.set_top_logprobs(static_cast<uint32_t>(v)); },
      {0, kMaxTopLogprobs},
      "Also print the log-probability of each token and of so many of the most likely ones");
  AddIntegerFlag(
      command, "--prompt-logprobs",
      [&request](uint64_t v) { request.set_prompt_logprobs(static_cast<uint32_t>(v)); },
      {0, kMaxTopLogprobs},
      "The same of each token of the prompt but the first, on standard error");
  AddTimeFlag(command, "--keep-alive",
              "Have the server send something at least this often while it is silent, for what "
              "lies between",
              [&request](std::chrono::nanoseconds duration) {
                SetDuration(duration, *request.mutable_keep_alive());
              });
  AddSwitch(
      command, "--progress", [&request] { request.set_progress(true); },
      "Say on standard error how far the prompt is read");
}

template <typename Request>
void AddPruningFlags(CLI::App& command, Request& request) {
  v1::Pruning& pruning = *request.mutable_pruning();
  const auto share = [&](const char* name, RealRange range, const char* help, auto set) {
    AddRealFlag(command, name, set, range, help);
  };
  AddTextFlag(
      command, "--mode",
      [&pruning](const std::string& text) {
        v1::DecodeMode mode;
        if (!v1::DecodeMode_Parse(absl::StrCat("DECODE_MODE_", absl::AsciiStrToUpper(text)),
                                  &mode)) {
          return absl::InvalidArgumentError(
              absl::StrCat(Quoted(text), ": use dense, dip or dip_ca"));
        }
        pruning.set_mode(mode);
        return absl::OkStatus();
      },
      "dense, dip or dip_ca; default: the server's");
  share("--density", {0, 1, true}, "Share of the MLP used; default: the server's",
        [&](double v) { pruning.set_density(static_cast<float>(v)); });
  share("--gamma", {0, 1}, "Score factor of units not in memory; default: the server's",
        [&](double v) { pruning.set_gamma(static_cast<float>(v)); });
  AddIntegerFlag(
      command, "--fixed-top-n",
      [&](uint64_t v) { pruning.set_fixed_top_n(static_cast<uint32_t>(v)); }, {0, kMaxFixedTopN},
      "Largest scores that gamma leaves alone");
  share("--protected-share", kProtectedShareRange,
        "Part of a mask, its largest scores, that gamma leaves alone",
        [&](double v) { pruning.set_protected_share(static_cast<float>(v)); });
  AddSwitch(
      command, "--reproducible", [&] { pruning.set_reproducible(true); },
      "Ignore the cache, so that a seed always gives the same text");
}

template <typename Request>
void AddMaxDurationFlag(CLI::App& command, Request& request) {
  AddTimeFlag(command, "--max-duration", "End the stream after this time and keep its text",
              [&request](std::chrono::nanoseconds duration) {
                SetDuration(duration, *request.mutable_max_duration());
              });
}

// All of them that a request for one stream may have.
template <typename Request>
void AddRequestFlags(CLI::App& command, Request& request) {
  AddModelFlag(command, request);
  AddMaxTokensFlag(command, request);
  AddSamplingFlags(command, request);
  AddPruningFlags(command, request);
  AddMaxDurationFlag(command, request);
  AddAdmissionFlags(command, request);
}

}  // namespace tidegate
