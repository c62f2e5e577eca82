#include "packer/pack_plan.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/build_info_values.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "packer/hyper_parameters.h"
#include "packer/source_tokenizer.h"
#include "packer/special_tokens.h"
#include "proto/store/v1/manifest_names.h"
#include "proto/store/v1/profile.h"
#include "proto/store/v1/static_rows.h"
#include "proto/store/v1/unit_codec.h"

namespace tidegate {
namespace {

using store::v1::HyperParameters;
using store::v1::UnitLayout;

// A tensor that a model has or may have.
struct Expected {
  std::string name;
  uint64_t rows = 1, columns = 0;
  bool vector = false;  // one dimension; kept as F32
  bool optional = false;
  // Of a part of a fused tensor: which one, all its rows, and those before this part.
  std::string fused = {};
  uint64_t fused_rows = 0, first_row = 0;
  uint64_t experts = 1;  // matrices of `rows` in one tensor; the fused one is taken as a single one
};

// The matrices that make queries, keys and values.
void ExpectProjections(const SourceModel& source, const Architecture& architecture,
                       const HyperParameters& hp, const std::string& prefix,
                       std::vector<Expected>& list) {
  const uint64_t query = uint64_t{hp.query_heads()} * hp.head_size();
  const uint64_t kv = uint64_t{hp.kv_heads()} * hp.head_size();
  const std::string fused = prefix + "attn_qkv.weight";
  const bool is_fused = architecture.fused && source.FindTensor(fused) != nullptr;
  uint64_t first = 0;
  for (const auto& [name, rows] : {std::pair("attn_q", query), {"attn_k", kv}, {"attn_v", kv}}) {
    Expected matrix = {prefix + name + ".weight", rows, hp.hidden_size()};
    if (is_fused) {
      matrix.fused = fused;
      matrix.fused_rows = query + 2 * kv;
      matrix.first_row = first;
      first += rows;
    }
    list.push_back(matrix);
    list.push_back({prefix + name + ".bias", 1, rows, true, !architecture.qkv_bias});
  }
}

// The tensors that stay in memory, in the order of the static section. An embedding that is not the
// head comes last: a store with little memory leaves it on flash (pack_format.h).
std::vector<Expected> ExpectedStatics(const SourceModel& source, const Architecture& architecture,
                                      const HyperParameters& hp) {
  const uint64_t hidden = hp.hidden_size();
  const uint64_t query = uint64_t{hp.query_heads()} * hp.head_size();
  const Expected embedding = {"token_embd.weight", hp.embedding_rows(), hidden};
  const bool own_head = source.FindTensor("output.weight") != nullptr;
  std::vector<Expected> list;
  if (!own_head) list.push_back(embedding);
  for (uint32_t layer = 0; layer < hp.layer_count(); ++layer) {
    const std::string prefix = absl::StrCat("blk.", layer, ".");
    list.push_back({prefix + "attn_norm.weight", 1, hidden, true});
    ExpectProjections(source, architecture, hp, prefix, list);
    if (architecture.head_norms) {
      list.push_back({prefix + "attn_q_norm.weight", 1, hp.head_size(), true});
      list.push_back({prefix + "attn_k_norm.weight", 1, hp.head_size(), true});
    }
    list.push_back({prefix + "attn_output.weight", hidden, query});
    list.push_back({prefix + "attn_output.bias", 1, hidden, true, true});
    if (architecture.post_norms) {
      list.push_back({prefix + "post_attention_norm.weight", 1, hidden, true});
      list.push_back({prefix + "post_ffw_norm.weight", 1, hidden, true});
    }
    list.push_back({prefix + "ffn_norm.weight", 1, hidden, true});
    if (hp.expert_count() > 0) {
      list.push_back({prefix + "ffn_gate_inp.weight", hp.expert_count(), hidden});
    }
    if (hp.shared_experts() > 0) {
      list.push_back({prefix + "ffn_gate_inp_shexp.weight", 1, hidden, true});
    }
  }
  list.push_back({"output_norm.weight", 1, hidden, true});
  list.push_back({"output.weight", hp.embedding_rows(), hidden, false, true});
  if (hp.rope_scaling().kind() == store::v1::RopeScaling::KIND_LONG) {
    list.push_back({"rope_factors_long.weight", 1, hp.rope_dims() / 2, true});
    list.push_back({"rope_factors_short.weight", 1, hp.rope_dims() / 2, true});
  } else {
    list.push_back({"rope_freqs.weight", 1, hp.rope_dims() / 2, true, true});
  }
  if (own_head) list.push_back(embedding);
  return list;
}

// The tensor, checked for shape and type; null if it is optional and missing.
absl::StatusOr<const GgufTensor*> WholeTensor(const SourceModel& source, const Expected& expected) {
  const GgufTensor* tensor = source.FindTensor(expected.name);
  if (tensor == nullptr) {
    if (expected.optional) return nullptr;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", expected.name, " is missing"));
  }
  std::vector<uint64_t> dims = {expected.columns};
  if (!expected.vector) dims.push_back(expected.rows);
  if (expected.experts > 1) dims.push_back(expected.experts);
  std::vector<uint64_t> actual = tensor->dims;
  while (actual.size() > dims.size() && actual.back() == 1) actual.pop_back();
  if (actual != dims) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", expected.name, " has the shape [",
                                                   absl::StrJoin(tensor->dims, ", "), "], not [",
                                                   absl::StrJoin(dims, ", "), "]"));
  }
  const auto type = ToGgmlType(tensor->type);
  if (!type.ok()) return Annotate(type.status(), absl::StrCat("tensor ", expected.name));
  return tensor;
}

