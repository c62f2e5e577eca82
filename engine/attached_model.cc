#include "engine/attached_model.h"

#include <malloc.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/memory_limit.h"
#include "base/status_macros.h"
#include "base/units.h"
#include "proto/store/v1/defaults.h"

namespace tidegate {
namespace {

ModelInfo InfoFrom(const WeightClient& client, const Model& model, const Tokenizer& tokenizer,
                   KvType kv_type) {
  const store::v1::Manifest& manifest = client.manifest();
  const ModelConfig& c = model.config;
  return {.name = manifest.model_name(),
          .architecture = manifest.architecture(),
          .unit_encoding = std::string(UnitEncodingName(model.unit_encoding)),
          .kv_encoding = std::string(KvTypeName(kv_type)),
          .pack_uuid = client.pack_uuid(),
          .layer_count = c.layer_count,
          .hidden_size = c.hidden_size,
          .intermediate_size = c.intermediate_size,
          .query_heads = c.query_heads,
          .kv_heads = c.kv_heads,
          .head_size = c.head_size,
          .vocab_size = static_cast<uint32_t>(tokenizer.vocab_size()),
          .trained_context_tokens = c.trained_context_tokens,
          .static_bytes = client.region().static_bytes,
          .streamed_bytes = client.geometry().blocks_bytes(),
          .chat_template = manifest.chat_template(),
          .adapters = model.lora.descriptions,
          .adapter_bytes = model.lora.bytes()};
}

// Tokens that a request's context is to have.
uint32_t ContextWanted(const EngineOptions& options, uint32_t trained_tokens) {
  return options.context_tokens != 0 ? options.context_tokens
                                     : std::min(trained_tokens, kDefaultContextTokens);
}

absl::StatusOr<MemoryPlan> DivideReserve(const EngineOptions& options, uint32_t threads,
                                         uint64_t page_bytes, const AttachedModel& attached) {
  const WeightClient& client = *attached.client;
  const uint32_t trained = attached.model->config.trained_context_tokens;
  return PlanMemory(client.manifest(), client.geometry(),
                    {.reserve_bytes = client.region().engine_reserve_bytes,
                     .adapter_bytes = attached.info.adapter_bytes,
                     .adapter_rank = attached.model->lora.largest_rank(),
                     .page_bytes = page_bytes,
                     .threads = threads,
                     .context_tokens = ContextWanted(options, trained),
                     .max_running = options.max_running,
                     .prompt_rows = options.prefill_chunk_tokens,
                     .kv_tokens = options.kv_tokens});
}

// What the reserve is divided into, and the context per request, within what the flags and the
// budget give.
absl::Status SizeMemory(const EngineOptions& options, uint32_t threads, AttachedModel& attached) {
  const ModelConfig& c = attached.model->config;
  const KvType type = options.kv_type;
  const uint64_t token_bytes = KvPool::BytesPerToken(c, type);
  const uint64_t page_bytes = KvPool::PageBytes(c, type);
  ASSIGN_OR_RETURN(attached.memory, DivideReserve(options, threads, page_bytes, attached));
  const uint64_t capacity = attached.memory.kv_tokens;
  const uint64_t from_reserve = WorkspaceFromReserve(attached.memory.workspace.bytes());
  const MemoryLimit memory = ReadMemoryLimit();
  if (capacity > memory.bytes / token_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV cache for ", capacity, " tokens takes ", token_bytes, " bytes each, more than ",
        memory.by_cgroup ? "the control group's limit of memory" : "this machine's memory",
        "; lower --kv-tokens"));
  }
  const uint32_t context = ContextWanted(options, c.trained_context_tokens);
  if (capacity < 2 || (options.context_tokens != 0 && context > capacity)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a context of ", context, " tokens needs ", context * token_bytes,
        " bytes of KV cache, there is room for ", capacity, " tokens",
        attached.info.adapter_bytes > 0
            ? absl::StrCat(" beside adapters of ", attached.info.adapter_bytes, " bytes")
            : "",
        from_reserve > 0
            ? absl::StrCat(" beside ", FormatBytes(from_reserve), " of the steps' workspace")
            : "",
        "; start the store with a larger --engine-reserve or the engine with --kv-tokens"));
  }
  attached.context_tokens = static_cast<uint32_t>(std::min<uint64_t>(context, capacity));
  attached.kv_pool = std::make_unique<KvPool>(c, type, KvPool::PagesFor(capacity) * page_bytes);
  return absl::OkStatus();
}

