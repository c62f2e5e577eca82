#include "server/config.h"

#include "absl/strings/str_cat.h"
#include "base/flags.h"
#include "base/listen_address.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "engine/request_limits.h"
#include "proto/store/v1/defaults.h"
#include "proto/store/v1/manifest_names.h"
#include "server/openai/http_origins.h"

namespace tidegate {
namespace {

// Beyond any model's context, and far from overflow when multiplied with the bytes of a token.
constexpr uint64_t kMaxContextTokens = uint64_t{1} << 24;
constexpr uint64_t kMaxKvTokens = uint64_t{1} << 32;

constexpr char kFooter[] = R"(
Every flag may also be set by the environment variable shown, or in the --config file; the
command line wins, then the environment, then the file.

Examples:
  tidegate-engine                                  # the store on this machine, gRPC on port 50051
  tidegate-engine --listen 127.0.0.1:0 --port-file /run/tidegate/port
  tidegate-engine --listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key
  tidegate-engine --http-listen 127.0.0.1:8080     # also OpenAI's HTTP API
  tidegate-engine --mode dip_ca --density 0.6 --density-min 0.4 --max-running 8
  tidegate-engine --max-perplexity-increase 0.02   # as fast as 2 % allow, by the pack's profile
  tidegate-engine --target-tokens-per-second 10 --profile profile.json
)";

// Clients give it in requests and get it in answers, so it stays as it is or is refused.
absl::Status CheckAlias(const std::string& alias) {
  if (!alias.empty() && Printable(alias, kMaxModelNameBytes) == alias) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Quoted(alias), " is no name: 1 to ",
                                                 kMaxModelNameBytes,
                                                 " bytes of UTF-8 without control characters"));
}

void AddNetworkFlags(CLI::App& app, ServerConfig& config) {
  AddAddressFlag(
      app, "--listen", config.listen,
      "Address of gRPC: HOST:PORT (port 0 takes a free one) or unix:PATH. In clear text "
      "without --tls-cert, and for everybody without --access-keys or --tls-client-ca: use "
      "127.0.0.1:PORT where strangers reach the machine")
      .Variable("TIDEGATE_LISTEN");
  AddTextFlag(app, "--port-file", config.port_file, "File to write the port of --listen into")
      .Variable("TIDEGATE_PORT_FILE");
  AddSocketFlag(
      app, "--local-socket", config.local_socket, kMaxSocketPathBytes,
      "Unix socket to serve gRPC at besides, in clear and for this user alone: for health "
      "checks on this machine where --listen has TLS")
      .Variable("TIDEGATE_LOCAL_SOCKET");
  AddAddressFlag(app, "--metrics-listen", config.metrics_listen,
                 "Address of Prometheus metrics over HTTP: HOST:PORT (port 0 takes a free one) or "
                 "unix:PATH; off: none",
                 /*off=*/true)
      .Variable("TIDEGATE_METRICS_LISTEN");
  AddTextFlag(app, "--metrics-port-file", config.metrics_port_file,
              "File to write the port of --metrics-listen into")
      .Variable("TIDEGATE_METRICS_PORT_FILE");
  AddSwitch(
      app, "--metrics-vllm-names", [&config] { config.metrics_vllm_names = true; },
      "Gives what vLLM measures too under its names as well (vllm:...)")
      .Variable("TIDEGATE_METRICS_VLLM_NAMES");
  AddSwitch(
      app, "--orca-trailers", [&config] { config.orca_trailers = true; },
      "Ends every stream of gRPC with a load report (endpoint-load-metrics-bin) for load "
      "balancers, not only those that ask for it")
      .Variable("TIDEGATE_ORCA_TRAILERS");
  AddTextListFlag(
      app, "--model-alias", [&config] { config.model_aliases.clear(); },
      [&config](const std::string& alias) {
        RETURN_IF_ERROR(CheckAlias(alias));
        config.model_aliases.push_back(alias);
        return absl::OkStatus();
      },
      "Further name of the model in requests; may be repeated")
      .Type("NAME")
      .Variable("TIDEGATE_MODEL_ALIAS");
  AddTextFlag(app, "--chat-template", config.chat_template_file,
              "File with a chat template (Jinja) to use for Chat instead of the model's own")
      .Type("FILE")
      .Variable("TIDEGATE_CHAT_TEMPLATE");
  AddDurationFlag(app, "--drain-timeout", config.drain_timeout,
                  "After SIGTERM, time for running streams to end by themselves")
      .Variable("TIDEGATE_DRAIN_TIMEOUT");
  AddLogLevelFlag(app, config.log_level);
  AddLogFormatFlag(app, config.log_format);
}