// The same, or the part of a fused tensor, which `plan` keeps.
absl::StatusOr<const GgufTensor*> CheckedTensor(const SourceModel& source, const Expected& expected,
                                                PackPlan& plan) {
  if (expected.fused.empty()) return WholeTensor(source, expected);
  Expected whole = {expected.fused, expected.fused_rows, expected.columns};
  whole.experts = expected.experts;
  ASSIGN_OR_RETURN(const GgufTensor* tensor, WholeTensor(source, whole));
  plan.slices.push_back(SliceRows(*tensor, expected.first_row, expected.rows));
  return &plan.slices.back();
}

absl::Status PlanStatics(const SourceModel& source, const Architecture& architecture,
                         const LoraSet& adapters, PackPlan& plan) {
  // Said before anything that its rows, the vocabulary, are needed for.
  if (source.FindTensor("token_embd.weight") == nullptr) {
    return absl::InvalidArgumentError("tensor token_embd.weight is missing");
  }
  for (const Expected& expected :
       ExpectedStatics(source, architecture, plan.manifest.hyper_parameters())) {
    ASSIGN_OR_RETURN(const GgufTensor* tensor, CheckedTensor(source, expected, plan));
    if (tensor == nullptr) continue;
    // Vectors are small and every reader wants them as floats; merged matrices are no longer what
    // their type can hold; the others keep it.
    const bool widen = expected.vector || adapters.Touches(tensor->name);
    const auto type = widen ? GgmlType::kF32 : static_cast<GgmlType>(tensor->type);
    store::v1::StaticTensor& entry = *plan.manifest.add_static_tensors();
    entry.set_name(expected.name);
    entry.set_type(static_cast<uint32_t>(type));
    entry.set_rows(expected.rows);
    entry.set_columns(expected.columns);
    entry.set_offset(RoundUp(plan.static_bytes, kStaticAlign));
    entry.set_bytes(expected.rows * StaticRowBytes(type, expected.columns));
    plan.static_bytes = entry.offset() + entry.bytes();
    plan.statics.push_back(tensor);
  }
  return absl::OkStatus();
}

