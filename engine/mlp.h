// The gated MLP (SwiGLU, or GeGLU where the model says so) of a layer, for the rows of a step, from
// units that a UnitSource serves:
//   h = act(Wg x) * (Wu x),  y = Wd h
// dense (every unit) or pruned (method.md, arXiv 2412.01380): the largest |x_i| select input units,
// the largest |h_j| of the approximate h select hidden units. Owned by the decode thread.
//
// Rows share what is read: each block that one of them wants is asked for once. Where a row uses
// every unit, cache-aware rows (RowPruning::may_be_dense) are computed dense too, because that
// reads nothing more; and so they are where their masks together want every block that is not
// resident.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "engine/batch.h"
#include "engine/model.h"
#include "engine/pruning.h"
#include "engine/thread_pool.h"
#include "engine/unit_source.h"
#include "engine/unit_sweep.h"

namespace tidegate {

// Rows of one form and precision. Pointers are not owned.
struct MlpRows {
  RowForm form = RowForm::kDecode;
  Precision precision = Precision::kExact;
  uint32_t count = 0;
  const float* x = nullptr;                       // [count, H]
  float* y = nullptr;                             // [count, H], added to
  const float* weights = nullptr;                 // [count], factors on what is added; null: 1
  std::span<const uint32_t> sequences;            // [count], index into StepCost::sequences
  std::span<const RowPruning* const> prune = {};  // [count] of decode form; null: dense
};

// The next call of Mlp::Run(), where it uses every unit: its input units are asked for while this
// call computes.
struct MlpAhead {
  uint32_t layer = 0, expert = 0;
  uint32_t users = 0;  // rows of decode form and sequences with prompt rows; 0: nothing is known
};

// Counts the users of all units in a call of Mlp::Run() before its rows are there.
class UsersAhead {
 public:
  // `users`: rows of decode form, or sequences with prompt rows, pruned so; null: dense.
  void Add(const RowPruning* prune, uint32_t users) {
    dense_ |= prune == nullptr;
    strict_ |= prune != nullptr && !prune->may_be_dense;
    users_ += users;
  }
  // MlpAhead::users: all of them if each will use every unit, else 0.
  uint32_t count() const { return dense_ && !strict_ ? users_ : 0; }

 private:
  bool dense_ = false;   // one uses every unit: others do too that may
  bool strict_ = false;  // one keeps its mask all the same
  uint32_t users_ = 0;
};

class Mlp {
 public:
  // Pointers are not owned and must outlive the object. overlap: see UnitSweep.
  Mlp(const Model* model, UnitSource* source, ThreadPool* pool, bool overlap);

  // y[r] += MLP(x[r]) for every row. A row's result does not depend on the others, bitwise, unless
  // its mask looks at the cache. After an error, Reset().
  absl::Status Run(uint32_t layer, std::span<const MlpRows> rows, StepCost& cost,
                   const MlpAhead& ahead = {}, uint32_t expert = 0);

  // Of these rows: see UsersAhead.
  static uint32_t UsersOfAll(std::span<const MlpRows> rows);

  // Called with every mask; units by position, of one expert. Set before the first pass.
  using OnMask = std::function<void(uint32_t layer, UnitKind kind, const UnitOrder& order,
                                    std::span<const uint32_t> positions)>;
  void set_on_mask(OnMask on_mask) { on_mask_ = std::move(on_mask); }

  // Called for rows that use every unit with W_gate x and W_up x, [tokens, intermediate_size] each,
  // before they become hidden units; may change them. Set before the first pass.
  using OnGate = std::function<void(uint32_t layer, uint32_t tokens, float* gate, float* up)>;
  void set_on_gate(OnGate on_gate) { on_gate_ = std::move(on_gate); }

  // Called for rows that use every unit with what units of a kind are multiplied with, x [tokens,
  // units]: the normed hidden state, then h. The callback may change x; a 0 leaves the unit out.
  // Set before the first pass.
  using OnInputs = std::function<void(uint32_t layer, UnitKind kind, float* x, uint32_t tokens)>;
  void set_on_inputs(OnInputs on_inputs) { on_inputs_ = std::move(on_inputs); }

  // Drops what was asked for ahead. Call when a pass is abandoned.
  void Reset() { ahead_.reset(); }

 private:
  // What is asked for of one kind.
  struct Request {
    UnitUnion wanted;
    std::unique_ptr<UnitFlow> flow;  // null: all are resident for good
    LeaseMode mode = LeaseMode::kStream;
  };
  // The call of Run().
  struct Call {
    uint32_t layer;
    std::span<const MlpRows> rows;
    uint32_t expert;      // of a mixture; else 0
    bool dense = false;   // some row uses every unit, whatever the masks
    bool masked = false;  // some row keeps its mask all the same
  };
  struct Asked {
    MlpAhead what;
    Request request;
  };

  void PrepareRows(Call& call);
  void ChooseUnits(const Call& call);
  void ShareUnits(const UnitUnion& wanted);
  void PlaceRows(const Call& call, UnitKind kind);
  absl::Status AskForAll(uint32_t layer, UnitKind kind, uint32_t expert, uint32_t users,
                         Request& request);
  absl::Status Ask(const Call& call, UnitKind kind, Request& request, StageTimes& times);
  absl::Status AskAhead(const MlpAhead& ahead);
  void SelectMasks(const Call& call, UnitKind kind, UnitUnion& wanted, StageTimes& times);
  void SelectMask(const Call& call, UnitKind kind, size_t lane,
                  std::span<const ResidencyEntry> residency);
  std::span<const ResidencyEntry> SeenBy(const Call& call, UnitKind kind, size_t lane,
                                         const UnitUnion& wanted);
  void JoinCompany(const Call& call, UnitKind kind, const UnitUnion& wanted);
  bool UnionIsDense(const Call& call, UnitKind kind, const UnitUnion& wanted) const;
  absl::Status Sum(const Call& call, UnitKind kind, const Request& request, StepCost& cost);
  void ClearGate(size_t rows);
  void Activate(const Call& call, StageTimes& times);
  void Show(const Call& call, UnitKind kind);
  uint32_t AllUsers() const;

  const KindGeometry& Kind(UnitKind kind) const { return source_->geometry().kind(kind); }
  // Units of one expert.
  uint32_t UnitsOf(UnitKind kind) const {
    return kind == UnitKind::kInput ? model_.config.hidden_size : model_.config.intermediate_size;
  }
  std::span<const uint32_t> UnitAt(uint32_t layer, UnitKind kind, uint32_t expert) const;

  const Model& model_;
  UnitSource* const source_;
  ThreadPool* const pool_;
  UnitSweep sweep_;
  MaskSelector selector_;
  OnMask on_mask_;
  OnGate on_gate_;
  OnInputs on_inputs_;
  // By row of decode form of a call, in the order of the groups; vectors keep their memory.
  std::vector<SweepLane> lanes_;
  std::vector<SumLane> sums_;
  std::vector<const RowPruning*> prune_;
  size_t lane_count_ = 0;
  std::vector<SumPrompt> prompts_;
  std::vector<uint32_t> prompt_sequences_;
  std::vector<float> gate_, up_;  // [rows, I], as many as needed so far
  std::vector<float> seen_;       // [rows, H], what on_inputs_ made of x
  std::vector<WantedBlock> scored_;
  std::vector<ResidencyEntry> company_;  // what a mask that follows company takes for resident
  bool company_kept_ = false;            // in the present sweep
  std::optional<Asked> ahead_;
};

}  // namespace tidegate
