// Keys and values of one sequence, for all layers and positions up to a fixed capacity.
// Thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "engine/kernels/kernels.h"
#include "engine/model.h"

namespace tidegate {

class KvCache {
 public:
  // Room for `capacity_tokens` positions in half or float.
  KvCache(const ModelConfig& config, uint32_t capacity_tokens, bool half);

  uint32_t capacity() const { return capacity_; }
  uint32_t size() const { return size_; }  // positions held
  bool half() const { return half_; }

  // Rows [position][head_size] of one key/value head; consecutive positions are head_size apart.
  const void* keys(uint32_t layer, uint32_t head) const { return Row(layer, 0, head, 0); }
  const void* values(uint32_t layer, uint32_t head) const { return Row(layer, 1, head, 0); }

  // Stores the rotated key and the value of `position`; both [kv_heads, head_size].
  // REQUIRES: position < capacity().
  void Store(const Kernels& kernels, uint32_t layer, uint32_t position, const float* key,
             const float* value);

  // Positions below `size` are complete in every layer.
  void set_size(uint32_t size) { size_ = size; }

  // Bytes that one position takes.
  static uint64_t BytesPerToken(const ModelConfig& config, bool half);

 private:
  std::byte* Row(uint32_t layer, uint32_t is_value, uint32_t head, uint32_t position) const;

  const uint32_t kv_heads_, head_size_, capacity_;
  const bool half_;
  uint32_t size_ = 0;
  std::unique_ptr<std::byte[]> data_;
};

}  // namespace tidegate
