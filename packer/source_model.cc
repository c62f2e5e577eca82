#include "packer/source_model.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "packer/gguf_split.h"
#include "packer/hf_folder.h"
#include "proto/gguf/gguf_reader.h"

namespace tidegate {
namespace {

constexpr uint64_t kReadChunkBytes = 1 << 20;

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat("damaged: ", what, "; copy or download it again"));
}

const char* TypeText(const GgufValue& value) {
  static constexpr const char* kNames[] = {"an unsigned integer",
                                           "a signed integer",
                                           "a number",
                                           "a truth value",
                                           "a text",
                                           "an array of unsigned integers",
                                           "an array of signed integers",
                                           "an array of numbers",
                                           "an array of truth values",
                                           "an array of texts"};
  static_assert(std::size(kNames) == std::variant_size_v<GgufValue>);
  return kNames[value.index()];
}

absl::Status WrongType(const std::string& key, const GgufValue& value, const char* wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat("metadata key ", key, " is ", TypeText(value), ", not ", wanted));
}

absl::StatusOr<const GgufValue*> FindValue(const std::map<std::string, GgufValue>& metadata,
                                           const std::string& key) {
  const auto found = metadata.find(key);
  if (found == metadata.end())
    return absl::NotFoundError(absl::StrCat("metadata key ", key, " is missing"));
  return &found->second;
}

uint64_t UintOr(const ModelParts& parts, const char* key, uint64_t fallback) {
  const auto found = parts.metadata.find(key);
  if (found == parts.metadata.end()) return fallback;
  const auto* value = std::get_if<uint64_t>(&found->second);
  return value != nullptr ? *value : fallback;
}

// Appends the tensors of file `number` of a split model.
absl::Status AddSplit(ModelParts from, uint64_t number, uint64_t count, ModelParts& to) {
  if (UintOr(from, "split.no", 0) != number || UintOr(from, "split.count", 1) != count) {
    return absl::InvalidArgumentError(absl::StrCat(
        from.path, " is not file ", number + 1, " of ", count,
        " of this split model (metadata keys split.no and split.count); it belongs to another"));
  }
  for (GgufTensor& tensor : from.tensors) {
    tensor.file = static_cast<uint32_t>(to.files.size());
    to.tensors.push_back(std::move(tensor));
  }
  to.files.push_back(std::move(from.files.front()));
  to.file_bytes += from.file_bytes;
  return absl::OkStatus();
}

// All files of the model that `path` is one of. The first one has the metadata.
absl::StatusOr<ModelParts> OpenSplit(const std::string& path, uint64_t count) {
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, SplitPaths(path, count));
  ModelParts whole;
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(ModelParts part, ReadGguf(paths[i]));
    if (i == 0) {
      whole.path = part.path;
      whole.version = part.version;
      whole.metadata = part.metadata;
    }
    RETURN_IF_ERROR(AddSplit(std::move(part), i, count, whole));
  }
  // They describe the files, not the model.
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) {
    whole.metadata.erase(key);
  }
  return whole;
}

// Where row r of GGUF's order lies: GGUF has the elements that are rotated together side by side,
// Hugging Face in the two halves of a head.
uint64_t SourceRow(const GgufTensor& tensor, uint64_t r) {
  if (tensor.head_rows == 0) return r;
  const uint64_t in_head = r % tensor.head_rows;
  return r - in_head + in_head % 2 * (tensor.head_rows / 2) + in_head / 2;
}

// What another format's values need to become GGUF's, once they are floats.
void Translate(const GgufTensor& tensor, uint64_t floats, float* out) {
  if (!tensor.translated()) return;
  if (tensor.plus != 0) {
    for (uint64_t i = 0; i < floats; ++i) out[i] += tensor.plus;
  }
  if (tensor.head_rows == 0 || tensor.dims.size() > 1) return;
  const std::vector<float> values(out, out + floats);
  for (uint64_t i = 0; i < floats; ++i) out[i] = values[SourceRow(tensor, i)];
}

}  // namespace

absl::StatusOr<SourceModel> SourceModel::Open(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    ASSIGN_OR_RETURN(ModelParts parts, ReadHuggingFaceFolder(path));
    return FromParts(std::move(parts));
  }
  ASSIGN_OR_RETURN(ModelParts parts, ReadGguf(path));
  const uint64_t count = UintOr(parts, "split.count", 1);
  if (count > 1) {
    ASSIGN_OR_RETURN(parts, OpenSplit(path, count));
  }
  return FromParts(std::move(parts));
}

absl::StatusOr<SourceModel> SourceModel::FromParts(ModelParts parts) {
  SourceModel file;
  file.parts_ = std::move(parts);
  for (const UniqueFd& fd : file.parts_.files) file.direct_.emplace_back(fd.get(), O_RDONLY);
  const std::vector<GgufTensor>& tensors = file.parts_.tensors;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!file.tensor_index_.emplace(tensors[i].name, i).second) {
      return Annotate(
          Damaged(absl::StrCat("tensor ", Printable(tensors[i].name), " appears twice")),
          file.path());
    }
  }
  return file;
}

GgufTensor SliceRows(const GgufTensor& tensor, uint64_t first, uint64_t count) {
  const uint64_t row_bytes = tensor.bytes / tensor.rows();
  GgufTensor slice = tensor;
  slice.dims = {tensor.columns(), count};
  slice.offset += first * row_bytes;
  slice.bytes = count * row_bytes;
  slice.first_row += first;
  return slice;
}

