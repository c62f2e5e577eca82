#include "server/kserve/infer_values.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/numbers.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace tidegate {
namespace {

using inference::InferTensorContents;
using inference::ModelInferRequest;
using InputTensor = ModelInferRequest::InferInputTensor;

constexpr size_t kShownNameBytes = 40;

absl::Status Wanted(const char* what) {
  return absl::InvalidArgumentError(absl::StrCat("is not ", what));
}

// The bytes of one input, and how far they have been read.
class RawTensor {
 public:
  explicit RawTensor(std::string_view bytes) : left_(bytes) {}
  static_assert(std::endian::native == std::endian::little, "raw tensors are little-endian");

  template <typename T>
  bool Take(T& value) {
    if (left_.size() < sizeof(T)) return false;
    std::memcpy(&value, left_.data(), sizeof(T));
    left_.remove_prefix(sizeof(T));
    return true;
  }
  bool TakeText(std::string& text) {
    uint32_t bytes = 0;
    if (!Take(bytes) || left_.size() < bytes) return false;
    text = left_.substr(0, bytes);
    left_.remove_prefix(bytes);
    return true;
  }
  bool empty() const { return left_.empty(); }

 private:
  std::string_view left_;
};

template <typename T, typename As>
bool TakeRaw(RawTensor& raw, InferScalar& value) {
  T number = 0;
  if (!raw.Take(number)) return false;
  value = static_cast<As>(number);
  return true;
}

bool TakeRawFlag(RawTensor& raw, InferScalar& value) {
  uint8_t byte = 0;
  if (!raw.Take(byte) || byte > 1) return false;
  value = byte != 0;
  return true;
}

bool TakeRawText(RawTensor& raw, InferScalar& value) {
  return raw.TakeText(value.emplace<std::string>());
}

// One element of a field of InferTensorContents.
template <typename As, typename Field>
void CopyField(const Field& field, std::vector<InferScalar>& elements) {
  for (const auto& one : field) elements.emplace_back(std::in_place_type<As>, one);
}

// How a datatype is kept.
struct Datatype {
  bool (*take_raw)(RawTensor&, InferScalar&);
  void (*take_field)(const InferTensorContents&, std::vector<InferScalar>&);
  int (*count)(const InferTensorContents&);
};

#define TG_CONTENTS(As, member)                                                 \
  [](const InferTensorContents& contents, std::vector<InferScalar>& elements) { \
    CopyField<As>(contents.member(), elements);                                 \
  },                                                                            \
      [](const InferTensorContents& contents) { return contents.member##_size(); }

const Datatype* FindDatatype(const std::string& name) {
  static const auto& types = *new std::map<std::string, Datatype, std::less<>>{
      {"BYTES", {TakeRawText, TG_CONTENTS(std::string, bytes_contents)}},
      {"BOOL", {TakeRawFlag, TG_CONTENTS(bool, bool_contents)}},
      {"INT8", {TakeRaw<int8_t, int64_t>, TG_CONTENTS(int64_t, int_contents)}},
      {"INT16", {TakeRaw<int16_t, int64_t>, TG_CONTENTS(int64_t, int_contents)}},
      {"INT32", {TakeRaw<int32_t, int64_t>, TG_CONTENTS(int64_t, int_contents)}},
      {"INT64", {TakeRaw<int64_t, int64_t>, TG_CONTENTS(int64_t, int64_contents)}},
      {"UINT8", {TakeRaw<uint8_t, uint64_t>, TG_CONTENTS(uint64_t, uint_contents)}},
      {"UINT16", {TakeRaw<uint16_t, uint64_t>, TG_CONTENTS(uint64_t, uint_contents)}},
      {"UINT32", {TakeRaw<uint32_t, uint64_t>, TG_CONTENTS(uint64_t, uint_contents)}},
      {"UINT64", {TakeRaw<uint64_t, uint64_t>, TG_CONTENTS(uint64_t, uint64_contents)}},
      {"FP32", {TakeRaw<float, double>, TG_CONTENTS(double, fp32_contents)}},
      {"FP64", {TakeRaw<double, double>, TG_CONTENTS(double, fp64_contents)}},
  };
  const auto found = types.find(name);
  return found == types.end() ? nullptr : &found->second;
}

#undef TG_CONTENTS

// How many elements the shape asks for.
absl::StatusOr<int64_t> CountOf(const InputTensor& input) {
  if (input.shape_size() == 0 || input.shape_size() > kMaxInferDimensions) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", input.shape_size(), " dimensions; from 1 to ", kMaxInferDimensions));
  }
  int64_t count = 1;
  for (const int64_t extent : input.shape()) {
    if (extent < 0 || extent > kMaxInferElements || count * extent > kMaxInferElements) {
      return absl::InvalidArgumentError(absl::StrCat("has a shape of a negative or of more than ",
                                                     kMaxInferElements,
                                                     " elements; one prompt a request"));
    }
    count *= extent;
  }
  return count;
}

// The elements of one input; `raw` is null where its own contents hold them.
absl::StatusOr<std::vector<InferScalar>> ReadTensor(const InputTensor& input,
                                                    const std::string* raw) {
  const Datatype* type = FindDatatype(input.datatype());
  if (type == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("has datatype ", Quoted(input.datatype(), kShownNameBytes),
                     "; use BYTES, BOOL, FP32, FP64 or a whole number of 8 to 64 bits"));
  }
  ASSIGN_OR_RETURN(const int64_t count, CountOf(input));
  std::vector<InferScalar> elements;
  if (raw == nullptr) {
    if (type->count(input.contents()) != count) {
      return absl::InvalidArgumentError(absl::StrCat("has ", type->count(input.contents()),
                                                     " elements in the field of its datatype ",
                                                     input.datatype(), ", and a shape of ", count));
    }
    type->take_field(input.contents(), elements);
    return elements;
  }
  RawTensor left(*raw);
  bool ok = true;
  for (int64_t i = 0; ok && i < count; ++i) ok = type->take_raw(left, elements.emplace_back());
  if (ok && left.empty()) return elements;
  return absl::InvalidArgumentError(absl::StrCat("has ", raw->size(), " raw bytes, which are not ",
                                                 count, " elements of ", input.datatype()));
}

