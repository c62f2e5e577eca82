// How rows of static matrices (attention, embedding, head) are stored in packs and regions.
//
// As in GGUF, but for Q8_0 and Q4_0: these keep the scales and codes of the GGUF file bit for bit,
// laid out as a unit column is (unit_codec.h): all scales of the row first, padded to 16 bytes,
// then all codes. A kernel converts a stretch of scales at once and reads codes as whole vectors;
// blocks of 18 or 34 bytes allow neither. Blocks of the other quantised types are unpacked one by
// one (ggml_groups.h). Pure.
#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/gguf/ggml_type.h"

namespace tidegate {

// Whether rows of the type are laid out as unit columns are.
bool HasColumnLayout(GgmlType type);

// Bytes of one stored row. REQUIRES: columns is a multiple of GgmlBlockElements(type).
size_t StaticRowBytes(GgmlType type, size_t columns);

// Bytes of the scales in front of a row's codes; 0 for types without that layout.
size_t StaticScaleBytes(GgmlType type, size_t columns);

// GGUF row -> stored row; out [StaticRowBytes]. Padding is zeroed.
void StoreStaticRow(GgmlType type, const uint8_t* gguf_row, size_t columns, uint8_t* out);

// Stored row -> out [columns].
void DecodeStaticRow(GgmlType type, const void* row, size_t columns, float* out);

}  // namespace tidegate
