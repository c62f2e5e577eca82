#include "packer/hf_folder.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "packer/hf_config.h"
#include "packer/json_object.h"
#include "packer/safetensors.h"

namespace tidegate {
namespace {

constexpr size_t kMaxFiles = 1024;
constexpr uint64_t kMaxTemplateBytes = 16ull << 20;
constexpr const char* kIndex = "model.safetensors.index.json";

std::string PathIn(const std::string& folder, const std::string& name) {
  return (std::filesystem::path(folder) / name).string();
}

bool Exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

// Names of the files that an index distributes the tensors to.
absl::StatusOr<std::vector<std::string>> FilesOfIndex(const std::string& path) {
  ASSIGN_OR_RETURN(const JsonObject index, JsonObject::ReadFile(path));
  ASSIGN_OR_RETURN(const JsonObject map, index.Object("weight_map"));
  std::set<std::string> names;
  for (const auto& [tensor, file] : map.value().items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!absl::EndsWith(name, ".safetensors") || name.find('/') != std::string::npos) {
      return absl::DataLossError(absl::StrCat(
          path, ": \"weight_map\" has an entry that is no name of a safetensors file"));
    }
    names.insert(name);
  }
  if (names.empty() || names.size() > kMaxFiles) {
    return absl::DataLossError(absl::StrCat(path, ": \"weight_map\" names ", names.size(),
                                            " files, 1 to ", kMaxFiles, " are supported"));
  }
  return std::vector<std::string>(names.begin(), names.end());
}

// Without an index: model.safetensors, or the only file there is.
absl::StatusOr<std::vector<std::string>> FilesWithoutIndex(const std::string& folder) {
  if (Exists(PathIn(folder, "model.safetensors")))
    return std::vector<std::string>{"model.safetensors"};
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".safetensors") names.push_back(entry.path().filename());
    if (names.size() > 1) break;
  }
  if (names.size() == 1) return names;
  return absl::NotFoundError(absl::StrCat(
      folder,
      names.empty() ? " is a folder without safetensors files" : " has several safetensors files",
      names.empty() ? "; name a GGUF file, or a folder with config.json and model.safetensors"
                    : absl::StrCat(" but no ", kIndex, ", which says what is in them")));
}

absl::StatusOr<std::vector<std::string>> WeightFiles(const std::string& folder) {
  const std::string index = PathIn(folder, kIndex);
  if (!Exists(index)) return FilesWithoutIndex(folder);
  ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesOfIndex(index));
  std::vector<std::string> missing;
  std::copy_if(names.begin(), names.end(), std::back_inserter(missing),
               [&](const std::string& name) { return !Exists(PathIn(folder, name)); });
  if (missing.empty()) return names;
  const size_t count = missing.size();
  missing.resize(std::min<size_t>(count, 5));
  return absl::NotFoundError(absl::StrCat(
      folder, ": ", count, " of ", names.size(), " files that ", kIndex,
      " names are missing: ", absl::StrJoin(missing, ", "), missing.size() < count ? ", ..." : ""));
}

absl::StatusOr<GgmlType> TypeOf(const SafetensorsEntry& entry) {
  if (entry.dtype == "F32") return GgmlType::kF32;
  if (entry.dtype == "F16") return GgmlType::kF16;
  if (entry.dtype == "BF16") return GgmlType::kBF16;
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", entry.name, " has the type ", entry.dtype,
                   ", which is not supported; F32, F16 and BF16 are"));
}

// What of a tensor is another way round than in GGUF.
absl::Status SetTranslation(const HfConfig& config, GgufTensor& tensor) {
  const bool query_or_key =
      absl::StrContains(tensor.name, ".attn_q.") || absl::StrContains(tensor.name, ".attn_k.");
  if (config.family->paired_heads && query_or_key) {
    const uint64_t rows = tensor.dims.size() == 1 ? tensor.columns() : tensor.rows();
    if (rows % config.head_rows != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", tensor.name, " has ", rows, " rows, not whole heads of ", config.head_rows));
    }
    tensor.head_rows = static_cast<uint32_t>(config.head_rows);
  }
  if (config.family->norms_plus_one && absl::EndsWith(tensor.name, "norm.weight")) tensor.plus = 1;
  return absl::OkStatus();
}

class FolderReader {
 public:
  explicit FolderReader(const std::string& folder) : folder_(folder) {}

  absl::StatusOr<ModelParts> Run() {
    parts_.path = folder_;
    ASSIGN_OR_RETURN(const std::vector<std::string> files, WeightFiles(folder_));
    ASSIGN_OR_RETURN(const JsonObject json, JsonObject::ReadFile(PathIn(folder_, "config.json")));
    ASSIGN_OR_RETURN(config_, TranslateConfig(json));
    parts_.metadata = config_.metadata;
    parts_.ignored_keys = config_.ignored_keys;
    std::error_code error;
    parts_.metadata["general.name"] =
        std::filesystem::canonical(folder_, error).filename().string();
    for (const std::string& file : files) {
      RETURN_IF_ERROR(Annotate(AddFile(PathIn(folder_, file)), PathIn(folder_, file)));
    }
    RETURN_IF_ERROR(CheckHead());
    RETURN_IF_ERROR(CheckBias());
    RETURN_IF_ERROR(AddComputedTensors());
    RETURN_IF_ERROR(AddChatTemplate());
    return std::move(parts_);
  }

