// LoRA adapters: pairs, shapes, factors.
#include <algorithm>
#include <vector>

#include "proto/gguf/lora_file.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tidegate::MemoryFile memory(data, size);
  const auto file = tidegate::LoraFile::Open({memory.path(), 0.5f}, "llama");
  if (!file.ok()) return 0;
  std::vector<float> rows;
  for (const tidegate::LoraFile::Pair& pair : file->pairs()) {
    (void)tidegate::CheckLoraShape(pair, 4, 4);
    for (const tidegate::GgufTensor* factor : {&pair.a, &pair.b}) {
      constexpr uint64_t kMaxFloats = 1 << 16;
      if (factor->columns() > kMaxFloats) continue;
      const uint64_t count = std::min<uint64_t>(factor->rows(), 3);
      rows.resize(count * factor->columns());
      (void)file->ReadRows(*factor, factor->rows() - count, count, rows.data());
    }
  }
  return 0;
}
