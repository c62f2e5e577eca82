// One pass over the units that some rows of a layer's MLP want: every block is waited for once, and
// each row adds its own units of it. Owned by the decode thread.
//
// Rows whose masks do not look at the cache add their units in pack order, whatever is resident,
// and so does everybody in their company; a sweep that has none of them takes blocks as they land.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "base/aligned_buffer.h"
#include "engine/batch.h"
#include "engine/model.h"
#include "engine/thread_pool.h"
#include "engine/unit_source.h"
#include "engine/unit_sums.h"
#include "engine/unit_union.h"

namespace tidegate {

// What a row of decode form uses, and to whom that is charged.
struct SweepLane {
  std::vector<uint32_t> positions;  // selected, rising; unused of LaneUnits::kAll
  uint32_t sequence = 0;            // index into StepCost::sequences
  std::vector<uint32_t> begin;      // UnitUnion::Ranges() of positions
};

struct Sweep {
  uint32_t layer = 0;
  UnitKind kind = UnitKind::kInput;
  LeaseMode mode = LeaseMode::kStream;
  uint32_t expert = 0;
  std::span<SweepLane> lanes;
  std::span<SumLane> sums;  // of the lanes
  std::span<const SumPrompt> prompts;
  std::span<const uint32_t> prompt_sequences;  // whose prompt rows these are, each once
  // The blocks of `wanted`; null where every block is resident for good.
  UnitFlow* flow = nullptr;
  const UnitUnion* wanted = nullptr;
  bool in_order = true;
};

class UnitSweep {
 public:
  // Pointers are not owned and must outlive the object. overlap: false waits for all units before
  // adding any (an experiment's baseline).
  UnitSweep(const Model* model, UnitSource* source, ThreadPool* pool, bool overlap);

  // Adds every unit to the rows' sums, and what it took to `cost`.
  absl::Status Run(const Sweep& sweep, StepCost& cost);

 private:
  absl::Status RunFlow(const Sweep& sweep, StageTimes& times);
  absl::Status WaitForAll(const Sweep& sweep);
  absl::Status RunInOrder(const Sweep& sweep, StageTimes& times);
  absl::Status RunPrompts(const Sweep& sweep, StageTimes& times);
  absl::Status RunAsTheyLand(const Sweep& sweep, StageTimes& times);
  void ListShared(const Sweep& sweep);
  void RunComplete(const Sweep& sweep, const std::byte* slots, StageTimes& times);
  // Takes what has landed; `wait`: at least one more block.
  absl::Status Look(const Sweep& sweep, bool wait);
  void GatherBlock(const Sweep& sweep, size_t i, const std::byte* data);
  void GatherComplete(const Sweep& sweep, const std::byte* slots,
                      std::span<const uint32_t> positions, UnitColumns& columns) const;
  void CopyStreamed(const Sweep& sweep, size_t used_up);
  void AddBatch(const Sweep& sweep, StageTimes& times);
  size_t BatchUnits(const Sweep& sweep) const;
  absl::Status Charge(const Sweep& sweep, StepCost& cost);
  void ChargeComplete(const Sweep& sweep, StepCost& cost);
  void Share(const UnitFlow::Cost& flow, UnitKind kind, double read, StepCost& cost);
  void FillMasked(const Sweep& sweep);

  const KindGeometry& Kind(const Sweep& sweep) const {
    return source_->geometry().kind(sweep.kind);
  }
  uint32_t UnitsOf(UnitKind kind) const {
    return kind == UnitKind::kInput ? model_.config.hidden_size : model_.config.intermediate_size;
  }
  const UnitOrder& OrderOf(const Sweep& sweep) const {
    return model_.unit_orders[static_cast<uint32_t>(sweep.kind)][sweep.layer];
  }

  const Model& model_;
  UnitSource* const source_;
  ThreadPool* const pool_;
  const bool overlap_;
  UnitSums sums_;
  UnitColumns shared_;
  size_t gathered_ = 0;  // units of the batch, those of a block counted once
  bool shares_ = false;  // some row adds shared units
  std::vector<uint32_t> shared_positions_;
  std::vector<bool> landed_;        // by block of the flow
  std::vector<uint32_t> arrivals_;  // blocks in the order in which they landed
  std::vector<bool> added_;
  // Streamed blocks of a batch of prompt rows: where they are to be copied, and the copies.
  struct Copy {
    const std::byte* from;
    uint8_t* to;
  };
  std::vector<Copy> copies_;
  AlignedBuffer copied_;
  // Who pays for a flow: those with a mask, then those that use every unit.
  struct User {
    uint32_t sequence = 0;
    const SweepLane* lane = nullptr;  // null: it uses every unit
    uint64_t hits = 0, misses = 0;    // units
    double share = 0;                 // of blocks that were read
  };
  std::vector<User> users_;
};

}  // namespace tidegate
