// `tidegate load`: many requests at once, and how long they take.
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/flags.h"
#include "base/numbers.h"
#include "base/progress.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/client_options.h"
#include "cli/command_text.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/load_generator.h"
#include "cli/load_report.h"
#include "cli/load_target.h"
#include "cli/request_flags.h"
#include "measure/usage_meter.h"

namespace tidegate {
namespace {

constexpr uint32_t kDefaultStreams = 1;
constexpr uint32_t kMaxStreams = 10000;
constexpr std::chrono::seconds kDefaultDuration{30};
// Of an engine's defaults, a connection has room for 1,024 streams, and for 128 that wait for
// their first answer.
constexpr uint32_t kStreamsPerConnection = 128, kMaxDefaultConnections = 16;
// Requests of the warm-up have numbers that those of no run reach, and so other prompts.
constexpr uint64_t kWarmUpIndex = uint64_t{1} << 62;

constexpr const char* kLoadExamples =
    "\nA closed loop keeps --concurrency streams open: a new request begins when one ends. An open "
    "loop\n"
    "(--rate) begins requests as users would, whether or not the server keeps up. Prompts are "
    "random\n"
    "ids, or pieces of --prompt-file. Lists make a run for each value, and a table.\n"
    "Ctrl-C ends the run and shows what was measured. docs/load.md explains every figure.\n\n"
    "Examples:\n"
    "  tidegate load --concurrency 16 --duration 60s\n"
    "  tidegate load --concurrency 1,4,16,64 --requests 128 --prompt-tokens 32 --output-tokens 64 "
    "\\\n"
    "    --ignore-eos --report report/\n"
    "  tidegate load --rate 0.5,1,2 --duration 120s --prompt-file story.txt --prompt-tokens "
    "100-400 \\\n"
    "    --goodput ttft:2s,tpot:300ms --json\n"
    "  tidegate load --concurrency 8 --shared-prefix 256 --prompt-tokens 300 --mode dense\n";

struct LoadOptions {
  ServerTarget server;
  std::vector<uint32_t> concurrency;  // empty: the default of the loop
  std::vector<double> rates;          // empty: a closed loop
  ArrivalProcess arrivals = ArrivalProcess::kPoisson;
  std::optional<uint64_t> requests;
  std::optional<std::chrono::nanoseconds> duration;
  LengthRange prompt_tokens = {64, 64}, output_tokens = {64, 64};
  uint32_t shared_prefix = 0;
  std::string prompt_file;
  uint64_t warm_up = 1;
  uint32_t connections = 0;  // 0: by the number of streams
  LatencyGoals goals;
  std::chrono::nanoseconds deadline{0};
  std::string report;
  bool json = false;
  v1::GenerateRequest request;  // flags write into it, so that what is not given stays unset
};

double Seconds(std::chrono::nanoseconds duration) {
  return std::chrono::duration<double>(duration).count();
}

// The runs to make, but for the workload.
absl::StatusOr<std::vector<LoadPlan>> Plans(const LoadOptions& options) {
  if (options.rates.size() > 0 && options.concurrency.size() > 1) {
    return absl::InvalidArgumentError(
        "--concurrency: a list of it and --rate are two ways to load; with --rate give one number, "
        "the most streams that may be open");
  }
  LoadPlan plan = {.request = options.request,
                   .arrivals = options.arrivals,
                   .requests = options.requests,
                   .deadline = options.deadline,
                   .goals = options.goals};
  if (options.duration.has_value()) plan.seconds = Seconds(*options.duration);
  if (!plan.requests.has_value() && !plan.seconds.has_value()) {
    plan.seconds = Seconds(kDefaultDuration);
  }
  std::vector<LoadPlan> plans;
  for (const double rate : options.rates) {
    plans.push_back(plan);
    plans.back().rate = rate;
    plans.back().streams = options.concurrency.empty() ? kMaxStreams : options.concurrency.front();
  }
  if (!plans.empty()) return plans;
  std::vector<uint32_t> concurrency = options.concurrency;
  if (concurrency.empty()) concurrency.push_back(kDefaultStreams);
  for (const uint32_t streams : concurrency) {
    plans.push_back(plan);
    plans.back().streams = streams;
  }
  return plans;
}

uint32_t Connections(const LoadOptions& options, const std::vector<LoadPlan>& plans) {
  if (options.connections > 0) return options.connections;
  uint32_t streams = 0;
  for (const LoadPlan& plan : plans) streams = std::max(streams, plan.streams);
  return std::min(kMaxDefaultConnections,
                  (streams + kStreamsPerConnection - 1) / kStreamsPerConnection);
}

// What the server would answer to every single request.
absl::Status CheckLengths(const LoadOptions& options, const v1::Model& model) {
  const uint64_t longest = uint64_t{options.prompt_tokens.high} + options.output_tokens.high;
  if (longest <= model.context_tokens()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--prompt-tokens ", options.prompt_tokens.ToString(), " and --output-tokens ",
                   options.output_tokens.ToString(), " are up to ", longest,
                   " tokens; the server's context is ", model.context_tokens()));
}

Workload WorkloadOf(const LoadOptions& options, LoadTarget target) {
  const v1::SamplingParams& sampling = options.request.sampling();
  Workload workload = {.prompt_tokens = options.prompt_tokens,
                       .output_tokens = options.output_tokens,
                       .shared_prefix = options.shared_prefix,
                       .seed = sampling.seed(),
                       .vocab_size = std::max(target.model.vocab_size(), 1u),
                       .start = std::move(target.start),
                       .text = std::move(target.text)};
  // Another one for each call: a prefix cache would know the prompts of the last one.
  if (!sampling.has_seed()) workload.seed = std::random_device()();
  return workload;
}

LoadSubject SubjectOf(const LoadOptions& options, const v1::Model& model, uint64_t seed,
                      const std::string& command) {
  LoadSubject subject = {
      .model = absl::StrCat(Printable(model.name()), " (", Printable(model.architecture()), ", ",
                            Printable(model.unit_encoding()), ")"),
      .server = options.server.address,
      .command = command,
      .seed = seed,
      .goals = options.goals.any()};
  subject.workload = absl::StrCat(
      "Prompts of ", options.prompt_tokens.ToString(), " tokens (",
      options.prompt_file.empty() ? "random ids"
                                  : absl::StrCat("from ", Printable(options.prompt_file)),
      options.shared_prefix > 0 ? absl::StrCat(", the first ", options.shared_prefix, " the same")
                                : "",
      options.request.stop().ignore_eos() ? "), outputs of " : "), outputs of at most ",
      options.output_tokens.ToString(), " tokens");
  if (!options.rates.empty()) {
    absl::StrAppend(&subject.workload, ", ", ArrivalProcessName(options.arrivals), " arrivals");
  }
  subject.workload += '.';
  return subject;
}

// Makes the runs of a command, one after the other.
class LoadRuns {
 public:
  LoadRuns(LoadGenerator& generator, const InterruptGuard& interrupt)
      : generator_(generator), interrupt_(interrupt) {}