// Rows [first, first + rows) of the tensor `name`, which holds `experts` matrices of `all_rows`.
absl::StatusOr<const GgufTensor*> PartOf(const SourceModel& source, const std::string& name,
                                         uint64_t columns, uint64_t all_rows, uint64_t experts,
                                         uint64_t first, uint64_t rows, PackPlan& plan) {
  Expected part = {name, rows, columns};
  part.fused = name;
  part.fused_rows = all_rows;
  part.first_row = first;
  part.experts = experts;
  return CheckedTensor(source, part, plan);
}

absl::Status PlanPlainLayer(const SourceModel& source, const Architecture& architecture,
                            const std::string& prefix, PackPlan& plan) {
  const HyperParameters& hp = plan.manifest.hyper_parameters();
  const uint64_t hidden = hp.hidden_size(), intermediate = hp.intermediate_size();
  Expected gate = {prefix + "ffn_gate.weight", intermediate, hidden};
  Expected up = {prefix + "ffn_up.weight", intermediate, hidden};
  if (architecture.fused && source.FindTensor(gate.name) == nullptr) {
    for (Expected* half : {&gate, &up}) {
      half->fused = up.name;
      half->fused_rows = 2 * intermediate;
    }
    up.first_row = intermediate;
  }
  const Expected down = {prefix + "ffn_down.weight", hidden, intermediate};
  LayerMatrices matrices;
  ASSIGN_OR_RETURN(matrices.gate, CheckedTensor(source, gate, plan));
  ASSIGN_OR_RETURN(matrices.up, CheckedTensor(source, up, plan));
  ASSIGN_OR_RETURN(matrices.down, CheckedTensor(source, down, plan));
  plan.layers.push_back(matrices);
  return absl::OkStatus();
}

// Matrix `name` of expert e: a part of the tensor that holds those of all experts or, in old files
// and Hugging Face folders, a tensor of its own.
absl::StatusOr<const GgufTensor*> ExpertMatrix(const SourceModel& source, const std::string& name,
                                               uint64_t e, uint64_t rows, uint64_t columns,
                                               PackPlan& plan) {
  const uint64_t experts = plan.manifest.hyper_parameters().expert_count();
  const std::string together = absl::StrCat(name, "_exps.weight");
  const auto alone = [&](uint64_t i) { return absl::StrCat(name, ".", i, ".weight"); };
  if (source.FindTensor(together) == nullptr && source.FindTensor(alone(0)) != nullptr) {
    return CheckedTensor(source, {alone(e), rows, columns}, plan);
  }
  return PartOf(source, together, columns, rows, experts, e * rows, rows, plan);
}

absl::Status PlanExperts(const SourceModel& source, const std::string& prefix, PackPlan& plan) {
  const HyperParameters& hp = plan.manifest.hyper_parameters();
  const uint64_t hidden = hp.hidden_size(), width = hp.intermediate_size();
  const uint64_t shared = hp.shared_experts();
  for (uint64_t e = 0; e < hp.expert_count(); ++e) {
    LayerMatrices expert;
    ASSIGN_OR_RETURN(expert.gate,
                     ExpertMatrix(source, prefix + "ffn_gate", e, width, hidden, plan));
    ASSIGN_OR_RETURN(expert.up, ExpertMatrix(source, prefix + "ffn_up", e, width, hidden, plan));
    ASSIGN_OR_RETURN(expert.down,
                     ExpertMatrix(source, prefix + "ffn_down", e, hidden, width, plan));
    plan.layers.push_back(expert);
  }
  const auto slice_of = [&](const char* name, uint64_t e) {
    return PartOf(source, prefix + name, hidden, shared * width, 1, e * width, width, plan);
  };
  for (uint64_t e = 0; e < shared; ++e) {
    LayerMatrices slice;
    ASSIGN_OR_RETURN(slice.gate, slice_of("ffn_gate_shexp.weight", e));
    ASSIGN_OR_RETURN(slice.up, slice_of("ffn_up_shexp.weight", e));
    if (e == 0) {
      ASSIGN_OR_RETURN(
          slice.down,
          CheckedTensor(source, {prefix + "ffn_down_shexp.weight", hidden, shared * width}, plan));
    }
    plan.layers.push_back(slice);
  }
  return absl::OkStatus();
}

