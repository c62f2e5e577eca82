// What clients may know of the model that an engine serves. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tidegate {

struct ModelInfo {
  std::string name;
  std::string architecture;
  std::string unit_encoding;  // "q8"
  std::string kv_encoding;    // of keys and values: "f16"
  std::string pack_uuid;
  uint32_t layer_count = 0, hidden_size = 0, intermediate_size = 0;
  uint32_t query_heads = 0, kv_heads = 0, head_size = 0;
  uint32_t vocab_size = 0;  // token ids are below; the embedding may have more rows
  uint32_t trained_context_tokens = 0;
  uint64_t static_bytes = 0, streamed_bytes = 0;
  std::string chat_template;
  std::vector<std::string> adapters;  // "adapter.gguf x 0.5"
  uint64_t adapter_bytes = 0;         // in the engine's memory
};

}  // namespace tidegate
