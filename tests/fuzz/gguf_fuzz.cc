// GGUF files: header, metadata, tensor directory, planning a pack from them, tensor rows.
#include <algorithm>
#include <vector>

#include "packer/pack_plan.h"
#include "packer/source_model.h"
#include "tests/fuzz/memory_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const tidegate::MemoryFile memory(data, size);
  const auto file = tidegate::SourceModel::Open(memory.path());
  if (!file.ok()) return 0;
  for (const auto& [key, value] : file->metadata()) {
    (void)file->GetString(key);
    (void)file->GetUint(key);
    (void)file->GetNumber(key);
    (void)file->GetBool(key);
  }
  std::vector<float> rows;
  for (const tidegate::GgufTensor& tensor : file->tensors()) {
    constexpr uint64_t kMaxFloats = 1 << 16;
    const uint64_t count = std::min<uint64_t>(tensor.rows(), 3);
    if (tensor.columns() > kMaxFloats) continue;
    rows.resize(count * tensor.columns());
    (void)file->ReadRows(tensor, tensor.rows() - count, count, rows.data());
  }
  (void)tidegate::PlanPack(*file, {}, nullptr);
  return 0;
}
