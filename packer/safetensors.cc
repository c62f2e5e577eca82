#include "packer/safetensors.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "base/unique_fd.h"
#include "packer/json_object.h"

namespace tidegate {
namespace {

constexpr size_t kMaxDims = 8;

absl::Status DamagedSafetensors(const std::string& what) {
  return absl::DataLossError(absl::StrCat("damaged: ", what, "; copy or download it again"));
}

// Bytes of one element, 0 for types that are not known.
uint64_t ElementBytes(std::string_view dtype) {
  static constexpr std::pair<std::string_view, uint64_t> kSizes[] = {
      {"F32", 4}, {"F16", 2}, {"BF16", 2},    {"F64", 8},     {"I64", 8},
      {"I32", 4}, {"I16", 2}, {"I8", 1},      {"U64", 8},     {"U32", 4},
      {"U16", 2}, {"U8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"BOOL", 1}};
  for (const auto& [name, bytes] : kSizes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

// Numbers of an array with at most `limit` entries.
absl::StatusOr<std::vector<uint64_t>> Numbers(const JsonObject& entry, const char* key,
                                              size_t limit) {
  const nlohmann::json* found = entry.Find(key);
  std::vector<uint64_t> numbers;
  if (found == nullptr || !found->is_array() || found->size() > limit) {
    return DamagedSafetensors(absl::StrCat(entry.where(), " has no usable ", key));
  }
  for (const nlohmann::json& number : *found) {
    if (!number.is_number_unsigned()) {
      return DamagedSafetensors(absl::StrCat(entry.where(), " has no usable ", key));
    }
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

// `data_start` and `data_bytes`: where the data lies in the file.
absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const JsonObject& json,
                                            uint64_t data_start, uint64_t data_bytes) {
  SafetensorsEntry entry;
  entry.name = name;
  ASSIGN_OR_RETURN(entry.dtype, json.String("dtype"));
  ASSIGN_OR_RETURN(entry.shape, Numbers(json, "shape", kMaxDims));
  ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets, Numbers(json, "data_offsets", 2));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return DamagedSafetensors(absl::StrCat(json.where(), " has impossible offsets"));
  }
  if (offsets[1] > data_bytes) {
    return absl::DataLossError(absl::StrCat("truncated: ", json.where(), " ends at byte ",
                                            offsets[1], " of the data, the file has ", data_bytes,
                                            "; copy or download it again"));
  }
  entry.offset = data_start + offsets[0];
  entry.bytes = offsets[1] - offsets[0];
  const uint64_t element = ElementBytes(entry.dtype);
  uint64_t expected = element;
  for (const uint64_t n : entry.shape) {
    if (n != 0 && expected > std::numeric_limits<uint64_t>::max() / n) {
      return DamagedSafetensors(absl::StrCat(json.where(), " has an impossible shape"));
    }
    expected *= n;
  }
  if (element != 0 && expected != entry.bytes) {
    return DamagedSafetensors(
        absl::StrCat(json.where(), " has ", entry.bytes, " bytes, its shape needs ", expected));
  }
  return entry;
}

}  // namespace

absl::StatusOr<std::vector<SafetensorsEntry>> ReadSafetensorsDirectory(int fd,
                                                                       uint64_t file_bytes) {
  uint64_t header_bytes = 0;
  if (file_bytes < sizeof(header_bytes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("not a safetensors file: ", file_bytes, " bytes is too short"));
  }
  RETURN_IF_ERROR(ReadAt(fd, 0, &header_bytes, sizeof(header_bytes)));
  if (header_bytes > kMaxJsonBytes) {
    return absl::InvalidArgumentError(absl::StrCat("not a safetensors file: a header of ",
                                                   header_bytes, " bytes, at most ", kMaxJsonBytes,
                                                   " are read"));
  }
  if (header_bytes > file_bytes - sizeof(header_bytes)) {
    return absl::DataLossError(
        absl::StrCat("truncated: the file ends after ", file_bytes,
                     " bytes, inside its header; copy or download it again"));
  }
  std::string text(header_bytes, '\0');
  RETURN_IF_ERROR(ReadAt(fd, sizeof(header_bytes), text.data(), header_bytes));
  ASSIGN_OR_RETURN(const JsonObject header, JsonObject::Parse(text, "its header"));
  const uint64_t data_start = sizeof(header_bytes) + header_bytes;
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : header.value().items()) {
    if (name == "__metadata__") continue;
    if (!value.is_object()) return DamagedSafetensors("an entry of its header is no object");
    ASSIGN_OR_RETURN(const JsonObject entry, header.Object(name.c_str()));
    ASSIGN_OR_RETURN(entries.emplace_back(),
                     ParseEntry(name, entry, data_start, file_bytes - data_start));
  }
  return entries;
}

}  // namespace tidegate
