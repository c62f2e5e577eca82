#include "proto/gguf/gguf_reader.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <type_traits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/read_file.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "base/units.h"
#include "proto/gguf/ggml_type.h"
#include "proto/gguf/gguf_cursor.h"

namespace tidegate {
namespace {

constexpr uint32_t kDefaultAlignment = 32;
constexpr uint32_t kMaxAlignment = 1u << 20;
constexpr uint32_t kMaxDims = 4;

// Types of metadata values, numbered as in the specification.
enum class ValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

absl::Status Damaged(const std::string& what) {
  return absl::DataLossError(absl::StrCat("damaged: ", what, "; copy or download it again"));
}

// Reads one value or one array element of C++ type T as it lies in the file.
template <typename Stored, typename Wide>
absl::StatusOr<GgufValue> TakeValue(GgufCursor& in) {
  ASSIGN_OR_RETURN(const Stored value, in.Take<Stored>("a metadata value"));
  return GgufValue(static_cast<Wide>(value));
}

template <typename Stored, typename Wide>
absl::StatusOr<GgufValue> TakeArray(GgufCursor& in, uint64_t count) {
  RETURN_IF_ERROR(in.CheckArray(count, sizeof(Stored)));
  std::vector<Wide> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(const Stored value, in.Take<Stored>("a metadata array"));
    values.push_back(static_cast<Wide>(value));
  }
  return GgufValue(std::move(values));
}

absl::StatusOr<GgufValue> TakeStrings(GgufCursor& in, uint64_t count) {
  RETURN_IF_ERROR(in.CheckArray(count, sizeof(uint64_t)));  // Each has at least its length.
  std::vector<std::string> values;
  values.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    ASSIGN_OR_RETURN(values.emplace_back(),
                     in.ReadString(kMaxGgufStringBytes, "a metadata string"));
  }
  return GgufValue(std::move(values));
}

template <typename Stored, typename Wide>
absl::StatusOr<GgufValue> TakeNumbers(GgufCursor& in, const uint64_t* count) {
  return count == nullptr ? TakeValue<Stored, Wide>(in) : TakeArray<Stored, Wide>(in, *count);
}

// `count`: null for a single value, otherwise the length of the array.
absl::StatusOr<GgufValue> TakeTyped(GgufCursor& in, uint32_t type, const uint64_t* count) {
  switch (static_cast<ValueType>(type)) {
    case ValueType::kU8:
      return TakeNumbers<uint8_t, uint64_t>(in, count);
    case ValueType::kI8:
      return TakeNumbers<int8_t, int64_t>(in, count);
    case ValueType::kU16:
      return TakeNumbers<uint16_t, uint64_t>(in, count);
    case ValueType::kI16:
      return TakeNumbers<int16_t, int64_t>(in, count);
    case ValueType::kU32:
      return TakeNumbers<uint32_t, uint64_t>(in, count);
    case ValueType::kI32:
      return TakeNumbers<int32_t, int64_t>(in, count);
    case ValueType::kU64:
      return TakeNumbers<uint64_t, uint64_t>(in, count);
    case ValueType::kI64:
      return TakeNumbers<int64_t, int64_t>(in, count);
    case ValueType::kF32:
      return TakeNumbers<float, double>(in, count);
    case ValueType::kF64:
      return TakeNumbers<double, double>(in, count);
    case ValueType::kBool:
      return TakeNumbers<uint8_t, bool>(in, count);
    case ValueType::kString: {
      if (count != nullptr) return TakeStrings(in, *count);
      ASSIGN_OR_RETURN(std::string text, in.ReadString(kMaxGgufStringBytes, "a metadata string"));
      return GgufValue(std::move(text));
    }
    case ValueType::kArray:
      return Damaged("arrays inside arrays are not part of any known model");
  }
  return Damaged(absl::StrCat("metadata value of unknown type ", type));
}