// Raw contents are those of all inputs, or there are none.
bool CheckRaw(const ModelInferRequest& request, Violations& violations) {
  if (request.raw_input_contents_size() == 0) return true;
  if (request.raw_input_contents_size() != request.inputs_size()) {
    violations.Add("raw_input_contents",
                   absl::StrCat(request.raw_input_contents_size(), " entries for ",
                                request.inputs_size(), " inputs; one for each, in their order"));
    return false;
  }
  for (int i = 0; i < request.inputs_size(); ++i) {
    if (!request.inputs(i).has_contents()) continue;
    violations.Add(absl::StrCat("inputs[", i, "].contents"),
                   "is given beside raw_input_contents; use one of them");
    return false;
  }
  return true;
}

void ReadInputs(const ModelInferRequest& request, std::vector<InferValue>& values,
                Violations& violations) {
  if (request.inputs_size() > kMaxInferInputs) {
    violations.Add("inputs",
                   absl::StrCat(request.inputs_size(), " tensors; at most ", kMaxInferInputs));
    return;
  }
  if (!CheckRaw(request, violations)) return;
  for (int i = 0; i < request.inputs_size(); ++i) {
    const InputTensor& input = request.inputs(i);
    InferValue value{input.name(), absl::StrCat("inputs[", i, "]"), {}};
    absl::StatusOr<std::vector<InferScalar>> elements = ReadTensor(
        input, request.raw_input_contents_size() == 0 ? nullptr : &request.raw_input_contents(i));
    if (elements.ok()) {
      value.elements = *std::move(elements);
      values.push_back(std::move(value));
    } else {
      violations.Add(value.field, absl::StrCat(Quoted(input.name(), kShownNameBytes), " ",
                                               elements.status().message()));
    }
  }
}

bool ReadParameter(const inference::InferParameter& parameter, InferScalar& value) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam:
      value = parameter.bool_param();
      return true;
    case inference::InferParameter::kInt64Param:
      value = static_cast<int64_t>(parameter.int64_param());
      return true;
    case inference::InferParameter::kStringParam:
      value = parameter.string_param();
      return true;
    case inference::InferParameter::kDoubleParam:
      value = parameter.double_param();
      return true;
    case inference::InferParameter::kUint64Param:
      value = static_cast<uint64_t>(parameter.uint64_param());
      return true;
    case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return false;
}

void ReadParameters(const ModelInferRequest& request, std::vector<InferValue>& values,
                    Violations& violations) {
  if (request.parameters_size() > kMaxInferInputs) {
    violations.Add("parameters",
                   absl::StrCat(request.parameters_size(), " entries; at most ", kMaxInferInputs));
    return;
  }
  // Maps have no order; violations do.
  const std::map<std::string, inference::InferParameter> sorted(request.parameters().begin(),
                                                                request.parameters().end());
  for (const auto& [name, parameter] : sorted) {
    InferValue value{name, absl::StrCat("parameters[", Printable(name, kShownNameBytes), "]"), {}};
    if (ReadParameter(parameter, value.elements.emplace_back())) {
      values.push_back(std::move(value));
    } else {
      violations.Add(value.field, "has no value");
    }
  }
}