const char* TlsVersionName(TlsVersion version) {
  return version == TlsVersion::k13 ? "1.3" : "1.2";
}

void AddTlsFlags(CLI::App& app, ServerConfig& config) {
  AddFileFlag(app, "--tls-cert", config.tls.certificate_file,
              "PEM file with the server's certificate, then those of its issuers: gRPC and HTTP "
              "speak TLS alone. Files are read again when they change")
      .Type("FILE")
      .Variable("TIDEGATE_TLS_CERT");
  AddFileFlag(app, "--tls-key", config.tls.key_file,
              "PEM file with the key of --tls-cert, without a passphrase")
      .Type("FILE")
      .Variable("TIDEGATE_TLS_KEY");
  AddFileFlag(app, "--tls-client-ca", config.tls.client_ca_file,
              "PEM file with authorities: every client has to show a certificate that one of them "
              "has signed")
      .Type("FILE")
      .Variable("TIDEGATE_TLS_CLIENT_CA");
  AddTextFlag(
      app, "--tls-min-version",
      [&config](const std::string& text) {
        for (const TlsVersion version : {TlsVersion::k12, TlsVersion::k13}) {
          if (text != TlsVersionName(version)) continue;
          config.tls.min_version = version;
          return absl::OkStatus();
        }
        return absl::InvalidArgumentError(absl::StrCat(Quoted(text), ": use 1.2 or 1.3"));
      },
      "Oldest version of TLS that clients may speak: 1.2 or 1.3")
      .Type("VERSION")
      .Default(TlsVersionName(config.tls.min_version))
      .Variable("TIDEGATE_TLS_MIN_VERSION");
  AddSwitch(app, "--metrics-tls", config.metrics_tls,
            "Metrics over HTTPS, with --tls-cert, and for clients of --tls-client-ca alone if that "
            "is given")
      .Variable("TIDEGATE_METRICS_TLS");
}

void AddHttpFlags(CLI::App& app, ServerConfig& config) {
  AddAddressFlag(
      app, "--http-listen", config.http_listen,
      "Address of the OpenAI-compatible HTTP API: HOST:PORT (port 0 takes a free one) or "
      "unix:PATH; off: none",
      /*off=*/true)
      .Variable("TIDEGATE_HTTP_LISTEN");
  AddTextFlag(app, "--http-port-file", config.http_port_file,
              "File to write the port of --http-listen into")
      .Variable("TIDEGATE_HTTP_PORT_FILE");
  AddTextListFlag(
      app, "--http-allow-origin", [&config] { config.http_origins.clear(); },
      [&config](const std::string& origin) {
        RETURN_IF_ERROR(CheckHttpOrigin(origin));
        config.http_origins.push_back(origin);
        return absl::OkStatus();
      },
      "Origin of web pages that may call the HTTP API, such as https://chat.example; *: any page; "
      "may be repeated. Requests of other pages are refused")
      .Type("ORIGIN")
      .Variable("TIDEGATE_HTTP_ALLOW_ORIGIN");
  AddIntegerFlag(
      app, "--http-max-connections",
      [&config](uint64_t value) { config.http_max_connections = static_cast<int>(value); },
      {1, 1 << 16},
      "Connections of the HTTP API; a newcomer takes the place of one that has no request")
      .Default(absl::StrCat(config.http_max_connections))
      .Variable("TIDEGATE_HTTP_MAX_CONNECTIONS");
}

