#include "engine/model.h"

#include <algorithm>
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/gguf/finite.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

using store::v1::HyperParameters;
using store::v1::Manifest;
using store::v1::RopeScaling;
using store::v1::StaticTensor;

// Looks tensors up by name and checks their shapes.
class Statics {
 public:
  explicit Statics(const WeightClient& client) : client_(client) {
    for (const StaticTensor& tensor : client.manifest().static_tensors()) {
      by_name_[tensor.name()] = &tensor;
    }
  }

  bool Has(const std::string& name) const { return by_name_.contains(name); }

  absl::StatusOr<const StaticTensor*> Tensor(const std::string& name, uint64_t rows,
                                             uint64_t columns) const {
    const auto at = by_name_.find(name);
    if (at == by_name_.end()) {
      return absl::DataLossError(
          absl::StrCat("the pack has no tensor ", name, "; pack the model again"));
    }
    const StaticTensor& tensor = *at->second;
    if (tensor.rows() != rows || tensor.columns() != columns) {
      return absl::DataLossError(absl::StrCat("tensor ", name, " has shape [", tensor.rows(), ", ",
                                              tensor.columns(), "], expected [", rows, ", ",
                                              columns, "]; pack the model again"));
    }
    return &tensor;
  }

  absl::StatusOr<MatrixView> Matrix(const std::string& name, uint64_t rows,
                                    uint64_t columns) const {
    ASSIGN_OR_RETURN(const StaticTensor* tensor, Tensor(name, rows, columns));
    if (!client_.InRegion(*tensor)) {
      return absl::DataLossError(
          absl::StrCat("tensor ", name, " is not in memory; restart the store"));
    }
    ASSIGN_OR_RETURN(const GgmlType type, ToGgmlType(tensor->type()));
    return MatrixView{.type = type,
                      .data = client_.StaticData(*tensor),
                      .rows = rows,
                      .columns = columns,
                      .row_bytes = StaticRowBytes(type, columns)};
  }

  absl::StatusOr<const float*> Vector(const std::string& name, uint64_t size) const {
    ASSIGN_OR_RETURN(const MatrixView view, Matrix(name, 1, size));
    if (view.type != GgmlType::kF32) {
      return absl::DataLossError(
          absl::StrCat("tensor ", name, " is not F32; pack the model again"));
    }
    const auto* values = reinterpret_cast<const float*>(view.data);
    if (const auto bad = FirstNotFinite({values, size})) {  // Packs of old releases.
      return absl::DataLossError(absl::StrCat("tensor ", name, ": element ", *bad, " is ",
                                              values[*bad],
                                              ", not a finite number; pack the model again"));
    }
    return values;
  }

  // Null if the model has none.
  absl::StatusOr<const float*> OptionalVector(const std::string& name, uint64_t size) const {
    if (!Has(name)) return nullptr;
    return Vector(name, size);
  }

 private:
  const WeightClient& client_;
  absl::flat_hash_map<std::string, const StaticTensor*> by_name_;
};

std::vector<uint32_t> Windows(const HyperParameters& hp) {
  std::vector<uint32_t> windows(hp.windows().begin(), hp.windows().end());
  windows.resize(hp.layer_count());
  return windows;
}

