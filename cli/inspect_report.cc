#include "cli/inspect_report.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/text.h"
#include "base/units.h"
#include "cli/servable.h"
#include "packer/hyper_parameters.h"
#include "packer/pack_options.h"
#include "packer/pack_plan.h"
#include "packer/source_tokenizer.h"
#include "packer/special_tokens.h"
#include "packer/weight_check.h"
#include "proto/store/v1/profile.h"
#include "weightstore/budget.h"

namespace tidegate {
namespace {

constexpr size_t kShownValueBytes = 2000;  // reasons are long, names should not be

using store::v1::HyperParameters;
using store::v1::RopeScaling;

std::string RopeScalingText(const RopeScaling& scaling) {
  std::string text = "none";
  if (scaling.kind() == RopeScaling::KIND_LINEAR) text = absl::StrCat("linear ", scaling.factor());
  if (scaling.kind() == RopeScaling::KIND_YARN) {
    text = absl::StrCat("yarn ", scaling.factor(), " beyond ", scaling.original_context());
  }
  if (scaling.kind() == RopeScaling::KIND_LONG) {
    text = absl::StrCat("other factors in contexts beyond ", scaling.original_context());
  }
  if (scaling.magnitude() > 0 && scaling.magnitude() != 1) {
    absl::StrAppend(&text, ", magnitude ", scaling.magnitude());
  }
  return text;
}

// "none", or for example "1024 on layers 0-4, 6-10".
std::string WindowsText(const HyperParameters& hp) {
  std::string layers;
  uint32_t window = 0;
  for (int layer = 0; layer < hp.windows_size(); ++layer) {
    if (hp.windows(layer) == 0) continue;
    window = hp.windows(layer);
    int last = layer;
    while (last + 1 < hp.windows_size() && hp.windows(last + 1) == window) ++last;
    absl::StrAppend(&layers, layers.empty() ? "" : ", ", layer);
    if (last > layer) absl::StrAppend(&layers, "-", last);
    layer = last;
  }
  return layers.empty() ? "none" : absl::StrCat(window, " on layers ", layers);
}

void DescribeExperts(const HyperParameters& hp, Json& out) {
  if (hp.expert_count() == 0) return;
  out["experts"] = hp.expert_count();
  out["experts_used"] = hp.experts_used();
  out["expert_weights"] = hp.normalise_expert_weights() ? "sum up to 1" : "of all experts";
  out["shared_experts"] = hp.shared_experts();
}

// What is not a size: where architectures differ.
void DescribeArithmetic(const HyperParameters& hp, Json& out) {
  const bool halves = hp.rope_pairs() == HyperParameters::ROPE_PAIRS_HALVES;
  out["rope_pairs"] = halves ? "halves" : "adjacent";
  out["rope_scaling"] = RopeScalingText(hp.rope_scaling());
  const bool own = hp.windowed_rope_base() > 0;
  if (own) out["windowed_rope_base"] = hp.windowed_rope_base();
  out["sliding_window"] = WindowsText(hp);
  const bool gelu = hp.activation() == HyperParameters::ACTIVATION_GELU_TANH;
  out["activation"] = gelu ? "gelu (tanh)" : "silu";
  out["attention_scale"] = hp.attention_scale();
  if (hp.attention_cap() > 0) out["attention_soft_cap"] = hp.attention_cap();
  if (hp.logit_cap() > 0) out["logit_soft_cap"] = hp.logit_cap();
  if (hp.embedding_scale() > 0) out["embedding_scale"] = hp.embedding_scale();
}

Json DescribeHyperParameters(const HyperParameters& hp, int tokens) {
  Json out = {{"layers", hp.layer_count()},
              {"hidden_size", hp.hidden_size()},
              {"intermediate_size", hp.intermediate_size()},
              {"query_heads", hp.query_heads()},
              {"kv_heads", hp.kv_heads()},
              {"head_size", hp.head_size()},
              {"vocab_size", tokens},
              {"embedding_rows", hp.embedding_rows()},
              {"context_length", hp.context_length()},
              {"rms_epsilon", hp.rms_epsilon()},
              {"rope_base", hp.rope_base()},
              {"rope_dims", hp.rope_dims()}};
  DescribeArithmetic(hp, out);
  DescribeExperts(hp, out);
  return out;
}

Json DescribeTokenizer(const store::v1::Tokenizer& tokenizer) {
  Json out = {{"model", tokenizer.model()}, {"tokens", tokenizer.tokens_size()}};
  if (!tokenizer.pre().empty()) out["pre"] = tokenizer.pre();
  if (tokenizer.merges_size() > 0) out["merges"] = tokenizer.merges_size() / 2;
  if (tokenizer.has_bos_id()) out["bos_id"] = tokenizer.bos_id();
  if (tokenizer.has_eos_id()) out["eos_id"] = tokenizer.eos_id();
  if (tokenizer.has_unknown_id()) out["unknown_id"] = tokenizer.unknown_id();
  if (tokenizer.has_eot_id()) out["eot_id"] = tokenizer.eot_id();
  out["add_bos"] = tokenizer.add_bos();
  out["add_eos"] = tokenizer.add_eos();
  out["add_space_prefix"] = tokenizer.add_space_prefix();
  if (tokenizer.promoted_ids_size() > 0) out["made_special"] = PromotedText(tokenizer);
  if (tokenizer.dropped_tokens() > 0) out["tokens_left_out"] = tokenizer.dropped_tokens();
  return out;
}

// Of a pack: special tokens that it has under another type, because an older version made it.
std::string NotMadeSpecial(const store::v1::Manifest& manifest) {
  store::v1::Tokenizer tokenizer = manifest.tokenizer();
  if (tokenizer.types_size() != tokenizer.tokens_size()) return "";
  tokenizer.clear_promoted_ids();
  MarkSpecialTokens(manifest.chat_template(), tokenizer);
  return PromotedText(tokenizer);
}

// What an engine would say. `possible`: the key that says whether it would serve.
void DescribeServing(const store::v1::Manifest& manifest, const char* possible, Json& out) {
  const absl::Status served = CheckServable(manifest), chat = CheckChatTemplate(manifest);
  out[possible] = served.ok();
  if (!served.ok()) out["why_not"] = std::string(served.message());
  if (!chat.ok()) out["chat_template_error"] = std::string(chat.message());
}

Json DescribeKind(const KindGeometry& kind, uint32_t layers) {
  const uint64_t stored = uint64_t{kind.block_count} * kind.block_bytes;
  const uint64_t used = uint64_t{kind.unit_count} * kind.unit_bytes;
  return {{"units_per_layer", kind.unit_count},
          {"unit_bytes", kind.unit_bytes},
          {"units_per_block", kind.units_per_block},
          {"block_bytes", kind.block_bytes},
          {"blocks_per_layer", kind.block_count},
          {"bytes", stored * layers},
          {"padding_fraction", static_cast<double>(stored - used) / static_cast<double>(stored)}};
}

// Whether units lie in an order of their own.
bool IsPlaced(const store::v1::Manifest& manifest) {
  return std::any_of(manifest.layers().begin(), manifest.layers().end(), [](const auto& layer) {
    return layer.input().positions_size() > 0 || layer.hidden().positions_size() > 0;
  });
}

Json DescribeStreamed(const PackGeometry& geometry, UnitEncoding encoding) {
  return {{"encoding", std::string(UnitEncodingName(encoding))},
          {"bytes", geometry.blocks_bytes()},
          {"blocks", uint64_t{geometry.layer_blocks()} * geometry.layer_count},
          {"input_units", DescribeKind(geometry.kinds[0], geometry.layer_count)},
          {"hidden_units", DescribeKind(geometry.kinds[1], geometry.layer_count)}};
}

// Mean and worst layer of one matrix's rounding error. `input`: gate or up, otherwise down.
Json DescribeError(const store::v1::Manifest& manifest, bool input, int matrix) {
  double sum = 0, worst = 0;
  int worst_layer = 0, count = 0;
  for (int layer = 0; layer < manifest.layers_size(); ++layer) {
    const auto& units = input ? manifest.layers(layer).input() : manifest.layers(layer).hidden();
    if (matrix >= units.relative_rms_errors_size()) continue;  // Optional in the format.
    const double error = units.relative_rms_errors(matrix);
    sum += error;
    ++count;
    if (error > worst) {
      worst = error;
      worst_layer = layer;
    }
  }
  return {{"mean", count > 0 ? sum / count : 0}, {"worst", worst}, {"worst_layer", worst_layer}};
}

Json TensorTypes(const SourceModel& file) {
  struct Sum {
    uint64_t tensors = 0, bytes = 0;
    bool readable = false;
  };
  std::map<std::string, Sum> types;
  for (const GgufTensor& tensor : file.tensors()) {
    Sum& sum = types[GgmlTypeName(tensor.type)];
    ++sum.tensors;
    sum.bytes += tensor.bytes;
    sum.readable = ToGgmlType(tensor.type).ok();
  }
  Json out = Json::array();
  for (const auto& [type, sum] : types) {
    out.push_back({{"type", type},
                   {"tensors", sum.tensors},
                   {"bytes", sum.bytes},
                   {"readable", sum.readable}});
  }
  return out;
}

// Types of the matrices that stay in memory.
Json ListStaticTypes(const store::v1::Manifest& manifest) {
  std::map<std::string, uint64_t> types;
  for (const store::v1::StaticTensor& tensor : manifest.static_tensors()) {
    if (tensor.rows() > 1) types[GgmlTypeName(tensor.type())] += tensor.bytes();
  }
  Json out = Json::array();
  for (const auto& [type, bytes] : types) out.push_back({{"type", type}, {"bytes", bytes}});
  return out;
}

// Every key of the architecture with a single value: for models that cannot be packed too.
Json RawParameters(const SourceModel& file, const std::string& architecture) {
  Json out = Json::object();
  for (const auto& [key, value] : file.metadata()) {
    if (!absl::StartsWith(key, architecture + ".")) continue;
    const std::string name = key.substr(architecture.size() + 1);
    std::visit(
        [&](const auto& v) {
          using T = std::decay_t<decltype(v)>;
          if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) {
            out[name] = v;
          } else {
            out[name] = absl::StrCat("[", v.size(), " values]");
          }
        },
        value);
  }
  return out;
}

std::string Format(const SourceModel& file) {
  if (file.is_folder()) return "Hugging Face folder";
  return absl::StrCat("GGUF version ", file.version(),
                      file.file_count() > 1 ? absl::StrCat(", ", file.file_count(), " files") : "");
}

Json DescribePacking(const SourceModel& file, uint64_t most_bytes, const PackProgress& progress) {
  const PackOptions options;
  const auto plan = PlanPack(file, options);
  if (!plan.ok()) return {{"possible", false}, {"why_not", std::string(plan.status().message())}};
  Json out = Json::object();
  DescribeServing(plan->manifest, "possible", out);
  if (!out["possible"].get<bool>()) return out;
  const bool vectors = WeightBytes(*plan) > most_bytes;
  if (const absl::Status weights = CheckWeights(file, *plan, vectors, progress); !weights.ok()) {
    return {{"possible", false}, {"why_not", std::string(weights.message())}};
  }
  out["static_bytes"] = plan->static_bytes;
  out["streamed"] = DescribeStreamed(plan->geometry, options.units);
  out["requantised"] = plan->requantised;
  out["weights_checked"] = vectors ? "vectors (--weights: all)" : "all";
  out["ignored_keys"] = IgnoredKeys(file);
  return out;
}

Json NamesOf(const google::protobuf::RepeatedPtrField<std::string>& names) {
  return Json(std::vector<std::string>(names.begin(), names.end()));
}

// What `tidegate profile` measured.
Json DescribeProfile(const store::v1::Manifest& manifest) {
  const store::v1::Profile& profile = manifest.profile();
  absl::Status status = CheckProfile(profile);
  if (status.ok()) status = CheckProfileModel(profile, manifest);
  if (!status.ok()) return {{"usable", false}, {"why_not", std::string(status.message())}};
  const store::v1::ProfileConditions& conditions = profile.conditions();
  Json ladder = Json::array();
  for (const store::v1::OperatingPoint& point : profile.ladder()) {
    ladder.push_back({{"point", ladder.size()},
                      {"density", point.density()},
                      {"gamma", point.gamma()},
                      {"protected_share", point.protected_share()},
                      {"by_layer", point.layer_densities_size() > 0},
                      {"perplexity_increase_fraction", point.perplexity_increase()},
                      {"flash_fraction", point.flash_share()},
                      {"flash_bytes", static_cast<uint64_t>(point.flash_bytes_per_token())}});
  }
  return {{"text", conditions.text()},
          {"tokens", conditions.final_tokens()},
          {"units", conditions.unit_encoding()},
          {"policy", conditions.policy()},
          {"adapters", NamesOf(conditions.adapters())},
          {"cache_fraction", conditions.cache_share()},
          {"input_share", conditions.input_share()},
          {"perplexity", conditions.perplexity()},
          {"ladder", ladder}};
}

std::string ScalarText(const std::string& key, const Json& value) {
  if (value.is_string()) return Printable(value.get<std::string>(), kShownValueBytes);
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (absl::EndsWith(key, "bytes") && value.is_number_unsigned()) {
    const auto bytes = value.get<uint64_t>();
    return bytes < 10 * kKiB ? absl::StrCat(bytes)
                             : absl::StrCat(bytes, " (", FormatBytes(bytes), ")");
  }
  if (absl::EndsWith(key, "fraction")) return absl::StrFormat("%.2f %%", value.get<double>() * 100);
  if (value.is_number_float()) return absl::StrFormat("%.6g", value.get<double>());
  return value.dump();
}

std::string Label(std::string key) {
  std::replace(key.begin(), key.end(), '_', ' ');
  return Printable(key);
}

void RenderObject(const Json& object, int indent, std::string& out);

void RenderArray(const Json& array, int indent, std::string& out) {
  for (const Json& row : array) {
    out += std::string(indent, ' ');
    if (!row.is_object()) {
      absl::StrAppend(&out, ScalarText("", row), "\n");
      continue;
    }
    for (const auto& [key, value] : row.items()) {
      absl::StrAppend(&out, Label(key), " ", ScalarText(key, value), "   ");
    }
    out.erase(out.find_last_not_of(' ') + 1);
    out += '\n';
  }
}

void RenderObject(const Json& object, int indent, std::string& out) {
  for (const auto& [key, value] : object.items()) {
    const std::string label = std::string(indent, ' ') + Label(key);
    if (value.is_object() || value.is_array()) {
      if (value.empty()) continue;
      absl::StrAppend(&out, label, ":\n");
      value.is_object() ? RenderObject(value, indent + 2, out)
                        : RenderArray(value, indent + 2, out);
      continue;
    }
    absl::StrAppend(&out, absl::StrFormat("%-28s ", label), ScalarText(key, value), "\n");
  }
}

}  // namespace

