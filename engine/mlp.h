// The gated MLP (SwiGLU, or GeGLU where the model says so) computed from units that the weight
// store serves:
//   h = act(Wg x) * (Wu x),  y = Wd h
// dense (every unit, streamed) or pruned (method.md, arXiv 2412.01380): the largest |x_i| select
// input units, the largest |h_j| of the approximate h select hidden units. Owned by the decode
// thread.
//
// Order of sums. Where the mask does not look at the cache, units are added in pack order whatever
// is resident: the result is the same bit by bit for any cache, policy, device or number of
// threads, and pruning at density 1 equals dense. Where it does (gamma < 1), resident units are
// added first, the others as they land. Hidden units are dealt out to a fixed number of partial
// sums (docs/decisions/0001-order-of-sums.md), so that threads read whole columns.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/aligned_buffer.h"
#include "engine/kernels/kernels.h"
#include "engine/lora_product.h"
#include "engine/matmul.h"
#include "engine/model.h"
#include "engine/pruning.h"
#include "engine/stage_times.h"
#include "engine/thread_pool.h"
#include "weightstore/client/weight_client.h"

namespace tidegate {

// What one or more passes cost, MLP and all. Cumulative.
struct PassAccounts {
  uint64_t hit_units[kUnitKinds] = {0, 0};  // by UnitKind; selected units found resident
  uint64_t miss_units[kUnitKinds] = {0, 0};
  uint64_t flash_bytes = 0;
  uint64_t flash_reads = 0;
  StageTimes times;
};

// One of the MLPs of a layer that is a mixture of experts, and what it counts for each token.
struct MlpExpert {
  uint32_t index = 0;
  const float* weights = nullptr;  // [tokens], factors on y; null: 1
  std::optional<uint32_t> next;    // expert of this layer that a dense pass takes after this one
};

class Mlp {
 public:
  // Pointers are not owned and must outlive the object. overlap: false waits for all units of a
  // lease before adding any (an experiment's baseline).
  Mlp(const Model* model, WeightClient* client, ThreadPool* pool, bool overlap);

  // y += MLP(x), every unit. x, y [H].
  absl::Status Dense(uint32_t layer, const float* x, Precision precision, float* y,
                     PassAccounts& accounts, const MlpExpert& expert = {});

  // y[t] += MLP(x[t]) for t in [0, tokens), every unit: the form for prompts. x, y [tokens, H]. The
  // result for one token does not depend on the others, bitwise, but differs from Dense() by
  // rounding.
  absl::Status DenseTokens(uint32_t layer, const float* x, uint32_t tokens, Precision precision,
                           float* y, PassAccounts& accounts, const MlpExpert& expert = {});

  // y += pruned MLP(x). x, y [H].
  absl::Status Pruned(uint32_t layer, const float* x, const PruneStep& step, Precision precision,
                      float* y, PassAccounts& accounts, const MlpExpert& expert = {});

  // Called with every mask of Pruned(); units by position, of one expert. Set before the first
  // pass.
  using OnMask = std::function<void(uint32_t layer, UnitKind kind, const UnitOrder& order,
                                    std::span<const uint32_t> positions)>;
  void set_on_mask(OnMask on_mask) { on_mask_ = std::move(on_mask); }

  // Called by the dense passes with W_gate x and W_up x, [tokens, intermediate_size] each, before
  // they become hidden units; may change them. Set before the first pass.
  using OnGate = std::function<void(uint32_t layer, uint32_t tokens, float* gate, float* up)>;
  void set_on_gate(OnGate on_gate) { on_gate_ = std::move(on_gate); }

  // Called with what dense passes multiply the units of a kind with, x [tokens, unit_count]: the
  // normed hidden state, then h. May change what this MLP sees of them: zeros leave units out. Set
  // before the first pass.
  using OnInputs = std::function<void(uint32_t layer, UnitKind kind, float* x, uint32_t tokens)>;
  void set_on_inputs(OnInputs on_inputs) { on_inputs_ = std::move(on_inputs); }

  // Drops streams that were begun ahead. Call when a pass is abandoned.
  void Reset() { ahead_.reset(); }

 private:
  // Units of a lease that are added in one go.
  struct Batch {
    std::vector<const uint8_t*> columns[2];  // gate and up, or down in [0]
    std::vector<uint32_t> units;
    void Clear();
  };
  // Inputs and outputs of one sweep over units: y_c[t] += sum_u x[t, u] column_c(u).
  struct Sweep {
    uint32_t layer = 0;
    UnitKind kind = UnitKind::kInput;
    LeaseMode mode = LeaseMode::kStream;
    const UnitOrder* order = nullptr;
    std::span<const uint32_t> positions;  // selected, increasing
    uint32_t first_unit = 0;              // of the expert
    uint32_t units = 0;                   // that it has
    const float* x = nullptr;             // [tokens, units]
    uint32_t tokens = 1;
    bool many = false;  // of DenseTokens()
    Precision precision = Precision::kExact;
    float* y[2] = {nullptr, nullptr};  // [tokens, column_elements] each
    bool in_order = true;
  };

