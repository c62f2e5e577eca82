#include "server/config.h"

#include "absl/strings/str_cat.h"
#include "base/flags.h"

namespace tidegate {
namespace {

constexpr char kFooter[] = R"(
Every flag may also be set by the environment variable shown, or in the --config file; the
command line wins, then the environment, then the file.

Examples:
  tidegate-engine                                  # the store on this machine, gRPC on port 50051
  tidegate-engine --listen 127.0.0.1:0 --port-file /run/tidegate/port
  tidegate-engine --mode dip_ca --density 0.6 --density-min 0.4 --max-running 8
  tidegate-engine --max-perplexity-increase 0.02   # as fast as 2 % allow, by the pack's profile
  tidegate-engine --target-tokens-per-second 10 --profile profile.json
)";

void AddNetworkFlags(CLI::App& app, ServerConfig& config) {
  app.add_option(
         "--listen", config.listen,
         "Address of gRPC: HOST:PORT (port 0 takes a free one) or unix:PATH. There is no TLS "
         "and no authentication: use 127.0.0.1:PORT where strangers reach the machine")
      ->capture_default_str()
      ->envname("TIDEGATE_LISTEN");
  app.add_option("--port-file", config.port_file, "File to write the port of --listen into")
      ->envname("TIDEGATE_PORT_FILE");
  app.add_option("--metrics-listen", config.metrics_listen,
                 "Address of Prometheus metrics over HTTP: HOST:PORT (port 0 takes a free one) or "
                 "unix:PATH; off: none")
      ->capture_default_str()
      ->envname("TIDEGATE_METRICS_LISTEN");
  app.add_option("--metrics-port-file", config.metrics_port_file,
                 "File to write the port of --metrics-listen into")
      ->envname("TIDEGATE_METRICS_PORT_FILE");
  app.add_option("--model-alias", config.model_aliases,
                 "Further name of the model in requests; may be repeated")
      ->delimiter(',')
      ->envname("TIDEGATE_MODEL_ALIAS");
  app.add_option("--chat-template", config.chat_template_file,
                 "File with a chat template (Jinja) to use for Chat instead of the model's own")
      ->type_name("FILE")
      ->envname("TIDEGATE_CHAT_TEMPLATE");
  AddDurationFlag(app, "--drain-timeout", config.drain_timeout,
                  "After SIGTERM, time for running streams to end by themselves")
      ->default_str("120s")
      ->envname("TIDEGATE_DRAIN_TIMEOUT");
  AddLogLevelFlag(app, config.log_level);
}

void AddEngineFlags(CLI::App& app, EngineOptions& engine) {
  app.add_option("--store-socket", engine.store_socket, "Attach socket of tidegate-store")
      ->capture_default_str()
      ->envname("TIDEGATE_STORE_SOCKET");
  app.add_option_function<std::vector<std::string>>(
         "--lora",
         [&engine](const std::vector<std::string>& texts) {
           engine.adapters.clear();
           for (const std::string& text : texts) {
             absl::StatusOr<LoraSource> source = ParseLoraSource(text);
             if (!source.ok()) throw CLI::ValidationError(std::string(source.status().message()));
             engine.adapters.push_back(*std::move(source));
           }
         },
         "LoRA adapter (GGUF) to use beside the weights: FILE or FILE=SCALE; may be repeated. Its "
         "factors take 4 bytes a number of the store's --engine-reserve")
      ->type_name("FILE[=SCALE]")
      ->delimiter(',')
      ->envname("TIDEGATE_LORA");
  app.add_option("--max-running", engine.max_running, "Streams decoded at once")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str()
      ->envname("TIDEGATE_MAX_RUNNING");
  app.add_option("--max-waiting", engine.max_waiting,
                 "Requests that wait for a place; more get RESOURCE_EXHAUSTED")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str()
      ->envname("TIDEGATE_MAX_WAITING");
  app.add_option("--context", engine.context_tokens,
                 "Tokens of one request, prompt included; 0: the model's, at most 4096")
      ->capture_default_str()
      ->envname("TIDEGATE_CONTEXT");
  app.add_option("--kv-tokens", engine.kv_tokens,
                 "Tokens of all requests in the KV cache; 0: what the store's budget reserves")
      ->capture_default_str()
      ->envname("TIDEGATE_KV_TOKENS");
  app.add_option("--prefill-chunk", engine.prefill_chunk_tokens,
                 "Prompt tokens computed at once; more are faster, other streams wait longer")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->envname("TIDEGATE_PREFILL_CHUNK");
  app.add_option_function<std::string>(
         "--precision",
         [&engine](const std::string& text) {
           const absl::StatusOr<Precision> precision = ParsePrecision(text);
           if (!precision.ok()) {
             throw CLI::ValidationError(std::string(precision.status().message()));
           }
           engine.precision = *precision;
         },
         "Arithmetic: fast (bfloat16 where the CPU multiplies it faster: in prompts, and against "
         "4-bit weights) or exact (float); reproducible requests are exact")
      ->type_name("PRECISION")
      ->default_str("fast")
      ->envname("TIDEGATE_PRECISION");
  app.add_option("--threads", engine.threads, "Threads that compute; 0: one per core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str()
      ->envname("TIDEGATE_THREADS");
  app.add_flag_callback(
         "--no-overlap", [&engine] { engine.overlap = false; },
         "Wait for all columns before adding any (for experiments)")
      ->envname("TIDEGATE_NO_OVERLAP");
}

void AddPruningFlags(CLI::App& app, PruningBounds& bounds) {
  app.add_option_function<std::string>(
         "--mode",
         [&bounds](const std::string& text) {
           const absl::StatusOr<DecodeMode> mode = ParseDecodeMode(text);
           if (!mode.ok()) throw CLI::ValidationError(std::string(mode.status().message()));
           bounds.defaults.mode = *mode;
         },
         "Pruning unless a request says otherwise: dense, dip, dip_ca")
      ->type_name("MODE")
      ->default_str("dip_ca")
      ->envname("TIDEGATE_MODE");
  const auto add = [&app](const char* name, float& value, const char* help, const char* env) {
    app.add_option(name, value, help)
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str()
        ->envname(env);
  };
  add("--density", bounds.defaults.density, "Default share of the MLP used", "TIDEGATE_DENSITY");
  add("--density-min", bounds.density_min,
      "Least that requests may ask; of a profile's points, those with a layer below it are not "
      "used",
      "TIDEGATE_DENSITY_MIN");
  add("--density-max", bounds.density_max, "Most that requests may ask", "TIDEGATE_DENSITY_MAX");
  add("--gamma", bounds.defaults.gamma, "Default score factor of units not in memory",
      "TIDEGATE_GAMMA");
  add("--gamma-min", bounds.gamma_min, "Least that requests may ask", "TIDEGATE_GAMMA_MIN");
  add("--gamma-max", bounds.gamma_max, "Most that requests may ask", "TIDEGATE_GAMMA_MAX");
  add("--protected-share", bounds.defaults.protected_share,
      "Part of a mask, its largest scores, that gamma leaves alone; 0 is the published rule",
      "TIDEGATE_PROTECTED_SHARE");
  app.add_option("--fixed-top-n", bounds.defaults.fixed_top_n,
                 "Default count of largest scores that gamma leaves alone")
      ->check(CLI::Range(0, 1048576))
      ->capture_default_str()
      ->envname("TIDEGATE_FIXED_TOP_N");
}

void AddSteeringFlags(CLI::App& app, SteeringOptions& steering) {
  app.add_option("--target-tokens-per-second", steering.target_tokens_per_second,
                 "Moves requests that set neither density nor gamma along the profile's points, "
                 "so that each stream is about this fast; 0: does not")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->envname("TIDEGATE_TARGET_TOKENS_PER_SECOND");
  app.add_option("--max-perplexity-increase", steering.max_perplexity_increase,
                 "Perplexity that these requests may lose by the profile, a share (0.05 is 5 %): "
                 "alone it chooses the fastest point within it, with a target it is the limit")
      ->check(CLI::Range(0.0, 1e6))
      ->envname("TIDEGATE_MAX_PERPLEXITY_INCREASE");
  app.add_option("--profile", steering.profile,
                 "Profile of `tidegate calibrate` to choose from instead of the pack's own")
      ->type_name("FILE")
      ->envname("TIDEGATE_PROFILE");
}

absl::Status CheckSteering(const EngineOptions& engine) {
  const SteeringOptions& s = engine.steering;
  // The range checks of the flags let NaN through.
  if (!(s.target_tokens_per_second >= 0) || !(s.max_perplexity_increase.value_or(0) >= 0)) {
    return absl::InvalidArgumentError(
        "--target-tokens-per-second and --max-perplexity-increase must be numbers of 0 or more");
  }
  if (!engine.steering.wanted()) {
    if (engine.steering.profile.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "--profile does nothing by itself; add --target-tokens-per-second or "
        "--max-perplexity-increase");
  }
  if (engine.pruning.defaults.mode == DecodeMode::kDipCa) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--mode ", std::string(DecodeModeName(engine.pruning.defaults.mode)),
                   " has no points to choose from; --target-tokens-per-second and "
                   "--max-perplexity-increase need --mode dip_ca"));
}

