#include "proto/store/v1/step_workspace.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "base/units.h"

namespace tidegate {
namespace {

using store::v1::HyperParameters;
using store::v1::Manifest;

constexpr uint64_t kFloat = 4, kPointer = 8, kIndex = 4;  // bytes
// A vector that grows as elements are added has room for up to twice as many.
constexpr uint64_t kGrown = 2;

// Sequences at a time, for each thread that computes, and pages of each on average at least.
constexpr uint32_t kSequencesPerThread = 32;
constexpr uint32_t kPagesPerSequence = 2;
constexpr uint32_t kDecodeRowsLeast = 16;  // of a preempted sequence, in a step

// Of engine/decoder.cc, unit_sums.h, unit_sweep.cc and prompt_attention.cc, by the same names.
constexpr uint64_t kLogitLanes = 16;
constexpr uint64_t kChains = 8;
constexpr uint64_t kBatchBytes = 16 << 20, kBatchCopyBytes = 8 << 20;
constexpr uint64_t kBatchUnitsOfPrompts = 512;
constexpr uint64_t kQueries = 96;
// Bytes for each element of a head: 64 keys of floats, or 256 values of 8 bits with their scales.
constexpr uint64_t kGathered = 384;

constexpr uint64_t kRowBookkeeping = 160;    // places, pointers and statuses of a row
constexpr uint64_t kChainBookkeeping = 128;  // of a chain of a row: descriptions and pointers
constexpr uint64_t kBlockBookkeeping = 64;   // of a block that is wanted, in one request
constexpr uint64_t kOpenRequests = 3;        // of units, at a time

// Sizes of a model, as products with them want them.
struct Sizes {
  uint64_t hidden, intermediate, query, keys, head, vocab;
  uint64_t units;        // of the larger kind, of one expert
  uint64_t query_group;  // query heads for each head of keys
};

Sizes SizesOf(const HyperParameters& hp) {
  const uint64_t head = hp.head_size();
  return {.hidden = hp.hidden_size(),
          .intermediate = hp.intermediate_size(),
          .query = hp.query_heads() * head,
          .keys = hp.kv_heads() * head,
          .head = head,
          .vocab = hp.embedding_rows(),
          .units = std::max(hp.hidden_size(), hp.intermediate_size()),
          .query_group = std::max<uint64_t>(1, hp.query_heads() / std::max(1u, hp.kv_heads()))};
}

uint64_t RowsBytes(const Manifest& manifest, const Sizes& s, uint64_t rows) {
  const HyperParameters& hp = manifest.hyper_parameters();
  uint64_t row = kFloat * (2 * s.hidden + 2 * s.query + 2 * s.keys + 2 * s.intermediate);
  uint64_t embedding = 0;
  bool post_norms = false;
  for (const store::v1::StaticTensor& tensor : manifest.static_tensors()) {
    const std::string_view name = tensor.name();
    post_norms |= name == "blk.0.post_ffw_norm.weight";
    // Rows of an embedding that stays on flash are read before they are decoded.
    if (!tensor.row_xxh3().empty()) {
      embedding = tensor.bytes() / std::max<uint64_t>(1, tensor.rows());
    }
  }
  if (post_norms) row += kFloat * s.hidden;
  const uint64_t turns = hp.windowed_rope_base() > 0 ? 2 : 1;
  return rows * (row + embedding + kGrown * turns * kFloat * hp.rope_dims() + kRowBookkeeping);
}

// Units of a kind that are added in one go: the batch ends with a whole block.
uint64_t BatchUnits(const KindGeometry& kind, uint64_t units, uint64_t batch) {
  return std::min(units, batch + kind.units_per_block);
}

uint64_t ProductsBytes(const PackGeometry& geometry, const Sizes& s, const StepShape& shape) {
  const uint64_t kinds[] = {s.hidden, s.intermediate};
  uint64_t batch = 0;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    batch = std::max(batch, BatchUnits(geometry.kinds[k], kinds[k], kBatchUnitsOfPrompts));
  }
  uint64_t depth = std::max(s.hidden, s.query) + batch;
  if (shape.adapter_rank > 0) {
    depth += std::max({s.hidden, s.query, shape.adapter_rank}) +  // of attention
             std::max(s.units, shape.adapter_rank) +              // of the MLP
             2 * kGrown * shape.adapter_rank;                     // A x
  }
  return shape.prompt_rows * kFloat * depth;
}

// The most positions that one call of attention looks at in a layer.
uint64_t PositionsSeen(const HyperParameters& hp, const StepShape& shape) {
  uint64_t seen = hp.windows().empty() ? shape.context_tokens : 0;
  for (const uint32_t window : hp.windows()) {
    const uint64_t most = window == 0 ? shape.context_tokens : window + kQueries;
    seen = std::max(seen, std::min(most, shape.context_tokens));
  }
  return seen;
}

uint64_t AttentionBytes(const HyperParameters& hp, const Sizes& s, const StepShape& shape) {
  const uint64_t positions = PositionsSeen(hp, shape);
  const uint64_t block =
      std::min<uint64_t>(shape.prompt_rows, std::max<uint64_t>(1, kQueries / s.query_group));
  const uint64_t queries = block * s.query_group;
  // Scores, and the same packed; queries and what comes of them.
  const uint64_t prompt =
      queries == 0 ? 0
                   : kFloat * queries * (positions + std::max(positions, s.head) + 2 * s.head) +
                         kGathered * s.head + kGrown * kPointer * positions;
  const uint64_t decode = shape.decode_rows == 0 ? 0 : kFloat * positions;
  // Threads that have something to do.
  const uint64_t items = block == 0 ? 0 : (shape.prompt_rows + block - 1) / block * hp.kv_heads();
  return std::min<uint64_t>(shape.threads, items) * prompt + shape.threads * decode;
}

// Of one row of decode form.
uint64_t LaneBytes(const PackGeometry& geometry, const Sizes& s) {
  const uint64_t kinds[] = {s.hidden, s.intermediate};
  uint64_t batches[kUnitKinds], blocks = 0;
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const KindGeometry& kind = geometry.kinds[k];
    batches[k] = BatchUnits(kind, kinds[k], kBatchBytes / std::max(1u, kind.unit_bytes) + 1);
    blocks = std::max(blocks, kinds[k] / std::max(1u, kind.units_per_block) + 2);
  }
  const uint64_t batch = std::max(batches[0], batches[1]);
  const uint64_t masks = (kIndex + kFloat) * s.units + kGrown * kIndex * blocks;
  // Added one by one, up to the next power of two.
  const uint64_t own = (2 * kPointer + kIndex) * std::bit_ceil(batch);
  const uint64_t dealt = (kPointer + kIndex) * batches[1];
  const uint64_t sums = kFloat * kChains * s.hidden;
  return masks + sums + own + dealt + kFloat * batch + kChains * kChainBookkeeping;
}