 private:
  absl::Status AddFile(const std::string& path) {
    ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path));
    ASSIGN_OR_RETURN(const uint64_t bytes, FileSize(fd.get()));
    ASSIGN_OR_RETURN(const std::vector<SafetensorsEntry> entries,
                     ReadSafetensorsDirectory(fd.get(), bytes));
    for (const SafetensorsEntry& entry : entries) RETURN_IF_ERROR(AddTensor(entry));
    parts_.files.push_back(std::move(fd));
    parts_.file_bytes += bytes;
    return absl::OkStatus();
  }

  absl::Status AddTensor(const SafetensorsEntry& entry) {
    GgufTensor tensor;
    tensor.name = GgufTensorName(*config_.family, entry.name);
    if (tensor.name.empty() || (tensor.name == "output.weight" && config_.tied)) {
      return absl::OkStatus();
    }
    ASSIGN_OR_RETURN(const GgmlType type, TypeOf(entry));
    tensor.type = static_cast<uint32_t>(type);
    tensor.dims.assign(entry.shape.rbegin(), entry.shape.rend());
    if (tensor.dims.empty() || entry.bytes == 0) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", entry.name, " is empty"));
    }
    tensor.offset = entry.offset;
    tensor.bytes = entry.bytes;
    tensor.file = static_cast<uint32_t>(parts_.files.size());
    RETURN_IF_ERROR(SetTranslation(config_, tensor));
    parts_.tensors.push_back(std::move(tensor));
    return absl::OkStatus();
  }

  // A missing head means the embedding only where the file does not say otherwise.
  absl::Status CheckHead() const {
    const bool has_head = std::any_of(parts_.tensors.begin(), parts_.tensors.end(),
                                      [](const auto& t) { return t.name == "output.weight"; });
    if (has_head || config_.tied || !config_.says_tied) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        folder_, ": tensor lm_head.weight is missing, and \"tie_word_embeddings\" is false"));
  }

  // A bias that the file denies would be left out by the model's authors, and the other way round.
  absl::Status CheckBias() const {
    if (!config_.attention_bias.has_value() || config_.family->architecture.starts_with("qwen2")) {
      return absl::OkStatus();
    }
    const bool has_bias =
        std::any_of(parts_.tensors.begin(), parts_.tensors.end(), [](const auto& t) {
          return absl::EndsWith(t.name, ".attn_q.bias") || absl::EndsWith(t.name, ".attn_qkv.bias");
        });
    if (has_bias == *config_.attention_bias) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(folder_, ": \"attention_bias\" is ", has_bias ? "false" : "true",
                     ", but the folder has ", has_bias ? "" : "no ", "biases of q, k and v"));
  }

  // Tensors that GGUF has and the folder has as numbers in config.json: in a file in memory.
  absl::Status AddComputedTensors() {
    for (const auto& [name, values] : config_.tensors) {
      if (values.empty()) continue;
      UniqueFd fd(::memfd_create("tidegate", MFD_CLOEXEC));
      if (!fd.valid()) return absl::ErrnoToStatus(errno, "memfd_create");
      GgufTensor tensor;
      tensor.name = name;
      tensor.dims = {values.size()};
      tensor.bytes = values.size() * sizeof(float);
      tensor.file = static_cast<uint32_t>(parts_.files.size());
      RETURN_IF_ERROR(WriteAt(fd.get(), 0, values.data(), tensor.bytes));
      parts_.files.push_back(std::move(fd));
      parts_.tensors.push_back(std::move(tensor));
    }
    return absl::OkStatus();
  }

  // chat_template.jinja, or the text in tokenizer_config.json: one, or a list with names.
  absl::Status AddChatTemplate() {
    const std::string file = PathIn(folder_, "chat_template.jinja");
    if (Exists(file)) {
      ASSIGN_OR_RETURN(std::string text, ReadFile(file, kMaxTemplateBytes));
      parts_.metadata["tokenizer.chat_template"] = std::move(text);
      return absl::OkStatus();
    }
    const std::string path = PathIn(folder_, "tokenizer_config.json");
    if (!Exists(path)) return absl::OkStatus();
    ASSIGN_OR_RETURN(const JsonObject json, JsonObject::ReadFile(path));
    const nlohmann::json* found = json.Find("chat_template");
    if (found == nullptr) return absl::OkStatus();
    if (found->is_string()) {
      parts_.metadata["tokenizer.chat_template"] = found->get<std::string>();
      return absl::OkStatus();
    }
    for (const nlohmann::json& entry : *found) {
      if (!entry.is_object() || !entry.contains("name") || !entry.contains("template")) continue;
      if (entry["name"] != "default" || !entry["template"].is_string()) continue;
      parts_.metadata["tokenizer.chat_template"] = entry["template"].get<std::string>();
    }
    return absl::OkStatus();
  }

  const std::string folder_;
  HfConfig config_;
  ModelParts parts_;
};

}  // namespace

absl::StatusOr<ModelParts> ReadHuggingFaceFolder(const std::string& folder) {
  return FolderReader(folder).Run();
}

}  // namespace tidegate