// Says how the reserve is divided.
void LogMemory(const AttachedModel& attached) {
  const MemoryPlan& memory = attached.memory;
  const uint64_t workspace = memory.workspace.bytes();
  LogInfo("memory: workspace ", FormatBytes(workspace), " (",
          FormatBytes(WorkspaceFromReserve(workspace)), " of the reserve) for steps of ",
          memory.sequences_max, " streams and ", memory.prompt_rows_max,
          " prompt tokens, adapters ", FormatBytes(attached.info.adapter_bytes), ", KV pages ",
          FormatBytes(attached.kv_pool->capacity() * attached.kv_pool->page_bytes()),
          ", of a reserve of ", FormatBytes(attached.client->region().engine_reserve_bytes));
  if (memory.beyond_bytes > 0) {
    LogWarning("the engine may take ", FormatBytes(memory.beyond_bytes),
               " more than the store's --engine-reserve: its KV cache is as --kv-tokens says");
  }
}

// The file of a LoraName().
std::string FileOf(const std::string& name) { return name.substr(0, name.rfind('=')); }

}  // namespace

absl::StatusOr<std::unique_ptr<AttachedModel>> AttachModel(const EngineOptions& options,
                                                           ThreadPool* pool, OnWait on_wait) {
  auto attached = std::make_unique<AttachedModel>();
  ASSIGN_OR_RETURN(attached->client, WeightClient::Attach(options.store_socket, "tidegate-engine",
                                                          std::move(on_wait)));
  RETURN_IF_ERROR(
      CheckKvType(options.kv_type, attached->client->manifest().hyper_parameters().head_size()));
  ASSIGN_OR_RETURN(attached->model, MakeModel(*attached->client, options.adapters));
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer,
                   Tokenizer::Create(attached->client->manifest().tokenizer()));
  if (tokenizer->vocab_size() > attached->model->config.embedding_rows) {
    return absl::DataLossError(
        "the tokenizer has more tokens than the embedding; pack the model again");
  }
  attached->tokenizer = std::move(tokenizer);
  attached->client->ForgetTokenizer();
  attached->decoder = std::make_unique<Decoder>(attached->model.get(), attached->client.get(), pool,
                                                options.overlap);
  attached->info =
      InfoFrom(*attached->client, *attached->model, *attached->tokenizer, options.kv_type);
  RETURN_IF_ERROR(SizeMemory(options, pool->thread_count(), *attached));
  ::malloc_trim(0);  // what reading the manifest took
  return attached;
}

void LogAttached(const AttachedModel& attached, const EngineOptions& options) {
  const ModelInfo& info = attached.info;
  const uint32_t wanted = ContextWanted(options, info.trained_context_tokens);
  if (attached.context_tokens < wanted) {
    LogWarning("a context is ", attached.context_tokens, " tokens and not ", wanted,
               ": the KV cache has room for no more; start the store with a larger "
               "--engine-reserve or the engine with --kv-tokens");
  } else if (options.context_tokens == 0 && wanted < info.trained_context_tokens) {
    LogInfo("a context is ", wanted, " of the ", info.trained_context_tokens,
            " tokens that the model was trained on; --context allows more");
  }
  LogInfo("attached: model ", info.name, ", context ", attached.context_tokens,
          " tokens, KV cache for ", attached.kv_capacity_tokens(), " tokens in ", info.kv_encoding,
          " (", options.kv_tokens != 0 ? "--kv-tokens" : "the store's engine reserve", ")",
          info.adapters.empty() ? ""
                                : absl::StrCat(", adapters ", absl::StrJoin(info.adapters, ", "),
                                               " (", FormatBytes(info.adapter_bytes), ")"));
  LogMemory(attached);
  for (const LoraSource& given : options.adapters) {
    for (const std::string& merged : attached.client->manifest().source().adapters()) {
      if (FileOf(LoraName(given)) != FileOf(merged)) continue;
      LogWarning("--lora ", given.path, ": the pack was made with ", merged,
                 " merged into its weights; the adapter now counts twice");
    }
  }
}

}  // namespace tidegate