// Against clients that mean harm; no honest one comes near the defaults (docs/security.md).
void AddLimitFlags(CLI::App& app, ServerConfig& config) {
  const auto add = [&app](const char* name, int& value, IntegerRange range, const char* help,
                          const char* env) {
    AddIntegerFlag(
        app, name, [&value](uint64_t v) { value = static_cast<int>(v); }, range, help)
        .Default(absl::StrCat(value))
        .Variable(env);
  };
  add("--max-connections", config.connections.max_connections, {1, 1 << 20},
      "Connections of clients; each takes 3 descriptors. A newcomer takes the place of one that "
      "has no call",
      "TIDEGATE_MAX_CONNECTIONS");
  add("--max-connections-per-address", config.connections.max_connections_per_address, {1, 1 << 20},
      "Connections from one IPv4 address, one IPv6 /64, or one user at a Unix socket",
      "TIDEGATE_MAX_CONNECTIONS_PER_ADDRESS");
  add("--max-unanswered-calls", config.connections.max_unanswered_calls, {16, 1 << 16},
      "Calls, over all connections, that have been begun and not answered at all; more wait in "
      "their connections",
      "TIDEGATE_MAX_UNANSWERED_CALLS");
  add("--max-streams-per-connection", config.max_streams_per_connection, {1, 1 << 16},
      "Calls that one connection may have open", "TIDEGATE_MAX_STREAMS_PER_CONNECTION");
  add("--max-open-streams", config.max_open_streams, {0, 1 << 20},
      "Generate and Chat calls that are open, those included that are done and not read; more get "
      "RESOURCE_EXHAUSTED; 0: --max-running (512 if that is 0) + --max-waiting + 512",
      "TIDEGATE_MAX_OPEN_STREAMS");
  add("--max-priority", config.max_priority, {0, static_cast<uint64_t>(kMaxPriority)},
      "Largest priority that requests may ask: any client that may ask for more than 0 can go "
      "before all others",
      "TIDEGATE_MAX_PRIORITY");
  add("--max-choices", config.max_choices, {1, kMaxChoices},
      "Answers to one prompt that requests may ask; each takes a place of those that run",
      "TIDEGATE_MAX_CHOICES");
  AddDurationFlag(app, "--idle-timeout", config.idle_timeout,
                  "A connection without calls is closed after this, with notice")
      .Variable("TIDEGATE_IDLE_TIMEOUT");
  AddDurationFlag(app, "--write-timeout", config.write_timeout,
                  "A stream whose client takes nothing of what was written for so long is ended")
      .Variable("TIDEGATE_WRITE_TIMEOUT");
}

void AddTracingFlags(CLI::App& app, SpanExporterOptions& tracing) {
  AddAddressFlag(
      app, "--otlp-endpoint", tracing.endpoint,
      "Collector of traces, OTLP over gRPC without TLS: HOST:PORT or unix:PATH; off: none",
      /*off=*/true)
      .Variable("TIDEGATE_OTLP_ENDPOINT");
  AddRealFlag(app, "--otlp-sample-ratio", tracing.sample_ratio, {0, 1},
              "Share of requests traced whose callers do not say by traceparent")
      .Variable("TIDEGATE_OTLP_SAMPLE_RATIO");
  AddTextFlag(app, "--otlp-service-name", tracing.service_name, "service.name of the traces")
      .Variable("TIDEGATE_OTLP_SERVICE_NAME");
}

void AddKvFlags(CLI::App& app, EngineOptions& engine) {
  AddIntegerFlag(app, "--kv-tokens", engine.kv_tokens, {0, kMaxKvTokens},
                 "Tokens of all requests in the KV cache; 0: what the store's budget reserves")
      .Variable("TIDEGATE_KV_TOKENS");
  AddTextFlag(
      app, "--kv",
      [&engine](const std::string& text) {
        ASSIGN_OR_RETURN(engine.kv_type, ParseKvType(text));
        return absl::OkStatus();
      },
      "How keys and values are kept: f16; q8 takes 17 bytes where f16 takes 32, for heads of a "
      "multiple of 32; f32")
      .Type("TYPE")
      .Default(std::string(KvTypeName(engine.kv_type)))
      .Variable("TIDEGATE_KV");
}

