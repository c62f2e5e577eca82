// How keys and values are kept: its names, its bytes, and which heads it can hold. Plain data; safe
// to call from any thread.
//
// A row is the key or value of one head at one position, as a row of a GGUF file would have it:
// F32, F16 or Q8_0 (blocks of 32 numbers, a half scale and 32 codes each; value = scale * code).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/gguf/ggml_type.h"

namespace tidegate {

enum class KvType : uint8_t { kF32, kF16, kQ8 };

// Numbers and bytes of a block of kQ8.
inline constexpr size_t kKvBlock = 32;
inline constexpr size_t kKvBlockBytes = sizeof(uint16_t) + kKvBlock;

std::string_view KvTypeName(KvType type);  // "f32", "f16", "q8"
// INVALID_ARGUMENT lists the names.
absl::StatusOr<KvType> ParseKvType(std::string_view name);

// What the bytes of a row mean.
constexpr GgmlType KvRowType(KvType type) {
  return type == KvType::kF32   ? GgmlType::kF32
         : type == KvType::kF16 ? GgmlType::kF16
                                : GgmlType::kQ8_0;
}

// Bytes of a row. REQUIRES: CheckKvType().
constexpr size_t KvRowBytes(KvType type, size_t head_size) {
  return type == KvType::kF32   ? head_size * sizeof(float)
         : type == KvType::kF16 ? head_size * sizeof(uint16_t)
                                : head_size / kKvBlock * kKvBlockBytes;
}

// INVALID_ARGUMENT, which names the flag --kv, where heads of this size are no whole blocks.
absl::Status CheckKvType(KvType type, size_t head_size);

}  // namespace tidegate
