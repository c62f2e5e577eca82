#include "engine/model.h"

#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

using store::v1::Manifest;
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

  absl::StatusOr<MatrixView> Matrix(const std::string& name, uint64_t rows,
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
    ASSIGN_OR_RETURN(const GgmlType type, ToGgmlType(tensor.type()));
    return MatrixView{.type = type,
                      .data = client_.StaticData(tensor),
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
    return reinterpret_cast<const float*>(view.data);
  }

 private:
  const WeightClient& client_;
  absl::flat_hash_map<std::string, const StaticTensor*> by_name_;
};

ModelConfig ConfigFrom(const store::v1::HyperParameters& hp) {
  return {.layer_count = hp.layer_count(),
          .hidden_size = hp.hidden_size(),
          .intermediate_size = hp.intermediate_size(),
          .query_heads = hp.query_heads(),
          .kv_heads = hp.kv_heads(),
          .head_size = hp.head_size(),
          .vocab_size = hp.vocab_size(),
          .trained_context_tokens = hp.context_length(),
          .rms_epsilon = hp.rms_epsilon(),
          .rope_dims = hp.rope_dims()};
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
  return w;
}

// Rotation of pair i per position: base^(-2i/dims), divided by the linear factor and by the model's
// own per-pair factors (Llama 3's rope_freqs.weight).
absl::StatusOr<std::vector<double>> RopeFrequencies(const Statics& statics,
                                                    const Manifest& manifest) {
  const store::v1::HyperParameters& hp = manifest.hyper_parameters();
  const uint32_t pairs = hp.rope_dims() / 2;
  const float* factors = nullptr;
  if (statics.Has("rope_freqs.weight")) {
    ASSIGN_OR_RETURN(factors, statics.Vector("rope_freqs.weight", pairs));
  }
  const bool linear = hp.rope_scaling().kind() == store::v1::RopeScaling::KIND_LINEAR;
  std::vector<double> frequencies(pairs);
  for (uint32_t i = 0; i < pairs; ++i) {
    frequencies[i] = std::pow(static_cast<double>(hp.rope_base()), -2.0 * i / hp.rope_dims());
    if (factors != nullptr) frequencies[i] /= factors[i];
    if (linear) frequencies[i] /= hp.rope_scaling().factor();
  }
  return frequencies;
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

absl::StatusOr<std::unique_ptr<const Model>> MakeModel(const WeightClient& client) {
  const Manifest& manifest = client.manifest();
  const Statics statics(client);
  auto model = std::make_unique<Model>();
  model->config = ConfigFrom(manifest.hyper_parameters());
  const ModelConfig& c = model->config;
  model->unit_encoding = static_cast<UnitEncoding>(manifest.unit_encoding());
  ASSIGN_OR_RETURN(model->embedding,
                   statics.Matrix("token_embd.weight", c.vocab_size, c.hidden_size));
  model->head = model->embedding;
  if (statics.Has("output.weight")) {
    ASSIGN_OR_RETURN(model->head, statics.Matrix("output.weight", c.vocab_size, c.hidden_size));
  }
  ASSIGN_OR_RETURN(model->final_norm, statics.Vector("output_norm.weight", c.hidden_size));
  for (uint32_t layer = 0; layer < c.layer_count; ++layer) {
    ASSIGN_OR_RETURN(LayerWeights weights, LoadLayer(statics, c, layer));
    model->layers.push_back(weights);
    const store::v1::LayerUnits& units = manifest.layers(static_cast<int>(layer));
    model->unit_orders[0].push_back(OrderFrom(units.input()));
    model->unit_orders[1].push_back(OrderFrom(units.hidden()));
  }
  ASSIGN_OR_RETURN(model->rope_frequencies, RopeFrequencies(statics, manifest));
  return model;
}

}  // namespace tidegate
