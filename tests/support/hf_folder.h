// Turns a model that has been opened from GGUF into a Hugging Face folder, for tests: the way back
// of what hf_folder.h does, written on its own. llama models only, mixtures with experts apart.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/check.h"
#include "packer/source_model.h"
#include "tests/support/safetensors_builder.h"

namespace tidegate {

struct HfFolderOptions {
  GgmlType type = GgmlType::kF32;
  size_t files = 1;  // more than one: sharded, with an index
};

inline std::string HfName(const std::string& gguf) {
  static const std::map<std::string, std::string> kNames = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"attn_norm.weight", "input_layernorm.weight"},
      {"attn_q.weight", "self_attn.q_proj.weight"},
      {"attn_k.weight", "self_attn.k_proj.weight"},
      {"attn_v.weight", "self_attn.v_proj.weight"},
      {"attn_output.weight", "self_attn.o_proj.weight"},
      {"ffn_norm.weight", "post_attention_layernorm.weight"},
      {"ffn_gate_inp.weight", "block_sparse_moe.gate.weight"},
      {"ffn_gate.weight", "mlp.gate_proj.weight"},
      {"ffn_up.weight", "mlp.up_proj.weight"},
      {"ffn_down.weight", "mlp.down_proj.weight"}};
  if (gguf.rfind("blk.", 0) != 0) return kNames.at(gguf);
  const size_t dot = gguf.find('.', 4);
  const std::string layer = "model.layers." + gguf.substr(4, dot - 3), name = gguf.substr(dot + 1);
  for (const auto& [from, to] :
       {std::pair("ffn_gate.", "w1"), {"ffn_up.", "w3"}, {"ffn_down.", "w2"}}) {
    if (name.rfind(from, 0) != 0 || kNames.count(name) != 0) continue;
    const size_t end = name.rfind(".weight"), number = std::string(from).size();
    return layer + "block_sparse_moe.experts." + name.substr(number, end - number) + "." + to +
           ".weight";
  }
  return layer + kNames.at(name);
}

// Rows of each head from "pairs side by side" to "two halves".
inline std::vector<float> HalvesFromPairs(const std::vector<float>& rows, uint64_t columns,
                                          uint64_t head_rows) {
  std::vector<float> out(rows.size());
  for (uint64_t r = 0; r < rows.size() / columns; ++r) {
    const uint64_t head = r / head_rows, pair = r % head_rows / 2, half = r % 2;
    const uint64_t to = head * head_rows + half * head_rows / 2 + pair;
    std::copy_n(&rows[r * columns], columns, &out[to * columns]);
  }
  return out;
}

inline nlohmann::json HfConfigOf(const SourceModel& model) {
  const auto number = [&](const char* key) {
    return *model.GetNumber(std::string("llama.") + key);
  };
  const auto whole = [&](const char* key) { return *model.GetUint(std::string("llama.") + key); };
  nlohmann::json config = {{"model_type", "llama"},
                           {"architectures", {"LlamaForCausalLM"}},
                           {"num_hidden_layers", whole("block_count")},
                           {"hidden_size", whole("embedding_length")},
                           {"intermediate_size", whole("feed_forward_length")},
                           {"max_position_embeddings", whole("context_length")},
                           {"num_attention_heads", whole("attention.head_count")},
                           {"num_key_value_heads", whole("attention.head_count_kv")},
                           {"rms_norm_eps", number("attention.layer_norm_rms_epsilon")},
                           {"hidden_act", "silu"},
                           {"tie_word_embeddings", model.FindTensor("output.weight") == nullptr}};
  if (model.Has("llama.expert_count")) {
    config["model_type"] = "mixtral";
    config["num_local_experts"] = whole("expert_count");
    config["num_experts_per_tok"] = whole("expert_used_count");
  }
  // A GGUF file that does not say means this; a folder means what its family's authors chose.
  const bool has_base = model.Has("llama.rope.freq_base");
  config["rope_theta"] = has_base ? number("rope.freq_base") : 10000.0;
  return config;
}

inline void WriteHfFolder(const SourceModel& model, const std::string& folder,
                          const HfFolderOptions& options = {}) {
  std::filesystem::create_directories(folder);
  const nlohmann::json config = HfConfigOf(model);
  WriteFileOrDie(folder + "/config.json", config.dump());
  const uint64_t head_rows =
      config["hidden_size"].get<uint64_t>() / config["num_attention_heads"].get<uint64_t>();
  std::vector<SafetensorsBuilder> files(options.files);
  nlohmann::json map;
  size_t next = 0;
  for (const GgufTensor& tensor : model.tensors()) {
    std::vector<float> values(tensor.rows() * tensor.columns());
    CHECK(model.ReadRows(tensor, 0, tensor.rows(), values.data()).ok());
    if (tensor.name.find("attn_q.") != std::string::npos ||
        tensor.name.find("attn_k.") != std::string::npos) {
      values = HalvesFromPairs(values, tensor.columns(), head_rows);
    }
    const size_t file = next++ % options.files;
    const std::vector<uint64_t> shape(tensor.dims.rbegin(), tensor.dims.rend());
    files[file].Add(HfName(tensor.name), options.type, shape, values);
    map[HfName(tensor.name)] = "part-" + std::to_string(file) + ".safetensors";
  }
  if (options.files == 1) return files[0].WriteTo(folder + "/model.safetensors");
  for (size_t i = 0; i < files.size(); ++i) {
    files[i].WriteTo(folder + "/part-" + std::to_string(i) + ".safetensors");
  }
  WriteFileOrDie(folder + "/model.safetensors.index.json",
                 nlohmann::json({{"weight_map", map}}).dump());
}

}  // namespace tidegate
