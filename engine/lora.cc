#include "engine/lora.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "engine/model.h"

namespace tidegate {
namespace {

// Rows of a matrix of the model that rows of a pair's product belong to, from `first` on.
struct Target {
  LoraFactors* factors;
  size_t rows, columns;
  uint64_t first = 0;
};

// Splits "blk.3.attn_q.weight" into 3 and "attn_q.weight". False: no tensor of one of the layers.
bool ParseLayer(absl::string_view name, size_t layers, size_t& layer, absl::string_view& rest) {
  if (!absl::ConsumePrefix(&name, "blk.")) return false;
  const size_t dot = name.find('.');
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(name.substr(0, dot), &layer))
    return false;
  rest = name.substr(dot + 1);
  return layer < layers;
}

// What a pair changes; nothing: it cannot be done beside the weights.
std::vector<Target> TargetsOf(const LoraFile::Pair& pair, const ModelConfig& c, bool own_head,
                              Lora& lora) {
  const size_t h = c.hidden_size, q = c.query_size(), kv = c.kv_size(), i = c.intermediate_size;
  if (pair.target == "output.weight" && own_head) return {{&lora.head, c.embedding_rows, h}};
  size_t number = 0;
  absl::string_view name;
  if (!ParseLayer(pair.target, lora.layers.size(), number, name)) return {};
  LayerLora& layer = lora.layers[number];
  if (name == "attn_q.weight") return {{&layer.query, q, h}};
  if (name == "attn_k.weight") return {{&layer.key, kv, h}};
  if (name == "attn_v.weight") return {{&layer.value, kv, h}};
  if (name == "attn_qkv.weight") {  // Queries, keys and values, one below the other.
    return {{&layer.query, q, h, 0}, {&layer.key, kv, h, q}, {&layer.value, kv, h, q + kv}};
  }
  if (name == "attn_output.weight") return {{&layer.output, h, q}};
  if (c.expert_count > 0) return {};
  if (name == "ffn_gate.weight") return {{&layer.gate, i, h}};
  if (name == "ffn_up.weight" && pair.b.rows() == 2 * i) {  // Fused: the gate comes first.
    return {{&layer.gate, i, h, 0}, {&layer.up, i, h, i}};
  }
  if (name == "ffn_up.weight") return {{&layer.up, i, h}};
  if (name == "ffn_down.weight") return {{&layer.down, h, i}};
  return {};
}

absl::StatusOr<std::vector<float>> ReadFactor(const LoraFile& file, const GgufTensor& tensor) {
  std::vector<float> values(tensor.rows() * tensor.columns());
  RETURN_IF_ERROR(file.ReadRows(tensor, 0, tensor.rows(), values.data()));
  return values;
}

// b [rows of the pair's product, rank]. INVALID_ARGUMENT: factor times b overflows.
absl::Status Append(const LoraFile::Pair& pair, const std::vector<float>& a,
                    const std::vector<float>& b, const Target& target) {
  LoraFactors& to = *target.factors;
  const size_t rank = pair.rank();
  to.in = target.columns;
  to.out = target.rows;
  to.rank += rank;
  to.a.insert(to.a.end(), a.begin(), a.end());
  for (size_t k = 0; k < rank; ++k) {
    for (size_t r = 0; r < target.rows; ++r) {
      to.b.push_back(pair.factor * b[(target.first + r) * rank + k]);
      if (std::isfinite(to.b.back())) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", pair.target, ".lora_b: row ", target.first + r, ", column ", k,
                       " times ", pair.factor, " is too large; give a smaller scale"));
    }
  }
  return absl::OkStatus();
}

absl::Status AddAdapter(const LoraSource& source, const std::string& architecture,
                        const ModelConfig& config, bool own_head, Lora& lora) {
  ASSIGN_OR_RETURN(const LoraFile file, LoraFile::Open(source, architecture));
  for (const LoraFile::Pair& pair : file.pairs()) {
    RETURN_IF_ERROR(CheckLoraLayer(pair, lora.layers.size()));
    const std::vector<Target> targets = TargetsOf(pair, config, own_head, lora);
    if (targets.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "it changes ", pair.target,
          ", which cannot be done at start: attention, plain MLPs and heads of their own can be "
          "changed; `tidegate pack --lora` merges what is a matrix of the model"));
    }
    RETURN_IF_ERROR(
        CheckLoraShape(pair, targets.back().first + targets.back().rows, targets.back().columns));
    ASSIGN_OR_RETURN(const std::vector<float> a, ReadFactor(file, pair.a));
    ASSIGN_OR_RETURN(const std::vector<float> b, ReadFactor(file, pair.b));
    for (const Target& target : targets) RETURN_IF_ERROR(Append(pair, a, b, target));
  }
  lora.descriptions.push_back(file.description());
  return absl::OkStatus();
}

uint64_t BytesOf(const LoraFactors& f) { return (f.a.size() + f.b.size()) * sizeof(float); }

template <typename Do>
void ForEachFactors(const Lora& lora, const Do& action) {
  action(lora.head);
  for (const LayerLora& layer : lora.layers) {
    for (const LoraFactors* factors : {&layer.query, &layer.key, &layer.value, &layer.output,
                                       &layer.gate, &layer.up, &layer.down}) {
      action(*factors);
    }
  }
}

}  // namespace

uint64_t Lora::bytes() const {
  uint64_t bytes = 0;
  ForEachFactors(*this, [&](const LoraFactors& factors) { bytes += BytesOf(factors); });
  return bytes;
}

size_t Lora::largest_rank() const {
  size_t rank = 0;
  ForEachFactors(*this, [&](const LoraFactors& f) { rank = std::max(rank, f.rank); });
  return rank;
}

absl::StatusOr<Lora> LoadLora(std::span<const LoraSource> sources, const std::string& architecture,
                              const ModelConfig& config, bool own_head) {
  Lora lora;
  lora.layers.resize(config.layer_count);
  for (const LoraSource& source : sources) {
    const absl::Status added = AddAdapter(source, architecture, config, own_head, lora);
    if (added.ok()) continue;
    return absl::InvalidArgumentError(absl::StrCat("adapter ", source.path, ": ", added.message()));
  }
  return lora;
}

}  // namespace tidegate