ModelConfig ConfigFrom(const HyperParameters& hp) {
  return {
      .layer_count = hp.layer_count(),
      .hidden_size = hp.hidden_size(),
      .intermediate_size = hp.intermediate_size(),
      .query_heads = hp.query_heads(),
      .kv_heads = hp.kv_heads(),
      .head_size = hp.head_size(),
      .embedding_rows = hp.embedding_rows(),
      .trained_context_tokens = hp.context_length(),
      .rms_epsilon = hp.rms_epsilon(),
      .rope_dims = hp.rope_dims(),
      .rope_pairs = hp.rope_pairs() == HyperParameters::ROPE_PAIRS_HALVES ? RopePairs::kHalves
                                                                          : RopePairs::kAdjacent,
      .activation = hp.activation() == HyperParameters::ACTIVATION_GELU_TANH ? Activation::kGeluTanh
                                                                             : Activation::kSilu,
      .embedding_scale = hp.embedding_scale() > 0 ? hp.embedding_scale() : 1.0f,
      .attention_scale = hp.attention_scale() > 0
                             ? hp.attention_scale()
                             : 1.0f / std::sqrt(static_cast<float>(hp.head_size())),
      .attention_cap = hp.attention_cap(),
      .logit_cap = hp.logit_cap(),
      .expert_count = hp.expert_count(),
      .experts_used = hp.experts_used(),
      .normalise_expert_weights = hp.normalise_expert_weights(),
      .shared_experts = hp.shared_experts(),
      .windows = Windows(hp)};
}

absl::StatusOr<LayerWeights> LoadLayer(const Statics& statics, const ModelConfig& c,
                                       uint32_t layer) {
  const std::string prefix = absl::StrCat("blk.", layer, ".");
  LayerWeights w;
  ASSIGN_OR_RETURN(w.attention_norm, statics.Vector(prefix + "attn_norm.weight", c.hidden_size));
  ASSIGN_OR_RETURN(w.query,
                   statics.Matrix(prefix + "attn_q.weight", c.query_size(), c.hidden_size));
  ASSIGN_OR_RETURN(w.key, statics.Matrix(prefix + "attn_k.weight", c.kv_size(), c.hidden_size));
  ASSIGN_OR_RETURN(w.value, statics.Matrix(prefix + "attn_v.weight", c.kv_size(), c.hidden_size));
  ASSIGN_OR_RETURN(w.output,
                   statics.Matrix(prefix + "attn_output.weight", c.hidden_size, c.query_size()));
  ASSIGN_OR_RETURN(w.mlp_norm, statics.Vector(prefix + "ffn_norm.weight", c.hidden_size));
  if (c.expert_count > 0) {
    ASSIGN_OR_RETURN(w.router,
                     statics.Matrix(prefix + "ffn_gate_inp.weight", c.expert_count, c.hidden_size));
  }
  const struct {
    const char* name;
    uint64_t size;
    const float** vector;
  } optional[] = {
      {"attn_q.bias", c.query_size(), &w.query_bias},
      {"attn_k.bias", c.kv_size(), &w.key_bias},
      {"attn_v.bias", c.kv_size(), &w.value_bias},
      {"attn_output.bias", c.hidden_size, &w.output_bias},
      {"attn_q_norm.weight", c.head_size, &w.query_norm},
      {"attn_k_norm.weight", c.head_size, &w.key_norm},
      {"post_attention_norm.weight", c.hidden_size, &w.post_attention_norm},
      {"post_ffw_norm.weight", c.hidden_size, &w.post_mlp_norm},
      {"ffn_gate_inp_shexp.weight", c.hidden_size, &w.shared_gate},
  };
  for (const auto& [name, size, vector] : optional) {
    ASSIGN_OR_RETURN(*vector, statics.OptionalVector(prefix + name, size));
  }
  return w;
}

RopeStretch StretchFrom(const RopeScaling& scaling) {
  RopeStretch stretch = {.factor = scaling.factor(),
                         .original_context = static_cast<double>(scaling.original_context()),
                         .beta_fast = scaling.yarn_beta_fast(),
                         .beta_slow = scaling.yarn_beta_slow()};
  if (scaling.kind() == RopeScaling::KIND_LINEAR) stretch.kind = RopeStretch::Kind::kLinear;
  if (scaling.kind() == RopeScaling::KIND_YARN) stretch.kind = RopeStretch::Kind::kYarn;
  return stretch;
}