void AddEngineFlags(CLI::App& app, EngineOptions& engine) {
  AddSocketFlag(app, "--store-socket", engine.store_socket, kMaxSocketPathBytes,
                "Attach socket of tidegate-store")
      .Variable("TIDEGATE_STORE_SOCKET");
  AddTextListFlag(
      app, "--lora", [&engine] { engine.adapters.clear(); },
      [&engine](const std::string& text) {
        ASSIGN_OR_RETURN(LoraSource source, ParseLoraSource(text));
        engine.adapters.push_back(std::move(source));
        return absl::OkStatus();
      },
      "LoRA adapter (GGUF) to use beside the weights: FILE or FILE=SCALE; may be repeated. Its "
      "factors take 4 bytes a number of the store's --engine-reserve")
      .Type("FILE[=SCALE]")
      .Variable("TIDEGATE_LORA");
  AddIntegerFlag(
      app, "--max-running", engine.max_running, {0, 1024},
      "Streams decoded at once; 0: what the KV cache, the cores and the engine's reserve "
      "of memory carry")
      .Variable("TIDEGATE_MAX_RUNNING");
  AddIntegerFlag(app, "--max-waiting", engine.max_waiting, {0, 65536},
                 "Requests that wait for a place; more get RESOURCE_EXHAUSTED")
      .Variable("TIDEGATE_MAX_WAITING");
  AddIntegerFlag(app, "--max-waiting-tokens", engine.max_waiting_tokens, {0, kMaxKvTokens},
                 "Prompt tokens of requests that wait; more get RESOURCE_EXHAUSTED; 0: any number")
      .Variable("TIDEGATE_MAX_WAITING_TOKENS");
  AddIntegerFlag(app, "--context", engine.context_tokens, {0, kMaxContextTokens},
                 absl::StrCat("Tokens of one request, prompt and answer together; 0: the model's, "
                              "at most ",
                              kDefaultContextTokens))
      .Variable("TIDEGATE_CONTEXT");
  AddKvFlags(app, engine);
  AddIntegerFlag(app, "--prefill-chunk", engine.prefill_chunk_tokens, {0, 65536},
                 absl::StrCat("Prompt tokens of a step at most; more are faster, other streams "
                              "wait longer; 0: ",
                              kDefaultPromptRows, ", or as many as --engine-reserve has room for"))
      .Variable("TIDEGATE_PREFILL_CHUNK");
  AddDurationFlag(app, "--step-time", engine.step_time,
                  "What a step with prompts should take while other streams decode: prompts get "
                  "fewer rows then; 0s: as long as a whole --prefill-chunk takes")
      .Variable("TIDEGATE_STEP_TIME");
  AddSwitch(
      app, "--no-prefix-cache", [&engine] { engine.prefix_cache = false; },
      "Computes prompts anew that begin like earlier ones, instead of taking their pages")
      .Variable("TIDEGATE_NO_PREFIX_CACHE");
  AddSwitch(
      app, "--share-reads", [&engine] { engine.share_reads = true; },
      "Masks of dip_ca treat what other streams of a step read anyway as if it were in memory: "
      "better answers for the same reads")
      .Variable("TIDEGATE_SHARE_READS");
  AddTextFlag(
      app, "--precision",
      [&engine](const std::string& text) {
        ASSIGN_OR_RETURN(engine.precision, ParsePrecision(text));
        return absl::OkStatus();
      },
      "Arithmetic: fast (bfloat16 where the CPU multiplies it faster: in prompts, and against "
      "4-bit weights) or exact (float); reproducible requests are exact")
      .Type("PRECISION")
      .Default(std::string(PrecisionName(engine.precision)))
      .Variable("TIDEGATE_PRECISION");
  AddIntegerFlag(app, "--threads", engine.threads, {0, 1024},
                 "Threads that compute; 0: one per core")
      .Variable("TIDEGATE_THREADS");
  AddSwitch(
      app, "--no-overlap", [&engine] { engine.overlap = false; },
      "Wait for all columns before adding any (for experiments)")
      .Variable("TIDEGATE_NO_OVERLAP");
}

void AddStallFlags(CLI::App& app, EngineOptions& engine) {
  AddDurationFlag(app, "--stall-time", engine.stall_time,
                  "Without progress of the store or its drive for this long, readiness goes off")
      .Variable("TIDEGATE_STALL_TIME");
  AddDurationFlag(app, "--stall-limit", engine.stall_limit,
                  "Without progress for this long, streams end with UNAVAILABLE")
      .Variable("TIDEGATE_STALL_LIMIT");
}