absl::StatusOr<GgufValue> TakeMetadataValue(GgufCursor& in) {
  ASSIGN_OR_RETURN(const uint32_t type, in.Take<uint32_t>("a metadata type"));
  if (static_cast<ValueType>(type) != ValueType::kArray) return TakeTyped(in, type, nullptr);
  ASSIGN_OR_RETURN(const uint32_t element_type, in.Take<uint32_t>("a metadata type"));
  ASSIGN_OR_RETURN(const uint64_t count, in.Take<uint64_t>("an array length"));
  return TakeTyped(in, element_type, &count);
}

struct Counts {
  uint32_t version = 0;
  uint64_t tensors = 0, entries = 0;
};

// What a file that is not GGUF starts with, readable.
std::string StartOf(const char* bytes, size_t count) {
  return absl::StrCat("\"", absl::CHexEscape(absl::string_view(bytes, count)), "\"");
}

absl::StatusOr<uint32_t> TakeMagicAndVersion(GgufCursor& in) {
  char start[16] = {};
  const uint64_t n = std::min<uint64_t>(sizeof(start), in.remaining());
  if (n == 0) return absl::InvalidArgumentError("the file is empty, not GGUF");
  GgufCursor peek = in;
  RETURN_IF_ERROR(peek.Read(start, n, "the magic"));
  if (n < 4 || std::memcmp(start, "GGUF", 4) != 0) {
    if (n >= 8 && std::memcmp(start, "1TGPACK1", 8) == 0) {
      return absl::InvalidArgumentError("this is a Tidegate pack already, not a GGUF file");
    }
    return absl::InvalidArgumentError(
        absl::StrCat("not a GGUF file: it starts with ", StartOf(start, n)));
  }
  RETURN_IF_ERROR(in.Read(start, 4, "the magic"));
  ASSIGN_OR_RETURN(const uint32_t version, in.Take<uint32_t>("the version"));
  if (version == 2 || version == 3) return version;
  if ((version & 0xffff) == 0 && version != 0) {
    return absl::InvalidArgumentError(
        "this GGUF file is big-endian; convert the model again on a little-endian machine");
  }
  return absl::InvalidArgumentError(
      absl::StrCat("GGUF version ", version,
                   " is not supported, versions 2 and 3 are; convert the model again with ",
                   version < 2 ? "a current converter" : "a converter that writes version 3"));
}

absl::StatusOr<Counts> TakeCounts(GgufCursor& in) {
  Counts counts;
  ASSIGN_OR_RETURN(counts.version, TakeMagicAndVersion(in));
  ASSIGN_OR_RETURN(counts.tensors, in.Take<uint64_t>("the tensor count"));
  ASSIGN_OR_RETURN(counts.entries, in.Take<uint64_t>("the metadata count"));
  if (counts.tensors > kMaxGgufEntries || counts.entries > kMaxGgufEntries) {
    return Damaged(absl::StrCat(counts.tensors, " tensors and ", counts.entries,
                                " metadata entries, at most ", kMaxGgufEntries, " of each"));
  }
  return counts;
}

// Name, shape, type and the offset as in the file; `bytes` is filled in.
absl::StatusOr<GgufTensor> TakeTensorInfo(GgufCursor& in) {
  GgufTensor tensor;
  ASSIGN_OR_RETURN(tensor.name, in.ReadString(kMaxGgufNameBytes, "a tensor name"));
  const std::string name = Printable(tensor.name);
  ASSIGN_OR_RETURN(const uint32_t dims, in.Take<uint32_t>("a tensor's shape"));
  if (dims > kMaxDims) return Damaged(absl::StrCat("tensor ", name, " has ", dims, " dimensions"));
  uint64_t elements = 1;
  for (uint32_t i = 0; i < dims; ++i) {
    ASSIGN_OR_RETURN(const uint64_t n, in.Take<uint64_t>("a tensor's shape"));
    if (n == 0 || n > std::numeric_limits<int64_t>::max() / elements) {
      return Damaged(absl::StrCat("tensor ", name, " has an impossible shape"));
    }
    elements *= n;
    tensor.dims.push_back(n);
  }
  ASSIGN_OR_RETURN(tensor.type, in.Take<uint32_t>("a tensor's type"));
  ASSIGN_OR_RETURN(tensor.offset, in.Take<uint64_t>("a tensor's offset"));
  const GgmlBlock block = GgmlBlockOf(tensor.type);
  if (block.elements == 0) return tensor;
  if (tensor.columns() % block.elements != 0) {
    return Damaged(absl::StrCat("tensor ", name, " has rows of ", tensor.columns(),
                                " elements, not whole ", GgmlTypeName(tensor.type), " blocks"));
  }
  const uint64_t blocks = elements / block.elements;
  if (blocks > uint64_t{std::numeric_limits<int64_t>::max()} / block.bytes) {
    return Damaged(absl::StrCat("tensor ", name, " has an impossible shape"));
  }
  tensor.bytes = blocks * block.bytes;
  return tensor;
}

