#include "simulator/memory_model.h"

#include <algorithm>
#include <array>

namespace tidegate {
namespace {

// From the models' published configurations.
constexpr std::array<ModelDimensions, 4> kPublished = {{
    {"phi-3-medium", 40, 32064, 5120, 17920, 40, 10},
    {"phi-3-mini", 32, 32064, 3072, 8192, 32, 32},
    {"llama-3-8b", 32, 128256, 4096, 14336, 32, 8},
    {"mistral-7b", 32, 32000, 4096, 14336, 32, 8},
}};

double FlashSeconds(double bytes, double reads, const DeviceSpeeds& device) {
  if (reads <= 0) return 0;
  const double rate_bound =
      device.flash_reads_per_second > 0 ? reads / device.flash_reads_per_second : 0;
  return device.flash_latency_seconds + std::max(bytes / device.flash_bytes_per_second, rate_bound);
}

}  // namespace

uint64_t ModelBytes::mlp() const {
  uint64_t layer = 0;
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    layer += shape.unit_count[kind] * unit_bytes[kind];
  }
  return layer * shape.layer_count;
}

std::span<const ModelDimensions> PublishedModels() { return kPublished; }

ModelBytes BytesOf(const ModelDimensions& model, double bits, uint64_t kv_tokens) {
  const double h = model.hidden, i = model.intermediate, bytes = bits / 8;
  const double grouping = static_cast<double>(model.kv_heads) / model.query_heads;
  const double attention = (2 + 2 * grouping) * h * h * model.layers;
  const double embeddings = 2.0 * model.vocab * h;
  const double kv = 4 * h * grouping * model.layers * static_cast<double>(kv_tokens);
  return {.shape = {model.layers, {model.hidden, model.intermediate}},
          .unit_bytes = {static_cast<uint64_t>(2 * i * bytes), static_cast<uint64_t>(h * bytes)},
          .static_bytes = static_cast<uint64_t>((attention + embeddings) * bytes),
          .kv_bytes = static_cast<uint64_t>(kv)};
}

double CachedShare(const ModelBytes& model, uint64_t dram_bytes) {
  const uint64_t first = model.static_bytes + model.kv_bytes;
  if (dram_bytes <= first) return 0;
  return std::min(1.0, static_cast<double>(dram_bytes - first) / static_cast<double>(model.mlp()));
}

double StaticSeconds(const ModelBytes& model, uint64_t dram_bytes, const DeviceSpeeds& device) {
  const uint64_t first = model.static_bytes + model.kv_bytes;
  const uint64_t in_dram = std::min(first, dram_bytes);
  return static_cast<double>(in_dram) / device.dram_bytes_per_second +
         static_cast<double>(first - in_dram) / device.flash_bytes_per_second;
}

double UnitSeconds(uint64_t unit_bytes, double hits, double misses, const DeviceSpeeds& device) {
  const auto bytes = static_cast<double>(unit_bytes);
  const double dram = hits * bytes / device.dram_bytes_per_second;
  const double flash = FlashSeconds(misses * bytes, misses, device);
  return device.overlapped ? std::max(dram, flash) : dram + flash;
}

double DenseSeconds(const ModelBytes& model, uint64_t dram_bytes, const DeviceSpeeds& device) {
  const double share = CachedShare(model, dram_bytes);
  double layer = 0;
  for (uint32_t kind = 0; kind < kUnitKinds; ++kind) {
    const double units = model.shape.unit_count[kind];
    layer += UnitSeconds(model.unit_bytes[kind], share * units, (1 - share) * units, device);
  }
  return StaticSeconds(model, dram_bytes, device) + layer * model.shape.layer_count;
}

}  // namespace tidegate
