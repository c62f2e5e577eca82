// How rows of static matrices (attention, embedding, head) are stored in packs and regions.
//
// Float types (F32, F16, BF16) as in GGUF. Quantised types (Q8_0, Q4_0) keep the scales and codes
// of the GGUF file bit for bit, but laid out as a unit column is (unit_codec.h): all scales of the
// row first, padded to 16 bytes, then all codes. A kernel converts a stretch of scales at once and
// reads codes as whole vectors; blocks of 18 or 34 bytes allow neither.
#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/gguf/ggml_type.h"

namespace tidegate {

// Bytes of one stored row. REQUIRES: columns is a multiple of GgmlBlockElements(type).
size_t StaticRowBytes(GgmlType type, size_t columns);

// Bytes of the scales in front of a row's codes; 0 for float types.
size_t StaticScaleBytes(GgmlType type, size_t columns);

// GGUF row -> stored row; out [StaticRowBytes]. Padding is zeroed.
void StoreStaticRow(GgmlType type, const uint8_t* gguf_row, size_t columns, uint8_t* out);

// Stored row -> out [columns].
void DecodeStaticRow(GgmlType type, const void* row, size_t columns, float* out);

}  // namespace tidegate