absl::StatusOr<uint32_t> Alignment(const std::map<std::string, GgufValue>& metadata) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return kDefaultAlignment;
  const auto* value = std::get_if<uint64_t>(&found->second);
  if (value == nullptr || *value > kMaxAlignment || !std::has_single_bit(*value)) {
    return Damaged(absl::StrCat("general.alignment is not a power of two up to ", kMaxAlignment));
  }
  return static_cast<uint32_t>(*value);
}

// Turns the offset into one from the start of the file and checks that the data lies inside.
absl::Status PlaceTensor(GgufTensor& tensor, uint64_t data_start, uint32_t alignment,
                         uint64_t file_bytes) {
  if (tensor.offset % alignment != 0) {
    return Damaged(absl::StrCat("tensor ", Printable(tensor.name), " lies at an odd offset"));
  }
  const uint64_t space = data_start <= file_bytes ? file_bytes - data_start : 0;
  if (tensor.offset > space || tensor.bytes > space - tensor.offset) {
    return absl::DataLossError(absl::StrCat(
        "truncated: tensor ", Printable(tensor.name), " needs ", tensor.bytes, " bytes at offset ",
        tensor.offset, " of the data, the file has ", space, "; copy or download it again"));
  }
  tensor.offset += data_start;
  return absl::OkStatus();
}

absl::Status Parse(int fd, uint64_t file_bytes, ModelParts& parts) {
  GgufCursor in(fd, file_bytes);
  ASSIGN_OR_RETURN(const Counts counts, TakeCounts(in));
  parts.version = counts.version;
  for (uint64_t i = 0; i < counts.entries; ++i) {
    ASSIGN_OR_RETURN(std::string key, in.ReadString(kMaxGgufNameBytes, "a metadata key"));
    auto value = TakeMetadataValue(in);
    if (!value.ok()) return Annotate(value.status(), Printable(key));
    if (!parts.metadata.emplace(key, *std::move(value)).second) {
      return Damaged(absl::StrCat("metadata key ", Printable(key), " appears twice"));
    }
  }
  for (uint64_t i = 0; i < counts.tensors; ++i) {
    ASSIGN_OR_RETURN(parts.tensors.emplace_back(), TakeTensorInfo(in));
  }
  ASSIGN_OR_RETURN(const uint32_t alignment, Alignment(parts.metadata));
  const uint64_t data_start = RoundUp(in.position(), alignment);
  for (GgufTensor& tensor : parts.tensors) {
    RETURN_IF_ERROR(PlaceTensor(tensor, data_start, alignment, file_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelParts> ReadGguf(const std::string& path) {
  ModelParts parts;
  parts.path = path;
  ASSIGN_OR_RETURN(UniqueFd fd, OpenFile(path));
  ASSIGN_OR_RETURN(parts.file_bytes, FileSize(fd.get()));
  RETURN_IF_ERROR(Annotate(Parse(fd.get(), parts.file_bytes, parts), path));
  parts.files.push_back(std::move(fd));
  return parts;
}

}  // namespace tidegate