absl::Status PlanLayers(const SourceModel& source, const Architecture& architecture,
                        PackPlan& plan) {
  const HyperParameters& hp = plan.manifest.hyper_parameters();
  for (uint32_t layer = 0; layer < hp.layer_count(); ++layer) {
    const std::string prefix = absl::StrCat("blk.", layer, ".");
    RETURN_IF_ERROR(hp.expert_count() > 0 ? PlanExperts(source, prefix, plan)
                                          : PlanPlainLayer(source, architecture, prefix, plan));
    plan.manifest.add_layers();
  }
  return absl::OkStatus();
}

// Calls use(matrix) with every MLP matrix.
template <typename Use>
void ForEachMatrix(const PackPlan& plan, const Use& use) {
  for (const LayerMatrices& layer : plan.layers) {
    for (const GgufTensor* matrix : {layer.gate, layer.up, layer.down}) {
      if (matrix != nullptr) use(*matrix);
    }
  }
}

// A tensor that nobody reads would change the model's answers silently.
absl::Status RejectOtherTensors(const SourceModel& source, const Architecture& architecture,
                                const PackPlan& plan) {
  std::set<std::string_view> known;  // by name: a slice has that of the whole
  for (const GgufTensor* tensor : plan.statics) known.insert(tensor->name);
  ForEachMatrix(plan, [&](const GgufTensor& matrix) { known.insert(matrix.name); });
  for (const GgufTensor& tensor : source.tensors()) {
    // Tables of rotation frequencies in very old files: derived from the metadata, never weights.
    if (known.count(tensor.name) != 0 || absl::EndsWith(tensor.name, ".attn_rot_embd.weight"))
      continue;
    return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " is not part of a ",
                                                   std::string(architecture.name),
                                                   " model as this release knows it"));
  }
  return absl::OkStatus();
}

// `matrices` names those whose columns the units hold.
absl::Status CheckGroups(UnitEncoding encoding, uint64_t elements, const char* matrices) {
  if (!IsGrouped(encoding) || elements % kQuantGroup == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "columns of ", matrices, " have ", elements, " elements, not a multiple of the ", kQuantGroup,
      " that ", std::string(UnitEncodingName(encoding)), " groups; use --units f16"));
}

// Hidden units, which are many and small beside what a request costs, share blocks as far as a
// layer keeps enough of them to choose among. Input units lose too much accuracy by it
// (docs/decisions/0004).
uint64_t UsualUnitsPerBlock(UnitKind kind, uint64_t unit_bytes, uint32_t units) {
  constexpr uint64_t kSmallUnitBytes = 12 * kKiB;
  constexpr uint64_t kSharingMax = 8;
  constexpr uint64_t kLeastBlocks = 256;
  if (kind == UnitKind::kInput || unit_bytes > kSmallUnitBytes) return 1;
  return std::clamp<uint64_t>(units / kLeastBlocks, 1, kSharingMax);
}

