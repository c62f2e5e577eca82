// Finds numbers that are not finite (NaN, infinity) among floats and in rows of tensors as they lie
// in files: a scale that is not finite spoils its whole block. All types are looked through at the
// speed of memory: of quantised blocks only the scales are read. Stateless; any thread.
#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "proto/gguf/ggml_type.h"

namespace tidegate {

// Index of the first one.
std::optional<size_t> FirstNotFinite(std::span<const float> values);

// The same of the values that DecodeGgmlRow() gives. Several rows without gaps are one row.
// REQUIRES: elements is a multiple of GgmlBlockElements(type).
std::optional<size_t> FirstNotFinite(GgmlType type, const void* row, size_t elements);

// Of halves: where a conversion to them overflowed.
bool AllFiniteHalves(std::span<const uint16_t> halves);

}  // namespace tidegate