absl::Status CheckBounds(const char* name, float value, float low, float high) {
  if (low <= high && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " ", value, " is not inside ", name, "-min ",
                                                 low, " and ", name, "-max ", high));
}

}  // namespace

std::optional<int> ParseServerConfig(int argc, const char* const* argv, ServerConfig& config) {
  if (config.engine.store_socket.empty()) config.engine.store_socket = "/run/tidegate/store.sock";
  CLI::App app{"Serves one model over gRPC, with weights from tidegate-store."};
  app.footer(kFooter);
  AddCommonFlags(app, "tidegate-engine");
  AddNetworkFlags(app, config);
  AddEngineFlags(app, config.engine);
  AddPruningFlags(app, config.engine.pruning);
  AddSteeringFlags(app, config.engine.steering);
  const std::optional<int> exit_code = ParseFlags(app, argc, argv);
  if (config.metrics_listen == "off") config.metrics_listen.clear();
  return exit_code;
}

absl::Status ValidateServerConfig(const ServerConfig& config) {
  const PruningBounds& pruning = config.engine.pruning;
  if (pruning.density_min <= 0) {
    return absl::InvalidArgumentError("--density-min must be above 0");
  }
  absl::Status status =
      CheckBounds("--density", pruning.defaults.density, pruning.density_min, pruning.density_max);
  status.Update(
      CheckBounds("--gamma", pruning.defaults.gamma, pruning.gamma_min, pruning.gamma_max));
  status.Update(CheckSteering(config.engine));
  if (config.listen.find(':') == std::string::npos) {
    status.Update(absl::InvalidArgumentError(
        absl::StrCat("--listen ", config.listen, ": use HOST:PORT or unix:PATH")));
  }
  return status;
}

}  // namespace tidegate
