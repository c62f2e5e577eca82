// Dynamic Input Pruning: which units a token needs. Pure functions.
// Source: Federici et al., arXiv 2412.01380 and its public evaluation code.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "weightstore/client/weight_client.h"

namespace tidegate {

// Shares of the units to keep for a mean density d of the three MLP matrices:
//   keep_input  = sigmoid(0.98499 logit(d) + 0.29976)
//   keep_hidden = 3 (d - 2/3 keep_input)
// d >= 1 is exactly dense.
struct DensitySplit {
  double keep_input = 1;
  double keep_hidden = 1;
};
DensitySplit SplitDensity(double density);

// Number of units kept: floor(keep * count), at least 1.
uint32_t KeptUnits(double keep, uint32_t count);

// Units of each kind that a token keeps of one MLP.
struct KeptCounts {
  uint32_t input = 0;
  uint32_t hidden = 0;
};
// How many units an MLP with so many keeps at a mean density.
KeptCounts KeptAt(double density, uint32_t inputs, uint32_t hidden);

// Warm-up of gamma at generated token t (0 is the first): 1 - (1 - gamma) (1 - gamma^(t/4)).
double WarmUpGamma(double gamma, uint32_t generated_index);

// What a mask may look at besides the scores.
struct MaskParams {
  uint32_t kept = 0;  // units to select, [1, count]
  // Score factor of blocks that are not resident. 1: no look at them; 0: they come behind all
  // others, the largest first.
  double gamma = 1;
  uint32_t fixed_top_n = 0;  // this many largest scores are exempt from gamma
  // Share of `kept`, [0, 1]: a block whose own score is among that many largest scores is exempt as
  // a whole. Without it a selection that fits into the cache never leaves it (lock-on).
  double protected_share = 0;
  uint32_t first_unit = 0;  // of the values and positions: an expert's are a part of a layer's
};

// How one token prunes the MLPs of all layers.
struct RowPruning {
  uint32_t kept_input = 0;  // units
  uint32_t kept_hidden = 0;
  double gamma = 1;
  uint32_t fixed_top_n = 0;
  double protected_share = 0;
  // Its masks look at the cache anyway, so that it may be computed dense where that reads no more.
  bool may_be_dense = false;
  // To its masks, blocks count as resident that rows before it in the step want: the step reads
  // them anyway.
  bool follows_company = false;
  // By layer, instead of the two above; empty: the same everywhere. Not owned.
  std::span<const KeptCounts> layers = {};

  KeptCounts Kept(uint32_t layer) const {
    return layers.empty() ? KeptCounts{kept_input, kept_hidden} : layers[layer];
  }
  // Mean over the layers, by UnitKind.
  std::array<double, kUnitKinds> MeanKept() const;
};

// Lists the blocks that a mask wants, rising, with scores (WantedBlock::score) by the units that it
// selects from them. positions: increasing, as Select() returns them. unit_at, first_unit: as for
// Select(). `blocks` is replaced.
void ScoreBlocks(std::span<const float> values, std::span<const uint32_t> unit_at,
                 std::span<const uint32_t> positions, uint32_t units_per_block, uint32_t first_unit,
                 std::vector<WantedBlock>& blocks);

// Selects the units with the largest scores |values[unit]|. Ties go to the smaller position.
//
// With gamma below 1, a block that is not resident is taken or left as a whole: one read fetches
// all of its units, so they share gamma times the root mean square of all their scores. A unit that
// fixed_top_n exempts keeps its own score, and still counts in the mean of the others. Units of
// resident blocks are chosen one by one. Where a block is one unit this is the paper's rule; where
// it is more, it is "utility per I/O cost" (Neuron Chunking, arXiv 2511.18692), and a gamma just
// below 1 differs from 1. The last block taken may be cut, because exactly `kept` units are.
class MaskSelector {
 public:
  // residency [blocks]: entry p / units_per_block says whether position p is resident; unused at
  // gamma 1. unit_at [count] or empty, see UnitOrder. NaN scores count as the largest.
  // Returns positions in increasing order, valid until the next call. For an expert, values,
  // unit_at and residency are slices that begin at first_unit; the numbers inside unit_at, and
  // those that are returned, count from the layer's first unit.
  std::span<const uint32_t> Select(std::span<const float> values, const MaskParams& params,
                                   std::span<const uint32_t> unit_at,
                                   std::span<const ResidencyEntry> residency,
                                   uint32_t units_per_block);

 private:
  // scores_ by position: |values|, finite.
  void Score(std::span<const float> values, std::span<const uint32_t> unit_at, uint32_t first_unit);
  // The k-th largest of scores_ (k from 1).
  float Threshold(size_t k);
  void Penalise(const MaskParams& params, std::span<const ResidencyEntry> residency,
                uint32_t units_per_block);

  std::vector<float> scores_;      // by position
  std::vector<float> candidates_;  // scratch
  std::vector<uint32_t> positions_;
};

}  // namespace tidegate