absl::StatusOr<std::string> SourceModel::GetString(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(parts_.metadata, key));
  const auto* text = std::get_if<std::string>(value);
  if (text == nullptr) return WrongType(key, *value, "a text");
  return *text;
}

absl::StatusOr<uint64_t> SourceModel::GetUint(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(parts_.metadata, key));
  if (const auto* number = std::get_if<uint64_t>(value)) return *number;
  if (const auto* number = std::get_if<int64_t>(value)) {
    if (*number >= 0) return static_cast<uint64_t>(*number);
    return absl::InvalidArgumentError(
        absl::StrCat("metadata key ", key, " is negative: ", *number));
  }
  return WrongType(key, *value, "an unsigned integer");
}

absl::StatusOr<double> SourceModel::GetNumber(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(parts_.metadata, key));
  if (const auto* number = std::get_if<double>(value)) return *number;
  if (const auto* number = std::get_if<uint64_t>(value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<int64_t>(value)) return static_cast<double>(*number);
  return WrongType(key, *value, "a number");
}

absl::StatusOr<bool> SourceModel::GetBool(const std::string& key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, FindValue(parts_.metadata, key));
  const auto* truth = std::get_if<bool>(value);
  if (truth == nullptr) return WrongType(key, *value, "a truth value");
  return *truth;
}

const GgufTensor* SourceModel::FindTensor(const std::string& name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &parts_.tensors[found->second];
}

absl::Status SourceModel::ReadRows(const GgufTensor& tensor, uint64_t first, uint64_t count,
                                   float* out) const {
  const auto type = ToGgmlType(tensor.type);
  if (!type.ok()) return Annotate(type.status(), tensor.name);
  if (first > tensor.rows() || count > tensor.rows() - first) {
    return absl::OutOfRangeError(
        absl::StrCat(tensor.name, ": rows ", first, " + ", count, " of ", tensor.rows()));
  }
  const uint64_t columns = tensor.columns();
  const uint64_t row_bytes = GgmlRowBytes(*type, columns);
  const uint64_t chunk_rows = std::max<uint64_t>(1, kReadChunkBytes / row_bytes);
  std::vector<uint8_t> raw(std::min(chunk_rows, count) * row_bytes);
  for (uint64_t done = 0; done < count; done += chunk_rows) {
    const uint64_t rows = std::min(chunk_rows, count - done);
    RETURN_IF_ERROR(ReadBytes(tensor, (first + done) * row_bytes, rows * row_bytes, raw.data()));
    // Rows follow each other without gaps, and are whole blocks: one call decodes them all.
    DecodeGgmlRow(*type, raw.data(), rows * columns, out + done * columns);
  }
  Translate(tensor, count * columns, out);
  return absl::OkStatus();
}

absl::Status SourceModel::CheckRange(const GgufTensor& tensor, uint64_t offset, uint64_t bytes) {
  if (offset <= tensor.bytes && bytes <= tensor.bytes - offset) return absl::OkStatus();
  return absl::OutOfRangeError(
      absl::StrCat(tensor.name, ": bytes ", offset, " + ", bytes, " of ", tensor.bytes));
}

absl::Status SourceModel::ReadBytes(const GgufTensor& tensor, uint64_t offset, uint64_t bytes,
                                    void* out) const {
  RETURN_IF_ERROR(CheckRange(tensor, offset, bytes));
  const uint64_t row_bytes = tensor.bytes / tensor.rows();
  if (tensor.head_rows == 0 || tensor.rows() == 1) return ReadRange(tensor, offset, bytes, out);
  CHECK(offset % row_bytes == 0 && bytes % row_bytes == 0);
  for (uint64_t done = 0; done < bytes; done += row_bytes) {
    const uint64_t row = SourceRow(tensor, (offset + done) / row_bytes);
    RETURN_IF_ERROR(
        ReadRange(tensor, row * row_bytes, row_bytes, static_cast<uint8_t*>(out) + done));
  }
  return absl::OkStatus();
}

absl::StatusOr<const uint8_t*> SourceModel::ReadBytes(const GgufTensor& tensor, uint64_t offset,
                                                      uint64_t bytes, AlignedBuffer& buffer) const {
  RETURN_IF_ERROR(CheckRange(tensor, offset, bytes));
  if (tensor.head_rows != 0) {
    RETURN_IF_ERROR(buffer.Reserve(bytes));
    RETURN_IF_ERROR(ReadBytes(tensor, offset, bytes, buffer.data()));
    return buffer.data();
  }
  auto read = direct_[tensor.file].Read(tensor.offset + offset, bytes, buffer);
  if (!read.ok()) return ReadError(read.status(), tensor);
  return read;
}

absl::Status SourceModel::ReadRange(const GgufTensor& tensor, uint64_t offset, uint64_t bytes,
                                    void* out) const {
  return ReadError(ReadAt(parts_.files[tensor.file].get(), tensor.offset + offset, out, bytes),
                   tensor);
}

absl::Status SourceModel::ReadError(const absl::Status& status, const GgufTensor& tensor) const {
  if (absl::IsOutOfRange(status)) {  // It was long enough when it was opened.
    return absl::DataLossError(
        absl::StrCat(path(), ": ", tensor.name, ": the file was cut while it was read"));
  }
  return Annotate(status, absl::StrCat(path(), ": ", tensor.name));
}

}  // namespace tidegate
