#include "engine/kernels/kv_type.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace tidegate {

std::string_view KvTypeName(KvType type) {
  switch (type) {
    case KvType::kF32:
      return "f32";
    case KvType::kF16:
      return "f16";
    case KvType::kQ8:
      return "q8";
  }
  return "?";
}

absl::StatusOr<KvType> ParseKvType(std::string_view name) {
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kQ8}) {
    if (KvTypeName(type) == name) return type;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown type of keys and values '",
                                                 std::string(name), "'; use f32, f16 or q8"));
}

absl::Status CheckKvType(KvType type, size_t head_size) {
  if (type != KvType::kQ8 || (head_size > 0 && head_size % kKvBlock == 0)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("--kv q8: this model's heads have ", head_size,
                                                 " numbers, not a multiple of the ", kKvBlock,
                                                 " that share a scale; use --kv f16"));
}

}  // namespace tidegate