  // Requests that are not measured, in a closed loop. An error if none of them ends well: nothing
  // then would.
  absl::Status WarmUp(LoadPlan plan, uint64_t requests) {
    if (requests == 0) return absl::OkStatus();
    plan.first_index = kWarmUpIndex;
    if (plan.rate.has_value()) plan.streams = kDefaultStreams;
    plan.rate.reset();
    plan.requests = requests;
    plan.seconds.reset();
    return Succeeded(generator_.Run(plan, Stop(), [](uint64_t, double) {}));
  }

  void Measure(LoadPlan plan) {
    MeasuredLoad load = {.streams = plan.streams, .rate = plan.rate};
    plan.first_index = next_index_;
    Progress progress(Label(plan), plan.requests.has_value() ? "requests" : "s");
    const auto show = [&](uint64_t ended, double seconds) {
      if (plan.requests.has_value()) return progress.Update(ended, *plan.requests);
      progress.Update(static_cast<uint64_t>(std::min(seconds, *plan.seconds)),
                      static_cast<uint64_t>(std::ceil(*plan.seconds)));
    };
    const double cpu = UsageNow().cpu_seconds;
    load.result = generator_.Run(plan, Stop(), show);
    load.cpu_seconds = UsageNow().cpu_seconds - cpu;
    next_index_ += load.result.begun;
    loads_.push_back(std::move(load));
  }

  const std::vector<MeasuredLoad>& loads() const { return loads_; }

