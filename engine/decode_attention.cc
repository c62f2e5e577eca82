#include "engine/decode_attention.h"

#include <algorithm>

#include "engine/grow.h"

namespace tidegate {

DecodeAttention::DecodeAttention(const ModelConfig* config, const Kernels* kernels,
                                 ThreadPool* pool)
    : config_(*config), kernels_(kernels), pool_(pool), scores_(pool->thread_count()) {}

DecodeAttention::Span DecodeAttention::Seen(uint32_t layer, uint32_t position) const {
  const uint32_t window = config_.windows[layer];
  return {window == 0 || window > position ? 0 : position + 1 - window, position + 1};
}

void DecodeAttention::RunHead(uint32_t layer, const AttentionRow& row, uint32_t head,
                              float* scores) const {
  const size_t size = config_.head_size;
  const uint32_t kv_head = head / (config_.query_heads / config_.kv_heads);
  const Span seen = Seen(layer, row.position);
  kernels_->attend(row.query + head * size, row.kv->View(layer, kv_head), seen.first, seen.size(),
                   size, config_.attention_scale, config_.attention_cap, scores,
                   row.out + head * size);
}

void DecodeAttention::Run(uint32_t layer, std::span<const AttentionRow> rows) {
  starts_.resize(rows.size() + 1);
  starts_[0] = 0;
  uint32_t longest = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const uint32_t positions = Seen(layer, rows[r].position).size();
    longest = std::max(longest, positions);
    starts_[r + 1] = starts_[r] + uint64_t{positions} * config_.query_heads;
  }
  const uint64_t total = starts_.back();
  const size_t shares = scores_.size();
  // A share has the heads that begin in its part of all the positions to look at: equal shares,
  // but for a head, however unlike the rows are.
  pool_->For(shares, 1, total * config_.head_size * 4, [&](size_t begin, size_t end) {
    for (size_t share = begin; share < end; ++share) {
      const uint64_t first = total * share / shares;
      const uint64_t last = total * (share + 1) / shares;
      GrowAnew(longest, scores_[share]);
      size_t r = static_cast<size_t>(std::upper_bound(starts_.begin(), starts_.end(), first) -
                                     starts_.begin()) -
                 1;
      for (; r < rows.size() && starts_[r] < last; ++r) {
        const uint64_t positions = (starts_[r + 1] - starts_[r]) / config_.query_heads;
        const uint64_t before = first > starts_[r] ? first - starts_[r] : 0;
        auto head = static_cast<uint32_t>((before + positions - 1) / positions);
        for (; head < config_.query_heads && starts_[r] + head * positions < last; ++head) {
          RunHead(layer, rows[r], head, scores_[share].data());
        }
      }
    }
  });
}

}  // namespace tidegate
