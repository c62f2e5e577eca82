// What an inference request says by name, wherever it says it: input tensors, with their elements
// in fields or as raw bytes, request parameters, and the JSON object of the input
// sampling_parameters. Every count and size comes from a peer and is checked here; what is wrong
// goes into Violations. Stateless, thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "inference/grpc_service.pb.h"
#include "server/violations.h"

namespace tidegate {

inline constexpr int kMaxInferInputs = 64;        // and as many parameters
inline constexpr int kMaxInferDimensions = 8;     // of a tensor
inline constexpr int64_t kMaxInferElements = 64;  // of a tensor or a list
inline constexpr size_t kMaxSamplingJsonBytes = 64 << 10;

using InferScalar = std::variant<bool, int64_t, uint64_t, double, std::string>;

struct InferValue {
  std::string name;
  std::string field;  // for violations: "inputs[2]", "parameters[top_p]"
  std::vector<InferScalar> elements;
};

// Inputs in order, then parameters by name. Those that are wrong are left out.
std::vector<InferValue> ReadInferValues(const inference::ModelInferRequest& request,
                                        Violations& violations);

// The members of a JSON object of numbers, texts, flags and lists of them; null is left out.
std::vector<InferValue> ReadSamplingJson(const std::string& field, std::string_view json,
                                         Violations& violations);

// The value as what is wanted; texts are read, as clients write "0.7" where a number is meant.
// INVALID_ARGUMENT says what is wanted.
absl::StatusOr<double> ToReal(const InferScalar& value);
absl::StatusOr<int64_t> ToInteger(const InferScalar& value);
absl::StatusOr<uint64_t> ToUnsigned(const InferScalar& value);
absl::StatusOr<bool> ToFlag(const InferScalar& value);
absl::StatusOr<std::string> ToText(const InferScalar& value);  // UTF-8

}  // namespace tidegate
