#include "proto/gguf/lora_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/numbers.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "proto/gguf/finite.h"
#include "proto/gguf/ggml_type.h"
#include "proto/gguf/gguf_reader.h"

namespace tidegate {
namespace {

constexpr uint64_t kMaxRank = 4096;
constexpr char kLoraExample[] = "; write FILE or FILE=SCALE, for example adapter.gguf=0.5";
constexpr double kMaxFactor = 1e6;  // sane ones are near 1; products must stay finite
constexpr uint64_t kReadChunkBytes = 1 << 20;

template <typename T>
const T* FindValue(const ModelParts& parts, const char* key) {
  const auto found = parts.metadata.find(key);
  return found == parts.metadata.end() ? nullptr : std::get_if<T>(&found->second);
}

// alpha of a LoRA adapter for the model; 0 means that no alpha was recorded.
absl::StatusOr<double> CheckedAlpha(const ModelParts& parts, const std::string& architecture) {
  const auto* type = FindValue<std::string>(parts, "adapter.type");
  if (type == nullptr || *type != "lora") {
    return absl::InvalidArgumentError(
        "not a LoRA adapter (metadata key adapter.type is not 'lora')");
  }
  const auto* found = FindValue<std::string>(parts, "general.architecture");
  if (found == nullptr || *found != architecture) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the adapter is for '", found == nullptr ? "" : Printable(*found),
        "' models, this model is '", architecture, "'; give one that was trained for it"));
  }
  if (parts.metadata.count("adapter.lora.alpha") == 0) return 0.0;
  const auto* alpha = FindValue<double>(parts, "adapter.lora.alpha");
  if (alpha != nullptr && std::isfinite(*alpha)) return *alpha;
  return absl::InvalidArgumentError("metadata key adapter.lora.alpha is not a finite number");
}

absl::Status CheckFactors(const LoraFile::Pair& pair) {
  if (pair.rank() > kMaxRank || pair.b.columns() != pair.rank()) {
    return absl::InvalidArgumentError(
        absl::StrCat("its ", pair.target, ".lora_a [", pair.rank(), ", ", pair.a.columns(),
                     "] and .lora_b [", pair.b.rows(), ", ", pair.b.columns(),
                     "] do not fit each other, or have a rank above ", kMaxRank));
  }
  for (const GgufTensor* factor : {&pair.a, &pair.b}) {
    RETURN_IF_ERROR(Annotate(ToGgmlType(factor->type).status(), factor->name));
  }
  return absl::OkStatus();
}

// The file's pairs but for their factors, in the order of its tensors.
absl::StatusOr<std::vector<LoraFile::Pair>> PairsOf(const std::vector<GgufTensor>& tensors) {
  std::map<std::string, const GgufTensor*> by_name;
  for (const GgufTensor& tensor : tensors) {
    if (!by_name.emplace(tensor.name, &tensor).second) {
      return absl::DataLossError(
          absl::StrCat("damaged: tensor ", Printable(tensor.name), " appears twice"));
    }
  }
  std::vector<LoraFile::Pair> pairs;
  for (const GgufTensor& tensor : tensors) {
    std::string target(absl::StripSuffix(tensor.name, ".lora_a"));
    if (target == tensor.name) {
      target = std::string(absl::StripSuffix(tensor.name, ".lora_b"));
      if (target != tensor.name && by_name.count(target + ".lora_a") != 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Printable(tensor.name), " is not half of a pair"));
    }
    const auto b = by_name.find(target + ".lora_b");
    if (b == by_name.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Printable(target), ".lora_b is missing"));
    }
    pairs.push_back({.target = target, .a = tensor, .b = *b->second});
    RETURN_IF_ERROR(CheckFactors(pairs.back()));
  }
  return pairs;
}

}  // namespace