// `units`: of one expert. A block holds units of one expert only.
absl::StatusOr<UnitLayout> PlanUnits(const PackOptions& options, UnitKind kind,
                                     uint64_t block_bytes, uint32_t units, uint32_t columns,
                                     uint32_t elements, uint32_t experts) {
  const uint64_t unit_bytes = columns * ColumnBytes(options.units, elements);
  if (RoundUp(unit_bytes, kPageBytes) > kMaxBlockBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("one unit takes ", FormatBytes(unit_bytes), ", a block at most ",
                     FormatBytes(kMaxBlockBytes), "; use narrower units"));
  }
  if (uint64_t{experts} * units > kMaxUnits) {
    return absl::InvalidArgumentError(absl::StrCat(experts, " experts of ", units,
                                                   " units each in a layer, at most ", kMaxUnits,
                                                   " units are supported"));
  }
  const uint64_t shared = UsualUnitsPerBlock(kind, unit_bytes, units);
  const uint64_t usual = options.one_unit_per_block ? RoundUp(unit_bytes, kPageBytes)
                                                    : RoundUp(shared * unit_bytes, kSectorBytes);
  uint64_t block = block_bytes == 0 ? usual : block_bytes;
  uint64_t fitting = options.one_unit_per_block ? 1 : block / unit_bytes;
  fitting = std::min<uint64_t>({fitting, units, kMaxUnitsPerBlock});
  if (experts > 1) {
    while (units % fitting != 0) --fitting;
    if (block_bytes == 0 && !options.one_unit_per_block) {
      block = RoundUp(fitting * unit_bytes, kSectorBytes);
    }
  }
  UnitLayout layout;
  layout.set_unit_count(experts * units);
  layout.set_columns_per_unit(columns);
  layout.set_column_elements(elements);
  layout.set_unit_bytes(static_cast<uint32_t>(unit_bytes));
  layout.set_units_per_block(static_cast<uint32_t>(fitting));
  layout.set_block_bytes(static_cast<uint32_t>(block));
  return layout;
}

absl::Status CheckBlockBytes(const char* flag, uint64_t block, uint64_t unit_bytes) {
  if (block == 0) return absl::OkStatus();
  if (block % kSectorBytes != 0 || block > kMaxBlockBytes) {
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", block, " is not a multiple of ",
                                                   kSectorBytes, " up to ", kMaxBlockBytes));
  }
  if (block >= unit_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(flag, " ", block, " is too small: one unit takes ",
                                                 unit_bytes, " bytes; the smallest that works is ",
                                                 RoundUp(unit_bytes, kSectorBytes)));
}

absl::Status PlanGeometry(const PackOptions& options, PackPlan& plan) {
  const HyperParameters& hp = plan.manifest.hyper_parameters();
  const uint32_t hidden = hp.hidden_size(), intermediate = hp.intermediate_size();
  RETURN_IF_ERROR(
      CheckGroups(options.units, intermediate, "blk.*.ffn_gate.weight and blk.*.ffn_up.weight"));
  RETURN_IF_ERROR(CheckGroups(options.units, hidden, "blk.*.ffn_down.weight"));
  const uint64_t input_block = options.block_bytes;
  const uint64_t hidden_block =
      options.hidden_block_bytes != 0 ? options.hidden_block_bytes : options.block_bytes;
  const char* const hidden_flag =
      options.hidden_block_bytes != 0 ? "--hidden-block-bytes" : "--block-bytes";
  RETURN_IF_ERROR(
      CheckBlockBytes("--block-bytes", input_block, 2 * ColumnBytes(options.units, intermediate)));
  RETURN_IF_ERROR(CheckBlockBytes(hidden_flag, hidden_block, ColumnBytes(options.units, hidden)));
  plan.manifest.set_unit_encoding(static_cast<uint32_t>(options.units));
  const uint32_t experts = ExpertSlots(hp);
  ASSIGN_OR_RETURN(
      *plan.manifest.mutable_input_units(),
      PlanUnits(options, UnitKind::kInput, input_block, hidden, 2, intermediate, experts));
  ASSIGN_OR_RETURN(
      *plan.manifest.mutable_hidden_units(),
      PlanUnits(options, UnitKind::kHidden, hidden_block, intermediate, 1, hidden, experts));
  ASSIGN_OR_RETURN(plan.geometry, GeometryFromManifest(plan.manifest));
  return absl::OkStatus();
}

// Types of the matrices, the one with the most bytes first.
std::string MatrixTypes(const PackPlan& plan) {
  std::map<std::string, uint64_t> bytes;
  const auto add = [&](const GgufTensor* tensor) {
    if (tensor->rows() > 1) bytes[GgmlTypeName(tensor->type)] += tensor->bytes;
  };
  for (const GgufTensor* tensor : plan.statics) add(tensor);
  ForEachMatrix(plan, [&](const GgufTensor& matrix) { add(&matrix); });
  std::vector<std::pair<uint64_t, std::string>> order;
  for (const auto& [type, size] : bytes) order.emplace_back(size, type);
  std::sort(order.rbegin(), order.rend());
  return absl::StrJoin(order, " ",
                       [](std::string* out, const auto& entry) { *out += entry.second; });
}