// From the settings and the model's own divisors: Llama 3's rope_freqs.weight, or Phi-3's pair of
// rope_factors, of which the context chooses.
absl::StatusOr<ModelRope> RopeFrom(const Statics& statics, const HyperParameters& hp) {
  const uint32_t dims = hp.rope_dims();
  const RopeScaling& scaling = hp.rope_scaling();
  const RopeStretch stretch = StretchFrom(scaling);
  const double magnitude = scaling.magnitude() > 0 ? scaling.magnitude() : 1.0;
  const bool by_context = scaling.kind() == RopeScaling::KIND_LONG;
  ModelRope rope;
  ASSIGN_OR_RETURN(const float* divisors,
                   statics.OptionalVector(
                       by_context ? "rope_factors_short.weight" : "rope_freqs.weight", dims / 2));
  rope.usual = MakeRopeTable(hp.rope_base(), dims, divisors, stretch, magnitude);
  if (by_context) {
    ASSIGN_OR_RETURN(divisors, statics.Vector("rope_factors_long.weight", dims / 2));
    rope.long_context = MakeRopeTable(hp.rope_base(), dims, divisors, stretch, magnitude);
    rope.original_context = scaling.original_context();
  }
  if (hp.windowed_rope_base() > 0) {
    rope.windowed = MakeRopeTable(hp.windowed_rope_base(), dims, nullptr, RopeStretch(), 1);
  }
  return rope;
}

absl::Status CheckRope(const ModelRope& rope) {
  for (const RopeTable* table : {&rope.usual, &rope.long_context, &rope.windowed}) {
    const bool finite = std::isfinite(static_cast<float>(table->magnitude)) &&
                        std::all_of(table->frequencies.begin(), table->frequencies.end(),
                                    [](double frequency) { return std::isfinite(frequency); });
    if (!finite) {
      return absl::DataLossError(
          "the model's rotary frequencies are not finite numbers; pack the model again");
    }
  }
  return absl::OkStatus();
}

UnitOrder OrderFrom(const store::v1::KindUnits& units) {
  UnitOrder order;
  order.unit_at.resize(static_cast<size_t>(units.positions_size()));
  for (int unit = 0; unit < units.positions_size(); ++unit) {
    order.unit_at[units.positions(unit)] = static_cast<uint32_t>(unit);
  }
  return order;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Model>> MakeModel(WeightClient& client,
                                                       std::span<const LoraSource> adapters) {
  const Manifest& manifest = client.manifest();
  const Statics statics(client);
  auto model = std::make_unique<Model>();
  model->config = ConfigFrom(manifest.hyper_parameters());
  const ModelConfig& c = model->config;
  model->unit_encoding = static_cast<UnitEncoding>(manifest.unit_encoding());
  ASSIGN_OR_RETURN(const StaticTensor* embedding,
                   statics.Tensor("token_embd.weight", c.embedding_rows, c.hidden_size));
  ASSIGN_OR_RETURN(const GgmlType embedding_type, ToGgmlType(embedding->type()));
  model->embedding = Embedding(&client, embedding, embedding_type);
  ASSIGN_OR_RETURN(model->head, statics.Matrix(statics.Has("output.weight") ? "output.weight"
                                                                            : embedding->name(),
                                               c.embedding_rows, c.hidden_size));
  ASSIGN_OR_RETURN(model->final_norm, statics.Vector("output_norm.weight", c.hidden_size));
  for (uint32_t layer = 0; layer < c.layer_count; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights weights, LoadLayer(statics, c, layer));
    model->layers.push_back(weights);
    const store::v1::LayerUnits& units = manifest.layers(static_cast<int>(layer));
    model->unit_orders[0].push_back(OrderFrom(units.input()));
    model->unit_orders[1].push_back(OrderFrom(units.hidden()));
  }
  ASSIGN_OR_RETURN(model->rope, RopeFrom(statics, manifest.hyper_parameters()));
  RETURN_IF_ERROR(CheckRope(model->rope));
  ASSIGN_OR_RETURN(model->lora,
                   LoadLora(adapters, manifest.architecture(), c, statics.Has("output.weight")));
  return model;
}

}  // namespace tidegate