absl::StatusOr<LoraSource> ParseLoraSource(const std::string& text) {
  const size_t equals = text.rfind('=');
  LoraSource source;
  source.path = text.substr(0, equals);
  if (source.path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(text), " names no file", kLoraExample));
  }
  if (equals == std::string::npos) return source;
  constexpr double kMax = std::numeric_limits<float>::max();
  const auto scale = ParseReal(std::string_view(text).substr(equals + 1), {-kMax, kMax});
  if (!scale.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(text), ": the scale ", scale.status().message(), kLoraExample));
  }
  source.scale = static_cast<float>(*scale);
  return source;
}

std::string LoraName(const LoraSource& source) {
  const std::string name = std::filesystem::path(source.path).filename().string();
  return absl::StrCat(Printable(name), "=", source.scale);
}

absl::StatusOr<LoraFile> LoraFile::Open(const LoraSource& source, const std::string& architecture) {
  if (!std::isfinite(source.scale))
    return absl::InvalidArgumentError("the scale is not a finite number");
  ASSIGN_OR_RETURN(ModelParts parts, ReadGguf(source.path));
  ASSIGN_OR_RETURN(const double alpha, CheckedAlpha(parts, architecture));
  LoraFile file;
  ASSIGN_OR_RETURN(file.pairs_, PairsOf(parts.tensors));
  if (file.pairs_.empty()) return absl::InvalidArgumentError("the adapter holds no tensors");
  for (Pair& pair : file.pairs_) {
    const double factor =
        alpha == 0 ? source.scale : source.scale * alpha / static_cast<double>(pair.rank());
    if (!(std::fabs(factor) <= kMaxFactor)) {
      return absl::InvalidArgumentError(
          absl::StrCat("scale ", source.scale, ", with alpha ", alpha, " and rank ", pair.rank(),
                       ", multiplies ", pair.target, " by ", factor, ", at most ", kMaxFactor,
                       " is possible; give a smaller scale"));
    }
    pair.factor = static_cast<float>(factor);
  }
  file.fd_ = std::move(parts.files.front());
  file.description_ =
      absl::StrCat(std::filesystem::path(source.path).filename().string(), " x ", source.scale);
  return file;
}

absl::Status LoraFile::ReadRows(const GgufTensor& factor, uint64_t first, uint64_t count,
                                float* out) const {
  const auto type = static_cast<GgmlType>(factor.type);
  const uint64_t columns = factor.columns(), row_bytes = GgmlRowBytes(type, columns);
  const uint64_t step = std::clamp<uint64_t>(kReadChunkBytes / row_bytes, 1, count);
  std::vector<uint8_t> raw(step * row_bytes);
  for (uint64_t row = 0; row < count; row += step) {
    const uint64_t n = std::min(step, count - row);
    const absl::Status read =
        ReadAt(fd_.get(), factor.offset + (first + row) * row_bytes, raw.data(), n * row_bytes);
    RETURN_IF_ERROR(Annotate(read, factor.name));
    DecodeGgmlRow(type, raw.data(), n * columns, out + row * columns);
    if (const auto bad = FirstNotFinite({out + row * columns, n * columns})) {
      return absl::DataLossError(
          absl::StrCat("tensor ", Printable(factor.name), ": row ", first + row + *bad / columns,
                       ", column ", *bad % columns, " is ", out[row * columns + *bad],
                       ", not a finite number; copy or download the adapter again"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLoraLayer(const LoraFile::Pair& pair, uint64_t layers) {
  absl::string_view rest = pair.target;
  uint64_t layer = 0;
  if (!absl::ConsumePrefix(&rest, "blk.") ||
      !absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer) || layer < layers) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "it changes ", Printable(pair.target), ": the adapter has a layer ", layer,
      ", the model only ", layers, " layers, counted from 0; give one that was trained for it"));
}

absl::Status CheckLoraShape(const LoraFile::Pair& pair, uint64_t rows, uint64_t columns) {
  if (pair.a.columns() == columns && pair.b.rows() == rows) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("its ", pair.target, ".lora_a [", pair.rank(), ", ", pair.a.columns(),
                   "] and .lora_b [", pair.b.rows(), ", ", pair.b.columns(),
                   "] do not fit the model's [", rows, ", ", columns, "]"));
}

}  // namespace tidegate
