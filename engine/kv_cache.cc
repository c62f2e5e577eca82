#include "engine/kv_cache.h"

#include <cstring>

#include "base/check.h"
#include "proto/gguf/finite.h"

namespace tidegate {

KvCache::KvCache(const ModelConfig& config, uint32_t capacity_tokens, bool half,
                 uint32_t context_tokens)
    : kv_heads_(config.kv_heads),
      head_size_(config.head_size),
      capacity_(capacity_tokens),
      context_tokens_(context_tokens != 0 ? context_tokens : capacity_tokens),
      half_(half),
      // Not zeroed: a page is touched when its position is stored, so short answers stay small.
      data_(new std::byte[BytesPerToken(config, half) * capacity_tokens]) {}

uint64_t KvCache::BytesPerToken(const ModelConfig& config, bool half) {
  return uint64_t{config.layer_count} * 2 * config.kv_heads * config.head_size * (half ? 2 : 4);
}

std::byte* KvCache::Row(uint32_t layer, uint32_t is_value, uint32_t head, uint32_t position) const {
  const uint64_t row = ((uint64_t{layer} * 2 + is_value) * kv_heads_ + head) * capacity_ + position;
  return data_.get() + row * head_size_ * (half_ ? 2 : 4);
}

bool KvCache::Store(const Kernels& kernels, uint32_t layer, uint32_t position, const float* key,
                    const float* value) {
  CHECK(position < capacity_);
  bool finite = true;
  for (uint32_t is_value = 0; is_value < 2; ++is_value) {
    const float* source = is_value != 0 ? value : key;
    for (uint32_t head = 0; head < kv_heads_; ++head) {
      std::byte* row = Row(layer, is_value, head, position);
      const float* from = source + head * head_size_;
      if (half_) {
        auto* halves = reinterpret_cast<uint16_t*>(row);
        kernels.to_half(from, head_size_, halves);
        finite = AllFiniteHalves({halves, head_size_}) && finite;
      } else {
        std::memcpy(row, from, head_size_ * sizeof(float));
        finite = !FirstNotFinite({from, head_size_}) && finite;
      }
    }
  }
  return finite;
}

}  // namespace tidegate
