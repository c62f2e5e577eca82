// Which blocks the rows of a sweep want: every block once, however many rows use it. Owned by the
// decode thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/store/v1/shm_layout.h"

namespace tidegate {

class UnitUnion {
 public:
  // For units at positions [first, end) of a layer, units_per_block to a block. Forgets all users.
  void Begin(uint32_t units_per_block, uint32_t first, uint32_t end);

  // `users` that use every unit.
  void AddAll(uint32_t users) { all_users_ += users; }

  // A user of the units at `positions`, rising. scores: one for each of its blocks, in order, as
  // ScoreBlocks() makes them; empty: none.
  void Add(std::span<const uint32_t> positions, std::span<const WantedBlock> scores = {});

  // Whether somebody that was added so far wants the block.
  bool Wants(uint32_t block) const { return all_users_ > 0 || uses_[block - first_block_] > 0; }

  // Lists the blocks. Nothing is added afterwards.
  void Finish();

  // Wanted blocks, rising; `units` sums up uses over the users.
  std::span<const WantedBlock> blocks() const { return blocks_; }

  // Where a user's positions lie by block: those of blocks()[i] are positions[begin[i]] up to
  // positions[begin[i + 1]].
  void Ranges(std::span<const uint32_t> positions, std::vector<uint32_t>& begin) const;

  // Positions of the units in blocks()[i]: [first, second).
  std::pair<uint32_t, uint32_t> Positions(size_t i) const;

  // Users of all units.
  uint32_t all_users() const { return all_users_; }

 private:
  uint32_t units_per_block_ = 1, first_ = 0, end_ = 0, first_block_ = 0;
  uint32_t all_users_ = 0;
  std::vector<uint32_t>
      uses_;  // by block from first_block_ on: units, summed over the users of some
  std::vector<double> squares_;  // of scores, the same way
  std::vector<WantedBlock> blocks_;
};

}  // namespace tidegate
