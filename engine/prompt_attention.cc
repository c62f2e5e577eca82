#include "engine/prompt_attention.h"

#include <algorithm>
#include <cstring>

#include "engine/grow.h"
#include "proto/store/v1/static_rows.h"

namespace tidegate {
namespace {

// Queries per pass over the keys: enough to pay for decoding these, few enough that their scores
// (1.5 MiB at 4096 positions) stay near.
constexpr uint32_t kQueries = 96;
// Keys that are laid next to each other for one product, 16 KiB of halves of 128.
constexpr size_t kGatheredKeys = 64;
// Values of 8 bits that are laid out anew for one product, as many as it takes at once (matmul.h's
// panels), 36 KiB of heads of 128.
constexpr uint32_t kGatheredValues = 256;

// The key or value of a position; `at`: where these begin in a page.
const uint8_t* RowAt(const KvView& kv, size_t at, size_t position, size_t head_size) {
  return reinterpret_cast<const uint8_t*>(kv.pages[position / kv.page_tokens] + at +
                                          position % kv.page_tokens *
                                              KvRowBytes(kv.type, head_size));
}

UnitEncoding ValueEncoding(KvType type) {
  switch (type) {
    case KvType::kF32:
      return UnitEncoding::kF32;
    case KvType::kF16:
      return UnitEncoding::kF16;
    case KvType::kQ8:
      break;
  }
  return UnitEncoding::kQ8;
}

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
  const size_t parts = std::min(scratch_.size(), items);
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
  GrowAnew(matmul_.packed_bytes(x.tokens, x.depth) + kPackAlign, scratch.packed);
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
  const size_t positions = span.end - span.first;
  MatrixView keys = {.type = KvRowType(kv.type),
                     .columns = size,
                     .row_bytes = StaticRowBytes(KvRowType(kv.type), size)};
  GrowAnew(queries * positions, scratch.scores);
  scratch.rows.resize(std::max(scratch.rows.size(), kGatheredKeys * keys.row_bytes));
  keys.data = scratch.rows.data();
  const void* packed = Pack(
      {.data = scratch.query.data(), .stride = size, .depth = size, .tokens = queries}, scratch);
  for (size_t begin = 0; begin < positions; begin += kGatheredKeys) {
    // Products want more rows next to each other than a page has.
    keys.rows = std::min(kGatheredKeys, positions - begin);
    for (size_t r = 0; r < keys.rows; ++r) {
      StoreStaticRow(keys.type, RowAt(kv, kv.keys, span.first + begin + r, size), size,
                     reinterpret_cast<uint8_t*>(scratch.rows.data()) + r * keys.row_bytes);
    }
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

// The columns of the values at positions [span.first, span.end).
void PromptAttention::FindValues(const KvView& kv, Span span, Scratch& scratch) const {
  const size_t size = config_.head_size;
  const size_t count = span.end - span.first;
  scratch.values.resize(count);
  for (size_t i = 0; i < count; ++i) {
    scratch.values[i] = RowAt(kv, kv.values, span.first + i, size);
  }
  const GgmlType type = KvRowType(kv.type);
  if (!HasColumnLayout(type)) return;  // Rows of floats and halves are columns already.
  const size_t row_bytes = StaticRowBytes(type, size);
  scratch.rows.resize(std::max(scratch.rows.size(), count * row_bytes));
  auto* to = reinterpret_cast<uint8_t*>(scratch.rows.data());
  for (const uint8_t*& column : scratch.values) {
    StoreStaticRow(type, column, size, to);
    column = to;
    to += row_bytes;
  }
}

// out = scores . values
void PromptAttention::Mix(const Call& call, const Item& item, Span span, Scratch& scratch) const {
  const size_t size = config_.head_size;
  const uint32_t positions = span.end - span.first;
  const size_t queries = size_t{item.tokens} * group_;
  const KvView kv = call.kv->View(call.layer, item.head);
  // What is laid out anew goes some at a time: that changes no bit (matmul.h).
  const uint32_t piece = HasColumnLayout(KvRowType(kv.type)) ? kGatheredValues : positions;
  scratch.out.assign(queries * size, 0.0f);
  for (uint32_t begin = 0; begin < positions; begin += piece) {
    const uint32_t count = std::min(piece, positions - begin);
    FindValues(kv, {span.first + begin, span.first + begin + count}, scratch);
    const void* packed = Pack({.data = scratch.scores.data() + begin,
                               .stride = positions,
                               .depth = count,
                               .tokens = queries},
                              scratch);
    matmul_.add_columns({.encoding = ValueEncoding(kv.type),
                         .columns = scratch.values.data(),
                         .count = count,
                         .elements = size},
                        0, size, packed, queries, scratch.out.data(), size);
  }
}

}  // namespace tidegate