void AddPruningFlags(CLI::App& app, PruningBounds& bounds) {
  AddTextFlag(
      app, "--mode",
      [&bounds](const std::string& text) {
        ASSIGN_OR_RETURN(bounds.defaults.mode, ParseDecodeMode(text));
        return absl::OkStatus();
      },
      "Pruning unless a request says otherwise: dense, dip, dip_ca")
      .Type("MODE")
      .Default(std::string(DecodeModeName(bounds.defaults.mode)))
      .Variable("TIDEGATE_MODE");
  const auto add = [&app](const char* name, float& value, const char* help, const char* env) {
    AddRealFlag(app, name, value, {0, 1}, help).Variable(env);
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
  AddIntegerFlag(app, "--fixed-top-n", bounds.defaults.fixed_top_n, {0, kMaxFixedTopN},
                 "Default count of largest scores that gamma leaves alone")
      .Variable("TIDEGATE_FIXED_TOP_N");
}

void AddSteeringFlags(CLI::App& app, SteeringOptions& steering) {
  AddRealFlag(app, "--target-tokens-per-second", steering.target_tokens_per_second, {0, 1e6},
              "Moves requests that set neither density nor gamma along the profile's points, "
              "so that each stream is about this fast; 0: does not")
      .Variable("TIDEGATE_TARGET_TOKENS_PER_SECOND");
  AddRealFlag(app, "--max-perplexity-increase", steering.max_perplexity_increase, {0, 1e6},
              "Perplexity that these requests may lose by the profile, a share (0.05 is 5 %): "
              "alone it chooses the fastest point within it, with a target it is the limit")
      .Variable("TIDEGATE_MAX_PERPLEXITY_INCREASE");
  AddTextFlag(app, "--profile", steering.profile,
              "Profile of `tidegate profile` to choose from instead of the pack's own")
      .Type("FILE")
      .Variable("TIDEGATE_PROFILE");
}

absl::Status CheckSteering(const EngineOptions& engine) {
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

absl::Status CheckTls(const ServerConfig& config) {
  const TlsOptions& tls = config.tls;
  if (tls.certificate_file.empty() != tls.key_file.empty()) {
    return absl::InvalidArgumentError("--tls-cert and --tls-key need each other");
  }
  if (tls.on() || (tls.client_ca_file.empty() && !config.metrics_tls)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(config.metrics_tls ? "--metrics-tls" : "--tls-client-ca",
                   " needs a certificate of the server: --tls-cert and --tls-key"));
}

absl::Status CheckTimeout(const char* name, std::chrono::nanoseconds value) {
  if (value >= std::chrono::seconds(1) && value <= std::chrono::hours(24)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " must be from 1s to 24h"));
}

}  // namespace

void AddServerFlags(CLI::App& app, ServerConfig& config) {
  AddCommonFlags(app, "tidegate-engine");
  AddNetworkFlags(app, config);
  AddTlsFlags(app, config);
  AddHttpFlags(app, config);
  AddAccessFlags(app, config.access);
  AddLimitFlags(app, config);
  AddTracingFlags(app, config.tracing);
  AddEngineFlags(app, config.engine);
  AddStallFlags(app, config.engine);
  AddPruningFlags(app, config.engine.pruning);
  AddSteeringFlags(app, config.engine.steering);
}

namespace {

std::shared_ptr<CLI::App> MakeServerProgram(ServerConfig& config) {
  if (config.engine.store_socket.empty()) config.engine.store_socket = "/run/tidegate/store.sock";
  const std::shared_ptr<CLI::App> app =
      MakeProgram("Serves one model over gRPC, with weights from tidegate-store.", kFooter);
  AddServerFlags(*app, config);
  return app;
}

// What follows from other flags.
void DeriveServerConfig(ServerConfig& config) {
  if (config.max_open_streams == 0) {
    const uint32_t running =
        config.engine.max_running != 0 ? config.engine.max_running : kRunningStreams;
    config.max_open_streams =
        static_cast<int>(running + config.engine.max_waiting) + kFinishedStreams;
  }
  config.connections.max_open_calls = config.max_open_streams + kOtherCalls;
}

}  // namespace

std::optional<int> ParseServerConfig(int argc, const char* const* argv, ServerConfig& config) {
  const std::optional<int> exit_code = ParseFlags(*MakeServerProgram(config), argc, argv);
  DeriveServerConfig(config);
  return exit_code;
}

absl::StatusOr<std::vector<FlagValue>> ReadServerConfig(int argc, const char* const* argv,
                                                        ServerConfig& config) {
  ASSIGN_OR_RETURN(std::vector<FlagValue> values,
                   ReadFlags(*MakeServerProgram(config), argc, argv));
  DeriveServerConfig(config);
  RETURN_IF_ERROR(ValidateServerConfig(config));
  return values;
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
  status.Update(CheckTls(config));
  status.Update(CheckTimeout("--idle-timeout", config.idle_timeout));
  status.Update(CheckTimeout("--write-timeout", config.write_timeout));
  return status;
}

}  // namespace tidegate
