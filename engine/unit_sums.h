// The arithmetic of a sweep: adds columns of units to the sums of rows, y_c += x[unit]
// column_c(unit), on the pool's threads. Owned by the decode thread.
//
// Order of sums. A row's units are added in the order in which they come. Of hidden units, a row of
// decode form has eight chains, to which its units are dealt in turn, so that threads read whole
// columns (docs/decisions/0001-order-of-sums.md). Chains depend on the units that the row adds:
// with LaneUnits::kMasked, on those of its company too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/kernels.h"
#include "engine/lora_product.h"
#include "engine/matmul.h"
#include "engine/model.h"
#include "engine/thread_pool.h"

namespace tidegate {

// Units that are added in one go.
struct UnitColumns {
  std::vector<const uint8_t*> columns[2];  // gate and up, or down in [0]
  std::vector<uint32_t> units;             // of the expert

  bool empty() const { return units.empty(); }
  void Clear();
};

// Which units a row adds.
enum class LaneUnits : uint8_t {
  kAll,     // all that are shared
  kMasked,  // all that are shared; those that its mask leaves out count as 0
  kOwn,     // those of its mask alone, which nobody shares
};

// A row of decode form in one sweep.
struct SumLane {
  const float* x = nullptr;          // [units]
  float* y[2] = {nullptr, nullptr};  // [column elements] each
  Precision precision = Precision::kExact;
  LaneUnits units = LaneUnits::kAll;
  std::vector<float> masked;  // [units], x under its mask: of kMasked, and where adapters want it
  UnitColumns own;            // of kOwn: a batch

  std::vector<float> coefficients;  // of a batch
  std::vector<float> chain_sums;    // [chains, column elements] of hidden units

  bool all() const { return units == LaneUnits::kAll; }
  // What its shared units are multiplied with.
  const float* factors() const { return units == LaneUnits::kMasked ? masked.data() : x; }
};

// Rows of prompt form in one sweep: they use every unit.
struct SumPrompt {
  const float* x = nullptr;          // [tokens, units]
  float* y[2] = {nullptr, nullptr};  // [tokens, column elements] each
  uint32_t tokens = 0;
  Precision precision = Precision::kExact;
};

// What all rows of a sweep have in common.
struct SumShape {
  uint32_t layer = 0;
  UnitKind kind = UnitKind::kInput;
  uint32_t units = 0;     // of the expert
  uint32_t elements = 0;  // of a column
  uint32_t columns = 1;   // of a unit
  size_t unit_bytes = 0;
};

class UnitSums {
 public:
  // Pointers are not owned.
  UnitSums(const Model* model, ThreadPool* pool)
      : model_(*model), pool_(pool), lora_(pool), matmul_(pool) {}

  // The spans must stay until Finish().
  void Begin(const SumShape& shape, std::span<SumLane> lanes, std::span<const SumPrompt> prompts);

  // Adds a batch: `shared`, and the own units of lanes of kOwn.
  void Add(const UnitColumns& shared);

  // Completes the sums once every unit has been added.
  void Finish();

 private:
  // Lanes that add the same units.
  struct Group {
    std::vector<SumLane*> lanes;
    const UnitColumns* columns = nullptr;  // null: the shared ones
    size_t dealt = 0;                      // units so far
    std::vector<uint32_t> order;           // of a batch: index into it by chain
    std::vector<const uint8_t*> by_chain;
  };
  // A sum of columns for some lanes: what is divided among the threads.
  struct Chain {
    const uint8_t* const* columns;
    size_t count;
    size_t first_lane, lanes;  // into the two below
    const Kernels* kernels;
  };
  static constexpr size_t kChains = 8;

  void AddPrompts(const UnitColumns& shared);
  void AddInput(Group& group, const UnitColumns& batch);
  void AddHidden(Group& group, const UnitColumns& batch);
  void RunChains(size_t bytes);

  const Model& model_;
  ThreadPool* const pool_;
  LoraProduct lora_;
  Matmul matmul_;
  SumShape shape_;
  std::span<SumLane> lanes_;
  std::span<const SumPrompt> prompts_;
  std::vector<Group> groups_;
  size_t group_count_ = 0;  // of groups_ that are in use
  std::vector<Chain> chains_;
  std::vector<const float*> chain_coefficients_;
  std::vector<float*> chain_sums_;
};

}  // namespace tidegate
