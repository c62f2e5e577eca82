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

// Context per request and KV capacity over all, within what the flags and the budget give.
absl::Status SizeKv(const EngineOptions& options, AttachedModel& attached) {
  const ModelConfig& c = attached.model->config;
  const KvType type = options.kv_type;
  const uint64_t token_bytes = KvPool::BytesPerToken(c, type);
  const uint64_t page_bytes = KvPool::PageBytes(c, type);
  // Adapters are part of what the store's budget reserves for this process.
  const uint64_t reserved = attached.client->region().engine_reserve_bytes;
  const uint64_t reserve_bytes = reserved - std::min(reserved, attached.info.adapter_bytes);
  const uint64_t capacity =
      options.kv_tokens != 0 ? options.kv_tokens : reserve_bytes / page_bytes * kKvPageTokens;
  const MemoryLimit memory = ReadMemoryLimit();
  if (capacity > memory.bytes / token_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a KV cache for ", capacity, " tokens takes ", token_bytes, " bytes each, more than ",
        memory.by_cgroup ? "the control group's limit of memory" : "this machine's memory",
        "; lower --kv-tokens"));
  }
  const uint32_t context = options.context_tokens != 0
                               ? options.context_tokens
                               : std::min(c.trained_context_tokens, kDefaultContextTokens);
  if (capacity < 2 || (options.context_tokens != 0 && context > capacity)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a context of ", context, " tokens needs ", context * token_bytes,
        " bytes of KV cache, there is room for ", capacity, " tokens",
        attached.info.adapter_bytes > 0
            ? absl::StrCat(" beside adapters of ", attached.info.adapter_bytes, " bytes")
            : "",
        "; start the store with a larger --engine-reserve or the engine with --kv-tokens"));
  }
  attached.context_tokens = static_cast<uint32_t>(std::min<uint64_t>(context, capacity));
  attached.kv_pool = std::make_unique<KvPool>(c, type, KvPool::PagesFor(capacity) * page_bytes);
  return absl::OkStatus();
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
  attached->threads = pool->thread_count();
  attached->info =
      InfoFrom(*attached->client, *attached->model, *attached->tokenizer, options.kv_type);
  RETURN_IF_ERROR(SizeKv(options, *attached));
  ::malloc_trim(0);  // what reading the manifest took
  return attached;
}

void LogAttached(const AttachedModel& attached, const EngineOptions& options) {
  const ModelInfo& info = attached.info;
  const uint32_t wanted = options.context_tokens != 0
                              ? options.context_tokens
                              : std::min(info.trained_context_tokens, kDefaultContextTokens);
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
  for (const LoraSource& given : options.adapters) {
    for (const std::string& merged : attached.client->manifest().source().adapters()) {
      if (FileOf(LoraName(given)) != FileOf(merged)) continue;
      LogWarning("--lora ", given.path, ": the pack was made with ", merged,
                 " merged into its weights; the adapter now counts twice");
    }
  }
}

}  // namespace tidegate