  // OK if some request, of a warm-up or of any run, got a token.
  absl::Status Succeeded() const {
    absl::Status status;
    for (const MeasuredLoad& load : loads_) {
      status = Succeeded(load.result);
      if (status.ok()) break;
    }
    return status;
  }

 private:
  static std::string Label(const LoadPlan& plan) {
    if (plan.rate.has_value()) return absl::StrFormat("%g requests/s", *plan.rate);
    return absl::StrCat(plan.streams, plan.streams == 1 ? " stream" : " streams");
  }

  static absl::Status Succeeded(const LoadResult& result) {
    if (result.token_events > 0 || result.failed + result.refused == 0) return absl::OkStatus();
    if (result.failed == 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("all ", result.refused, " requests were refused: the server is full"));
    }
    return absl::UnavailableError(
        absl::StrCat("no request of ", result.begun, " succeeded, most because of\n",
                     result.errors.empty() ? "" : result.errors.front().example));
  }

  std::function<bool()> Stop() const {
    return [this] { return interrupt_.interrupted(); };
  }

  LoadGenerator& generator_;
  const InterruptGuard& interrupt_;
  uint64_t next_index_ = 0;
  std::vector<MeasuredLoad> loads_;
};

absl::Status Show(const LoadOptions& options, const LoadSubject& subject,
                  std::span<const MeasuredLoad> loads) {
  if (!options.report.empty()) {
    RETURN_IF_ERROR(WriteReportFolder(options.report, LoadPage(subject, loads)));
  }
  if (options.json) {
    for (const MeasuredLoad& load : loads) std::printf("%s\n", LoadJson(subject, load).c_str());
    return absl::OkStatus();
  }
  const std::string text =
      loads.size() == 1 ? LoadText(subject, loads.front()) : LoadTable(subject, loads);
  std::printf("%s", text.c_str());
  return absl::OkStatus();
}

absl::Status RunLoad(const LoadOptions& options, const std::string& command) {
  ASSIGN_OR_RETURN(std::vector<LoadPlan> plans, Plans(options));
  signal(SIGPIPE, SIG_IGN);  // a lost output is an error of main()'s
  InterruptGuard interrupt([] {});
  LoadGenerator generator(options.server, Connections(options, plans));
  ASSIGN_OR_RETURN(LoadTarget target, AskLoadTarget(generator.channel(), options.server.address,
                                                    options.request.model(), options.prompt_file));
  RETURN_IF_ERROR(CheckLengths(options, target.model));
  if (!options.report.empty()) RETURN_IF_ERROR(MakeReportFolder(options.report));
  const v1::Model model = target.model;
  const Workload workload = WorkloadOf(options, std::move(target));
  LoadRuns runs(generator, interrupt);
  for (LoadPlan& plan : plans) plan.workload = workload;
  RETURN_IF_ERROR(runs.WarmUp(plans.front(), options.warm_up));
  for (const LoadPlan& plan : plans) {
    if (!interrupt.interrupted()) runs.Measure(plan);
  }
  if (runs.loads().empty()) return absl::CancelledError("interrupted before anything was measured");
  const LoadSubject subject = SubjectOf(options, model, workload.seed, command);
  RETURN_IF_ERROR(Show(options, subject, runs.loads()));
  if (interrupt.interrupted()) return absl::CancelledError("interrupted");
  return runs.Succeeded();
}

// "ttft:2s"; the names are vLLM's.
absl::Status TakeGoal(const std::string& text, LatencyGoals& goals) {
  const size_t colon = text.find(':');
  const std::string name = text.substr(0, colon);
  std::optional<double>* goal = name == "ttft"   ? &goals.ttft
                                : name == "tpot" ? &goals.tpot
                                : name == "e2el" ? &goals.e2el
                                                 : nullptr;
  if (goal == nullptr || colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), ": use ttft:TIME, tpot:TIME or e2el:TIME, such as ttft:2s"));
  }
  ASSIGN_OR_RETURN(const std::chrono::nanoseconds limit, ParseDuration(text.substr(colon + 1)));
  *goal = Seconds(limit);
  return absl::OkStatus();
}

Flag AddLengthFlag(CLI::App& command, const char* name, LengthRange& range, const char* help) {
  return AddTextFlag(
             command, name,
             [&range](const std::string& text) {
               ASSIGN_OR_RETURN(range, ParseLengthRange(text));
               return absl::OkStatus();
             },
             help)
      .Type("N or A-B")
      .Default(range.ToString());
}