bool ReadJsonScalar(const nlohmann::json& json, InferScalar& value) {
  if (json.is_boolean()) {
    value = json.get<bool>();
  } else if (json.is_number_unsigned()) {
    value = json.get<uint64_t>();
  } else if (json.is_number_integer()) {
    value = json.get<int64_t>();
  } else if (json.is_number_float()) {
    value = json.get<double>();
  } else if (json.is_string()) {
    value = json.get<std::string>();
  } else {
    return false;
  }
  return true;
}

// False: neither a scalar nor a list of at most kMaxInferElements of them.
bool ReadJsonValue(const nlohmann::json& json, std::vector<InferScalar>& elements) {
  if (!json.is_array()) return ReadJsonScalar(json, elements.emplace_back());
  if (json.size() > static_cast<size_t>(kMaxInferElements)) return false;
  for (const nlohmann::json& one : json) {
    if (!ReadJsonScalar(one, elements.emplace_back())) return false;
  }
  return true;
}

template <typename T>
absl::StatusOr<T> WholeNumber(const InferScalar& value, const char* wanted) {
  if (const auto* number = std::get_if<int64_t>(&value)) {
    if (std::in_range<T>(*number)) return static_cast<T>(*number);
  } else if (const auto* positive = std::get_if<uint64_t>(&value)) {
    if (std::in_range<T>(*positive)) return static_cast<T>(*positive);
  } else if (const auto* real = std::get_if<double>(&value)) {
    // Exact up to 2^53; beyond, no client means what it says.
    constexpr double kExact = 9007199254740992.0;
    const bool fits = std::abs(*real) <= kExact && std::trunc(*real) == *real &&
                      (*real >= 0 || std::numeric_limits<T>::is_signed);
    if (fits) return static_cast<T>(*real);
  } else if (const auto* text = std::get_if<std::string>(&value)) {
    const bool negative = std::numeric_limits<T>::is_signed && text->starts_with('-');
    const absl::StatusOr<uint64_t> read = ParseInteger(std::string_view(*text).substr(negative));
    if (read.ok() && std::in_range<T>(*read)) {
      return negative ? static_cast<T>(0 - *read) : static_cast<T>(*read);
    }
  }
  return Wanted(wanted);
}

}  // namespace

std::vector<InferValue> ReadInferValues(const ModelInferRequest& request, Violations& violations) {
  std::vector<InferValue> values;
  ReadInputs(request, values, violations);
  ReadParameters(request, values, violations);
  return values;
}

std::vector<InferValue> ReadSamplingJson(const std::string& field, std::string_view json,
                                         Violations& violations) {
  std::vector<InferValue> values;
  if (json.size() > kMaxSamplingJsonBytes) {
    violations.Add(field, absl::StrCat(json.size(), " bytes; at most ", kMaxSamplingJsonBytes));
    return values;
  }
  const nlohmann::json parsed = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) {
    violations.Add(field, "is not a JSON object");
    return values;
  }
  for (const auto& [name, member] : parsed.items()) {
    if (member.is_null()) continue;
    InferValue value{name, absl::StrCat(field, ".", Printable(name, kShownNameBytes)), {}};
    if (ReadJsonValue(member, value.elements)) {
      values.push_back(std::move(value));
    } else {
      violations.Add(value.field,
                     absl::StrCat("is not a number, a text, a flag or a list of at most ",
                                  kMaxInferElements, " of them"));
    }
  }
  return values;
}

absl::StatusOr<double> ToReal(const InferScalar& value) {
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  if (const auto* positive = std::get_if<uint64_t>(&value)) return static_cast<double>(*positive);
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (const absl::StatusOr<double> read = ParseReal(*text); read.ok()) return *read;
  }
  return Wanted("a number");
}

absl::StatusOr<int64_t> ToInteger(const InferScalar& value) {
  return WholeNumber<int64_t>(value, "a whole number");
}

absl::StatusOr<uint64_t> ToUnsigned(const InferScalar& value) {
  return WholeNumber<uint64_t>(value, "a whole number from 0");
}

absl::StatusOr<bool> ToFlag(const InferScalar& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (*text == "true" || *text == "True" || *text == "1") return true;
    if (*text == "false" || *text == "False" || *text == "0") return false;
  } else if (const absl::StatusOr<int64_t> number = ToInteger(value);
             number.ok() && (*number == 0 || *number == 1)) {
    return *number == 1;
  }
  return Wanted("true or false");
}

absl::StatusOr<std::string> ToText(const InferScalar& value) {
  const auto* text = std::get_if<std::string>(&value);
  if (text == nullptr) return Wanted("text");
  if (!IsValidUtf8(*text)) return Wanted("UTF-8");
  return *text;
}

}  // namespace tidegate