Json DescribeGguf(const SourceModel& file, uint64_t most_bytes, const PackProgress& progress) {
  Json out = {{"file", file.path()}, {"format", Format(file)}, {"file_bytes", file.file_bytes()}};
  const auto architecture = file.GetString("general.architecture");
  const auto name = file.GetString("general.name");
  if (name.ok()) out["model_name"] = *name;
  out["architecture"] = architecture.ok() ? *architecture : "(not given)";
  const auto tokenizer = TokenizerOf(file);
  if (const auto hp = HyperParametersOf(file); hp.ok()) {
    out["hyper_parameters"] =
        DescribeHyperParameters(*hp, tokenizer.ok() ? tokenizer->tokens_size() : 0);
  } else if (architecture.ok()) {
    out["hyper_parameters"] = RawParameters(file, *architecture);
  }
  out["tensor_types"] = TensorTypes(file);
  if (tokenizer.ok()) {
    out["tokenizer"] = DescribeTokenizer(*tokenizer);
  } else {
    out["tokenizer"] = {{"error", std::string(tokenizer.status().message())}};
  }
  out["chat_template"] = file.Has("tokenizer.chat_template");
  out["packing"] = DescribePacking(file, most_bytes, progress);
  return out;
}

Json DescribePack(const std::string& path, const PackIndex& index) {
  const store::v1::Manifest& manifest = index.manifest;
  Json statics = {{"bytes", index.header.static_bytes},
                  {"always_in_memory_bytes", LeastStaticBytes(index)},
                  {"tensors", manifest.static_tensors_size()},
                  {"types", ListStaticTypes(manifest)}};
  Json streamed =
      DescribeStreamed(index.geometry, static_cast<UnitEncoding>(manifest.unit_encoding()));
  streamed["placed_by_trace"] = IsPlaced(manifest);
  streamed["relative_rms_error"] = {{"gate", DescribeError(manifest, true, 0)},
                                    {"up", DescribeError(manifest, true, 1)},
                                    {"down", DescribeError(manifest, false, 0)}};
  Json out = {{"file", path},
              {"format", absl::StrCat("Tidegate pack version ", index.header.version)},
              {"file_bytes", index.header.file_bytes},
              {"uuid", UuidText(index.header.uuid)},
              {"model_name", manifest.model_name()},
              {"architecture", manifest.architecture()},
              {"hyper_parameters", DescribeHyperParameters(manifest.hyper_parameters(),
                                                           manifest.tokenizer().tokens_size())},
              {"static", statics},
              {"streamed", streamed},
              {"tokenizer", DescribeTokenizer(manifest.tokenizer())},
              {"chat_template", !manifest.chat_template().empty()},
              {"source",
               {{"file_name", manifest.source().file_name()},
                {"file_bytes", manifest.source().file_bytes()},
                {"matrix_types", manifest.source().matrix_types()},
                {"packed_by", manifest.source().packed_by()},
                {"adapters", NamesOf(manifest.source().adapters())}}}};
  DescribeServing(manifest, "served", out["serving"]);
  if (const std::string missed = NotMadeSpecial(manifest); !missed.empty()) {
    out["serving"]["pack_again_for_special_tokens"] = missed;
  }
  if (manifest.has_profile()) out["profile"] = DescribeProfile(manifest);
  return out;
}

Json DescribeVerification(const VerifyReport& report) {
  Json bad_blocks = Json::array();
  for (const BadBlock& bad : report.bad_blocks) {
    bad_blocks.push_back(
        {{"layer", bad.layer}, {"kind", UnitKindName(bad.kind)}, {"block", bad.block}});
  }
  return {{"blocks_read", report.blocks},
          {"static_tensors_read", report.static_tensors},
          {"intact", report.ok()},
          {"bad_blocks", bad_blocks},
          {"bad_static_tensors", report.bad_tensors}};
}

std::string RenderText(const Json& report) {
  std::string out;
  RenderObject(report, 0, out);
  return out;
}

}  // namespace tidegate
