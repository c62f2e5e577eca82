// Everything the engine has while it is attached to a store: connection, model, tokenizer, decoder.
// Made anew at every attach. Owned by the decode thread; tokenizer and info are shared.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/decoder.h"
#include "engine/engine_options.h"
#include "engine/memory_plan.h"
#include "engine/model.h"
#include "engine/model_info.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

struct AttachedModel {
  std::unique_ptr<WeightClient> client;
  std::unique_ptr<const Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<Decoder> decoder;
  std::unique_ptr<KvPool> kv_pool;
  ModelInfo info;
  MemoryPlan memory;
  uint32_t context_tokens = 0;  // per request

  // Over all requests, in whole pages; at least context_tokens.
  uint64_t kv_capacity_tokens() const { return uint64_t{kv_pool->capacity()} * kKvPageTokens; }
};

// Attaches and builds the model. `pool` outlives the result. on_wait: see WeightClient.
absl::StatusOr<std::unique_ptr<AttachedModel>> AttachModel(const EngineOptions& options,
                                                           ThreadPool* pool, OnWait on_wait);

// Says what was attached; warns of adapters that the pack's weights contain already.
void LogAttached(const AttachedModel& attached, const EngineOptions& options);

}  // namespace tidegate
