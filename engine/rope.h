// Rotary position embedding: turns pairs of elements of each query and key head by angles that grow
// with the position (Su et al., arXiv 2104.09864). RopeTable is plain data, constant once made;
// Rotations belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tidegate {

// One way to turn heads.
struct RopeTable {
  std::vector<double> frequencies;  // [pairs], radians per position, scaling included
  double magnitude = 1;             // factor on sines and cosines
};

// How the frequencies of a model are stretched for contexts beyond those it was first trained for.
struct RopeStretch {
  enum class Kind { kNone, kLinear, kYarn };
  Kind kind = Kind::kNone;
  double factor = 1;
  // For kYarn (Peng et al., arXiv 2309.00071): pairs that turn more than beta_fast times within
  // original_context keep their frequency, those that turn less than beta_slow times are divided by
  // factor, those between are mixed; and magnitude grows by 1 + 0.1 ln factor.
  double original_context = 0;
  double beta_fast = 32, beta_slow = 1;
};

// Frequency of pair i: base^(-2i / dims), divided by divisors[i] (null: none) and stretched.
// dims: rotated elements of a head, even. `magnitude` is multiplied with what the stretch brings.
RopeTable MakeRopeTable(double base, uint32_t dims, const float* divisors,
                        const RopeStretch& stretch, double magnitude);

// Which elements make a pair.
enum class RopePairs {
  kAdjacent,  // 2i and 2i + 1
  kHalves,    // i and i + pairs
};

// Sines and cosines for the rows of a step.
class Rotations {
 public:
  void Clear() { turns_.clear(); }
  // Appends rows at `count` consecutive positions. All tables have the same number of pairs.
  void Append(const RopeTable& table, uint32_t first_position, uint32_t count);

  // Turns heads [head_count, head_size] of row `index`. Elements behind the pairs stay as they are.
  void Rotate(RopePairs pairs, uint32_t index, float* heads, uint32_t head_count,
              uint32_t head_size) const;

 private:
  struct Turn {
    float cosine, sine;
  };
  size_t pairs_ = 0;
  std::vector<Turn> turns_;  // [rows, pairs]
};

}  // namespace tidegate