// How much load, and for how long.
void AddLoadFlags(CLI::App& command, LoadOptions& options) {
  AddTextListFlag(
      command, "--concurrency,-c", [&] { options.concurrency.clear(); },
      [&](const std::string& text) {
        ASSIGN_OR_RETURN(const uint64_t streams, ParseInteger(text, {1, kMaxStreams}));
        options.concurrency.push_back(static_cast<uint32_t>(streams));
        return absl::OkStatus();
      },
      absl::StrCat("Streams open at once; a list makes a run of each. With --rate: at most; "
                   "default there ",
                   kMaxStreams))
      .Type("LIST")
      .Default(absl::StrCat(kDefaultStreams));
  AddRealListFlag(command, "--rate", options.rates, {0, 1e6, true},
                  "Requests begun per second, whatever the server does; a list makes a run of each")
      .Type("LIST");
  AddTextFlag(
      command, "--arrivals",
      [&](const std::string& text) {
        for (const auto process : {ArrivalProcess::kPoisson, ArrivalProcess::kConstant}) {
          if (text != ArrivalProcessName(process)) continue;
          options.arrivals = process;
          return absl::OkStatus();
        }
        return absl::InvalidArgumentError(absl::StrCat(Quoted(text), ": use poisson or constant"));
      },
      "With --rate: poisson (independent users) or constant (equal gaps)")
      .Default(ArrivalProcessName(options.arrivals));
  AddIntegerFlag(
      command, "--requests", [&](uint64_t v) { options.requests = v; }, {1, kMaxUint32},
      "End a run after this many requests");
  AddTimeFlag(command, "--duration",
              absl::StrCat("End a run after this time; what is open then is cut off. Without "
                           "--requests: ",
                           FormatSeconds(Seconds(kDefaultDuration)))
                  .c_str(),
              [&options](std::chrono::nanoseconds d) { options.duration = d; });
  AddIntegerFlag(command, "--warm-up", options.warm_up, {0, kMaxUint32},
                 "Requests before the first run that are not measured");
  AddIntegerFlag(command, "--connections", options.connections, {0, 512},
                 absl::StrCat("Connections to spread streams over; 0: one for ",
                              kStreamsPerConnection, " streams, up to ", kMaxDefaultConnections));
}

// What a request is.
void AddWorkloadFlags(CLI::App& command, LoadOptions& options) {
  AddLengthFlag(command, "--prompt-tokens", options.prompt_tokens,
                "Length of prompts; from a range each is equally likely");
  AddLengthFlag(command, "--output-tokens", options.output_tokens,
                "Tokens to generate at most; --ignore-eos makes it exactly so many");
  AddIntegerFlag(command, "--shared-prefix", options.shared_prefix, {0, kMaxUint32},
                 "So many first tokens are the same in all prompts");
  AddFileFlag(command, "--prompt-file", options.prompt_file,
              "Prompts are pieces of this text, from places drawn by --seed");
  AddTextListFlag(
      command, "--goodput", [&] { options.goals = {}; },
      [&](const std::string& text) { return TakeGoal(text, options.goals); },
      "Also count the requests within these latencies: ttft:TIME,tpot:TIME,e2el:TIME")
      .Type("LIST");
  AddTimeFlag(command, "--deadline", "Give a request up after this time",
              [&options](std::chrono::nanoseconds d) { options.deadline = d; });
  AddModelFlag(command, options.request);
}

}  // namespace

void AddLoadCommand(CLI::App& app, CommandRun& run) {
  auto options = std::make_shared<LoadOptions>();
  CLI::App& command = AddSubcommand(
      app, "load", "Load a server with streams and measure their latencies", kLoadExamples,
      [options, &run](const CLI::App& named) {
        run = [options, text = CommandText(named)] { return RunLoad(*options, text); };
      });
  AddServerFlag(command, options->server);
  AddLoadFlags(command, *options);
  AddWorkloadFlags(command, *options);
  AddSamplingFlags(command, options->request);
  AddPruningFlags(command, options->request);
  AddFileFlag(command, "--report", options->report,
              "Write index.html, results.csv and plots into this folder");
  AddSwitch(command, "--json", options->json, "One JSON object per run on standard output");
}

}  // namespace tidegate