uint64_t BlocksOfExpert(const KindGeometry& kind, const HyperParameters& hp) {
  return kind.block_count / std::max(1u, ExpertSlots(hp)) + 1;
}

uint64_t StreamedBytes(const PackGeometry& geometry, const HyperParameters& hp,
                       const StepShape& shape) {
  uint64_t bytes = 0;
  for (const KindGeometry& kind : geometry.kinds) {
    const uint64_t most = std::min({BlocksOfExpert(kind, hp),
                                    kBatchUnitsOfPrompts / std::max(1u, kind.units_per_block) + 1,
                                    kBatchCopyBytes / std::max(1u, kind.block_bytes) + 1});
    bytes = std::max(bytes, most * kind.block_bytes);
  }
  return shape.prompt_rows > 0 ? RoundUp(bytes, 2 * kMiB) : 0;
}

// Of all rows together.
uint64_t UnitsBytes(const PackGeometry& geometry, const HyperParameters& hp, const Sizes& s) {
  uint64_t blocks = 0, batch = 0;
  const uint64_t kinds[] = {s.hidden, s.intermediate};
  for (uint32_t k = 0; k < kUnitKinds; ++k) {
    const KindGeometry& kind = geometry.kinds[k];
    blocks = std::max(blocks, BlocksOfExpert(kind, hp));
    batch = std::max(batch,
                     BatchUnits(kind, kinds[k], kBatchBytes / std::max(1u, kind.unit_bytes) + 1));
  }
  const uint64_t shared = kGrown * (2 * kPointer + kIndex) * batch +  // their columns
                          2 * (kPointer + kIndex) * batch +           // by chain, two precisions
                          kGrown * kIndex * s.units;                  // their positions
  const uint64_t masks = 3 * kFloat * s.units;
  return shared + masks + kGrown * kOpenRequests * kBlockBookkeeping * blocks;
}

uint64_t ExpertsBytes(const HyperParameters& hp, const Sizes& s, uint64_t rows) {
  if (hp.expert_count() == 0) return 0;
  const uint64_t routed = kGrown * kFloat * hp.expert_count() +
                          kGrown * 2 * kFloat * (hp.expert_count() + hp.shared_experts());
  // Rows of the present expert and of the next one, with what comes of them.
  const uint64_t gathered = 2 * kGrown * (2 * kFloat * s.hidden + kRowBookkeeping);
  return rows * (routed + gathered);
}

}  // namespace

StepWorkspace WorkspaceOf(const Manifest& manifest, const PackGeometry& geometry,
                          const StepShape& shape) {
  const HyperParameters& hp = manifest.hyper_parameters();
  const Sizes sizes = SizesOf(hp);
  const uint64_t rows = uint64_t{shape.prompt_rows} + shape.decode_rows;
  const uint64_t logit_rows = std::clamp<uint64_t>(shape.decode_rows, 1, kLogitLanes);
  const uint64_t candidate = 2 * (kFloat + kIndex);  // of a sampler, and of log-probabilities
  return {.rows = RowsBytes(manifest, sizes, rows),
          .products = ProductsBytes(geometry, sizes, shape),
          .attention = AttentionBytes(hp, sizes, shape),
          .lanes = shape.decode_rows * LaneBytes(geometry, sizes),
          .units = UnitsBytes(geometry, hp, sizes),
          .streamed = StreamedBytes(geometry, hp, shape),
          .logits = (logit_rows * kFloat + candidate) * sizes.vocab,
          .experts = ExpertsBytes(hp, sizes, rows)};
}

uint32_t SequencesCarried(uint64_t kv_pages, uint32_t threads) {
  const uint64_t most = uint64_t{kSequencesPerThread} * std::max(1u, threads);
  return static_cast<uint32_t>(std::clamp<uint64_t>(kv_pages / kPagesPerSequence, 1, most));
}

uint32_t DecodeRowsMax(uint32_t sequences_max) {
  return sequences_max == 1 ? 1 : std::max(sequences_max, kDecodeRowsLeast);
}

}  // namespace tidegate
