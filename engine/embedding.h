// The rows of token_embd.weight, in the shared region or, where the store's budget had no room for
// them, in the pack file. Belongs to the client's thread. The client must outlive it.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "engine/tokenizer/tokenizer.h"
#include "proto/gguf/ggml_type.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

class Embedding {
 public:
  Embedding() = default;
  // `tensor` is one of client.manifest().
  Embedding(WeightClient* client, const store::v1::StaticTensor* tensor, GgmlType type)
      : client_(client), tensor_(tensor), type_(type) {}

  // out [tokens, columns]. REQUIRES: the tokens are rows. Errors: of ReadStaticRows(); logged too.
  absl::Status Decode(std::span<const TokenId> tokens, float* out) const;

 private:
  WeightClient* client_ = nullptr;
  const store::v1::StaticTensor* tensor_ = nullptr;
  GgmlType type_ = GgmlType::kF32;
};

}  // namespace tidegate