absl::Status FillDescription(const SourceModel& source, const Architecture& architecture,
                             const LoraSet& adapters, PackPlan& plan) {
  const std::filesystem::path path(source.path());
  auto name = source.GetString("general.name");
  plan.manifest.set_model_name(
      Printable(name.ok() && !name->empty() ? *name : path.stem().string(), kMaxModelNameBytes));
  plan.manifest.set_architecture(std::string(architecture.name));
  if (source.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(*plan.manifest.mutable_chat_template(),
                     source.GetString("tokenizer.chat_template"));
  }
  if (!IsValidUtf8(plan.manifest.chat_template())) {
    return absl::InvalidArgumentError("metadata key tokenizer.chat_template is not UTF-8");
  }
  ASSIGN_OR_RETURN(*plan.manifest.mutable_tokenizer(), TokenizerOf(source));
  store::v1::Tokenizer& tokenizer = *plan.manifest.mutable_tokenizer();
  if (tokenizer.model() != "llama" && tokenizer.model() != "gpt2") {
    return absl::InvalidArgumentError(
        absl::StrCat("tokenizer '", tokenizer.model(), "' is not supported; 'llama' ",
                     "(SentencePiece) and 'gpt2' (byte-level BPE) are"));
  }
  RETURN_IF_ERROR(DropTokensBehind(plan.manifest.hyper_parameters().embedding_rows(), tokenizer));
  store::v1::Source& from = *plan.manifest.mutable_source();
  from.set_file_name(Printable(path.filename().string(), kMaxModelNameBytes));
  from.mutable_adapters()->Assign(adapters.names().begin(), adapters.names().end());
  from.set_file_bytes(source.file_bytes());
  from.set_matrix_types(MatrixTypes(plan));
  from.set_packed_by(TIDEGATE_VERSION);
  return absl::OkStatus();
}

bool AnyRowQuantised(const PackPlan& plan) {
  bool any = false;
  ForEachMatrix(plan, [&](const GgufTensor& matrix) {
    any |= GgmlBlockElements(static_cast<GgmlType>(matrix.type)) > 1;
  });
  return any;
}

}  // namespace

absl::StatusOr<PackPlan> PlanPack(const SourceModel& source, const PackOptions& options,
                                  const LoraSet* adapters) {
  static const LoraSet& kNone = *new LoraSet;
  const LoraSet& merged = adapters == nullptr ? kNone : *adapters;
  PackPlan plan;
  if (source.GetString("general.type").value_or("") == "adapter") {
    return absl::InvalidArgumentError(
        "this is an adapter, which changes a model, not a model of its own; see --lora");
  }
  ASSIGN_OR_RETURN(const Architecture* architecture, ArchitectureOf(source));
  ASSIGN_OR_RETURN(*plan.manifest.mutable_hyper_parameters(), HyperParametersOf(source));
  if (source.tensors().empty()) {
    return absl::InvalidArgumentError("the file has no tensors, only a vocabulary");
  }
  RETURN_IF_ERROR(PlanStatics(source, *architecture, merged, plan));
  RETURN_IF_ERROR(PlanLayers(source, *architecture, plan));
  RETURN_IF_ERROR(RejectOtherTensors(source, *architecture, plan));
  RETURN_IF_ERROR(FillDescription(source, *architecture, merged, plan));
  RETURN_IF_ERROR(PlanGeometry(options, plan));
  if (options.profile.has_value()) {
    RETURN_IF_ERROR(CheckProfileModel(*options.profile, plan.manifest));
    *plan.manifest.mutable_profile() = *options.profile;
  }
  plan.requantised = IsGrouped(options.units) && AnyRowQuantised(plan);
  return plan;
}

}  // namespace tidegate
