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
  // Room for `capacity_tokens` positions in half or float. context_tokens: what the sequence may
  // grow to as its user sees it, which chooses the rotation of keys in some models (ModelRope); 0:
  // the capacity.
  KvCache(const ModelConfig& config, uint32_t capacity_tokens, bool half,
          uint32_t context_tokens = 0);

  uint32_t capacity() const { return capacity_; }
  uint32_t context_tokens() const { return context_tokens_; }
  uint32_t size() const { return size_; }  // positions held
  bool half() const { return half_; }

  // Rows [position][head_size] of one key/value head; consecutive positions are head_size apart.
  // The first one is that of `position`.
  const void* keys(uint32_t layer, uint32_t head, uint32_t position = 0) const {
    return Row(layer, 0, head, position);
  }
  const void* values(uint32_t layer, uint32_t head, uint32_t position = 0) const {
    return Row(layer, 1, head, position);
  }

  // Stores the rotated key and the value of `position`; both [kv_heads, head_size]. False if one of
  // the numbers, as it is stored, is not finite. REQUIRES: position < capacity().
  bool Store(const Kernels& kernels, uint32_t layer, uint32_t position, const float* key,
             const float* value);

  // Positions below `size` are complete in every layer.
  void set_size(uint32_t size) { size_ = size; }

  // Bytes that one position takes.
  static uint64_t BytesPerToken(const ModelConfig& config, bool half);

 private:
  std::byte* Row(uint32_t layer, uint32_t is_value, uint32_t head, uint32_t position) const;

  const uint32_t kv_heads_, head_size_, capacity_, context_tokens_;
  const bool half_;
  uint32_t size_ = 0;
  std::unique_ptr<std::byte[]> data_;
};

}  // namespace tidegate
