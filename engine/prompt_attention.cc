#include "engine/prompt_attention.h"

#include <algorithm>
#include <cstring>

namespace tidegate {
namespace {

// Queries per pass over the keys: enough to pay for decoding these, few enough that their scores
// (1.5 MiB at 4096 positions) stay near.
constexpr uint32_t kQueries = 96;
// Keys that are laid next to each other for one product, 16 KiB of halves of 128.
constexpr size_t kGathered = 64;

}  // namespace

PromptAttention::PromptAttention(const ModelConfig* config, const Kernels* kernels,
                                 ThreadPool* pool)
    : config_(*config),
      kernels_(kernels),
      matmul_(BestMatmul(Precision::kExact)),
      pool_(pool),
      group_(config->query_heads / config->kv_heads),
      scratch_(pool->thread_count()) {}

void PromptAttention::Run(const KvCache& kv, uint32_t layer, uint32_t first_position,
                          uint32_t tokens, const float* query, float* out) {
  const Call call = {&kv, layer, first_position, tokens, query, out};
  const uint32_t block = std::max(1u, kQueries / group_);
  const uint32_t blocks = (tokens + block - 1) / block;
  const size_t items = size_t{blocks} * config_.kv_heads;
  const size_t parts = scratch_.size();
  const size_t touched = size_t{first_position + tokens} * tokens * config_.query_size();
  pool_->For(parts, 1, touched, [&](size_t begin, size_t end) {
    for (size_t part = begin; part < end; ++part) {
      for (size_t i = items * part / parts; i < items * (part + 1) / parts; ++i) {
        // Later blocks see more positions: early and late ones take turns, for equal shares.
        const auto turn = static_cast<uint32_t>(i % blocks);
        const uint32_t b = turn % 2 == 0 ? turn / 2 : blocks - 1 - turn / 2;
        const uint32_t first = b * block;
        RunItem(call,
                {.head = static_cast<uint32_t>(i / blocks),
                 .first = first,
                 .tokens = std::min(block, tokens - first)},
                scratch_[part]);
      }
    }
  });
}

const void* PromptAttention::Pack(const TokensView& x, Scratch& scratch) const {
  scratch.packed.resize(matmul_.packed_bytes(x.tokens, x.depth) + kPackAlign);
  void* packed = scratch.packed.data();
  size_t space = scratch.packed.size();
  packed = std::align(kPackAlign, scratch.packed.size() - kPackAlign, packed, space);
  matmul_.pack(x, 0, x.tokens, packed);
  return packed;
}

void PromptAttention::RunItem(const Call& call, const Item& item, Scratch& scratch) const {
  const size_t size = config_.head_size;
  const size_t row = size * group_;  // of one token: its queries of this head lie together
  const size_t at = item.first * size_t{config_.query_size()} + item.head * row;
  const float scale = config_.attention_scale;
  scratch.query.resize(item.tokens * row);
  for (uint32_t t = 0; t < item.tokens; ++t) {
    const float* from = call.query + at + t * size_t{config_.query_size()};
    for (size_t i = 0; i < row; ++i) scratch.query[t * row + i] = scale * from[i];
  }
  const Span span = Seen(call, item.first, item.tokens);
  Score(call, item, span, scratch);
  Mix(call, item, span, scratch);
  for (uint32_t t = 0; t < item.tokens; ++t) {
    std::memcpy(call.out + at + t * size_t{config_.query_size()}, scratch.out.data() + t * row,
                row * sizeof(float));
  }
}

PromptAttention::Span PromptAttention::Seen(const Call& call, uint32_t first,
                                            uint32_t tokens) const {
  const uint32_t window = config_.windows[call.layer];
  const uint32_t oldest = call.first_position + first + 1;  // end of what the first token sees
  return {window == 0 || window >= oldest ? 0 : oldest - window, oldest - 1 + tokens};
}

// scores [queries, positions] = query . keys.
void PromptAttention::Multiply(const KvView& kv, Span span, size_t queries,
                               Scratch& scratch) const {
  const size_t size = config_.head_size;
  const size_t row_bytes = KvRowBytes(kv.type, size);
  const size_t positions = span.end - span.first;
  scratch.scores.resize(std::max(scratch.scores.size(), queries * positions));
  scratch.keys.resize(kGathered * row_bytes);
  const void* packed = Pack(
      {.data = scratch.query.data(), .stride = size, .depth = size, .tokens = queries}, scratch);
  for (size_t begin = 0; begin < positions; begin += kGathered) {
    const size_t end = std::min(positions, begin + kGathered);
    // Products want more rows next to each other than a page has.
    for (size_t at = begin; at < end;) {
      const size_t position = span.first + at;
      const size_t row = position % kv.page_tokens;
      const size_t rows = std::min(kv.page_tokens - row, end - at);
      std::memcpy(scratch.keys.data() + (at - begin) * row_bytes,
                  kv.pages[position / kv.page_tokens] + kv.keys + row * row_bytes,
                  rows * row_bytes);
      at += rows;
    }
    const MatrixView keys = {.type = kv.type == KvType::kF16 ? GgmlType::kF16 : GgmlType::kF32,
                             .data = scratch.keys.data(),
                             .rows = end - begin,
                             .columns = size,
                             .row_bytes = row_bytes};
    matmul_.multiply_rows(keys, 0, keys.rows, packed, queries, scratch.scores.data() + begin,
                          positions);
  }
}

// scores = softmax(query . keys), 0 at positions that the token does not see.
void PromptAttention::Score(const Call& call, const Item& item, Span span, Scratch& scratch) const {
  const size_t positions = span.end - span.first;
  const size_t queries = size_t{item.tokens} * group_;
  Multiply(call.kv->View(call.layer, item.head), span, queries, scratch);
  for (size_t q = 0; q < queries; ++q) {
    float* scores = scratch.scores.data() + q * positions;
    const Span seen = Seen(call, item.first + static_cast<uint32_t>(q / group_), 1);
    float* const first = scores + (seen.first - span.first);
    float* const end = scores + (seen.end - span.first);
    const auto count = static_cast<size_t>(end - first);
    if (config_.attention_cap != 0) kernels_->soft_cap(count, config_.attention_cap, first);
    kernels_->softmax(count, first);
    std::fill(scores, first, 0.0f);
    std::fill(end, scores + positions, 0.0f);
  }
}

// out = scores . values
void PromptAttention::Mix(const Call& call, const Item& item, Span span, Scratch& scratch) const {
  const size_t size = config_.head_size;
  const size_t positions = span.end - span.first;
  const size_t queries = size_t{item.tokens} * group_;
  const KvView kv = call.kv->View(call.layer, item.head);
  scratch.values.resize(positions);
  for (size_t i = 0; i < positions; ++i) {
    const size_t position = span.first + i;
    scratch.values[i] =
        reinterpret_cast<const uint8_t*>(kv.pages[position / kv.page_tokens] + kv.values +
                                         position % kv.page_tokens * KvRowBytes(kv.type, size));
  }
  const void* packed = Pack(
      {.data = scratch.scores.data(), .stride = positions, .depth = positions, .tokens = queries},
      scratch);
  scratch.out.assign(queries * size, 0.0f);
  matmul_.add_columns(
      {.encoding = kv.type == KvType::kF16 ? UnitEncoding::kF16 : UnitEncoding::kF32,
       .columns = scratch.values.data(),
       .count = positions,
       .elements = size},
      0, size, packed, queries, scratch.out.data(), size);
}

}  // namespace tidegate
