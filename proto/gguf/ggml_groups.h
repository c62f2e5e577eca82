// Blocks of the quantised tensor types, taken apart: every type becomes small integers and, for
// each 16 of them, a scale and an offset. What differs between the types is only how their bits
// lie.
//
//   value(i) = scale(i / 16) * code(i) + offset(i / 16)
//
// The product is exact in a float for all types but Q8_K, which has no offset: hence a value does
// not depend on whether the sum is fused, and decoders that follow the formula agree bit for bit.
//
// Source: the block layouts of ggml (block_q4_0 and so on). Half floats d and m (dmin); within a
// block:
//   Q4_0, Q4_1, IQ4_NL    byte j holds element j (low nibble) and 16 + j (high nibble)
//   Q5_0, Q5_1            the same, and bit j of a 32-bit word is the fifth bit of element j
//   Q8_0, Q8_K            one byte each
//   Q4_K, Q5_K            runs of 64 elements: 32 bytes of nibbles, low ones first; Q5_K's byte j
//   of
//                         32 holds the fifth bits of elements j, 32 + j, ...
//   IQ4_XS                runs of 32 elements as IQ4_NL
//   Q2_K, Q3_K            halves of 128: byte j of 32 holds elements j, 32 + j, 64 + j, 96 + j, two
//   bits
//                         each; Q3_K's third bit lies as Q5_K's fifth
//   Q6_K                  halves of 128: 64 bytes of nibbles (low ones: elements 0..63), 32 bytes
//   as Q2_K
// K types have a scale of 4 to 8 bits per 16 or 32 elements (Q2_K, Q4_K, Q5_K: and a minimum),
// times d. Safe to call from any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "proto/gguf/ggml_type.h"

namespace tidegate {

inline constexpr size_t kGgmlGroup = 16;        // elements that share a scale
inline constexpr size_t kGgmlSuperblock = 256;  // elements of a block of the K types

struct GgmlGroups {
  alignas(64) int8_t codes[kGgmlSuperblock];
  float scales[kGgmlSuperblock / kGgmlGroup];
  float offsets[kGgmlSuperblock / kGgmlGroup];
};

// Fills the first `elements` codes and their scales and offsets from as many blocks as they are.
// REQUIRES: a quantised type; 0 < elements <= kGgmlSuperblock, whole blocks.
void UnpackGgmlGroups(GgmlType type, const void* blocks, size_t elements, GgmlGroups& out);

}  // namespace tidegate