  // values: scores by unit of the expert of a mask's units, or empty.
  absl::StatusOr<WeightLease> Acquire(uint32_t layer, UnitKind kind,
                                      std::span<const uint32_t> positions, LeaseMode mode,
                                      std::span<const float> values = {}, uint32_t expert = 0);
  // Without a lease in it where none is needed.
  absl::StatusOr<WeightLease> AcquireAll(uint32_t layer, UnitKind kind, uint32_t expert);
  absl::Status StreamAhead(uint32_t layer, const MlpExpert& expert);
  absl::Status RunDense(uint32_t layer, const float* x, uint32_t tokens, bool many,
                        Precision precision, float* y, PassAccounts& accounts,
                        const MlpExpert& expert);
  // What the MLP sees of x [tokens, H]: x, or a copy that on_inputs_ may have changed.
  const float* Seen(uint32_t layer, const float* x, uint32_t tokens) {
    if (on_inputs_ == nullptr) return x;
    seen_.assign(x, x + size_t{tokens} * model_->config.hidden_size);
    on_inputs_(layer, UnitKind::kInput, seen_.data(), tokens);
    return seen_.data();
  }
  // Of one expert.
  uint32_t UnitsOf(UnitKind kind) const {
    return kind == UnitKind::kInput ? model_->config.hidden_size : model_->config.intermediate_size;
  }
  // The expert's part of the layer's order; empty where that is the model's.
  std::span<const uint32_t> UnitAt(uint32_t layer, UnitKind kind, uint32_t expert) const {
    const std::span<const uint32_t> unit_at =
        model_->unit_orders[static_cast<uint32_t>(kind)][layer].unit_at;
    return unit_at.empty() ? unit_at : unit_at.subspan(expert * UnitsOf(kind), UnitsOf(kind));
  }
  // All positions of an expert.
  std::span<const uint32_t> AllOf(UnitKind kind, uint32_t expert) const {
    return std::span(all_positions_[static_cast<uint32_t>(kind)])
        .subspan(expert * UnitsOf(kind), UnitsOf(kind));
  }
  std::span<const uint32_t> Select(uint32_t layer, UnitKind kind, uint32_t expert, uint32_t kept,
                                   std::span<const float> values, const PruneStep& step,
                                   StageTimes& times);
  absl::Status Run(WeightLease& lease, const Sweep& sweep, PassAccounts& accounts);
  absl::Status RunInOrder(WeightLease& lease, const Sweep& sweep, StageTimes& times);
  absl::Status RunAsTheyLand(WeightLease& lease, const Sweep& sweep, StageTimes& times);
  absl::Status RunLease(WeightLease& lease, const Sweep& sweep, PassAccounts& accounts);
  // The sweep over units that are resident for good: no lease.
  void RunComplete(const Sweep& sweep, PassAccounts& accounts);
  void GatherBlock(const Sweep& sweep, size_t block, const std::byte* data);
  absl::Status RunTokens(WeightLease& lease, const Sweep& sweep, StageTimes& times);
  void CopyStreamed(WeightLease& lease, const Sweep& sweep, size_t consumed);
  void GatherComplete(const Sweep& sweep, std::span<const uint32_t> positions);
  size_t BatchUnits(const Sweep& sweep) const;
  void AddBatch(const Sweep& sweep, StageTimes& times);
  void AddBatchOne(const Sweep& sweep);
  static bool InParts(const Sweep& sweep) { return sweep.kind == UnitKind::kHidden && !sweep.many; }
  void BeginParts(const Sweep& sweep, StageTimes& times);
  void DealParts(const Sweep& sweep);
  void FinishParts(const Sweep& sweep, StageTimes& times);
  // Completes the outputs once every unit has been added.
  void FinishSweep(const Sweep& sweep, StageTimes& times);
  // sweep.x under its mask, [tokens, units].
  const float* MaskedInputs(const Sweep& sweep);
  void AddBatchTokens(const Sweep& sweep);
  void ActivateGate(uint32_t tokens, const float* weights, StageTimes& times);
  void ClearGate(uint32_t tokens);

  const Model* const model_;
  WeightClient* const client_;
  ThreadPool* const pool_;
  const bool overlap_;
  MaskSelector selector_;
  OnMask on_mask_;
  OnGate on_gate_;
  OnInputs on_inputs_;
  LoraProduct lora_;
  std::vector<float> masked_;  // x of one token under a mask
  Matmul matmul_;
  std::vector<float> gate_, up_;            // [tokens, I], as large as needed so far
  std::vector<float> seen_;                 // [tokens, H], what on_inputs_ made of x
  std::vector<uint32_t> all_positions_[2];  // 0, 1, 2, ... by kind
  std::vector<WantedBlock> wanted_;
  std::vector<uint32_t>
      block_begin_;          // first index into positions of each wanted block, and the end
  std::vector<bool> added_;  // blocks of a lease
  std::vector<float> coefficients_;
  Batch batch_;
  // Partial sums of the hidden units of one token, and what the current batch adds to each.
  static constexpr size_t kParts = 8;
  struct Part {
    std::vector<const uint8_t*> columns;
    std::vector<float> coefficients;
    void Clear();
  };
  Part parts_[kParts];
  size_t dealt_ = 0;              // units, of this sweep
  std::vector<float> part_sums_;  // [kParts, column_elements]
  // Streamed blocks of a batch of many tokens: where they are to be copied, and the copies: as many
  // as a batch of the largest layer so far can hold.
  struct Copy {
    const std::byte* from;
    uint8_t* to;
  };
  std::vector<Copy> copies_;
  AlignedBuffer copied_;
  // A dense pass streams the input units of what comes next while it computes this: of the next
  // layer or, in mixtures, of the next expert of this layer.
  struct Ahead {
    uint32_t layer, expert;
    WeightLease lease;
  };
  std::optional<Ahead> ahead_;
};

}  // namespace tidegate
