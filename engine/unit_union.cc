#include "engine/unit_union.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace tidegate {

void UnitUnion::Begin(uint32_t units_per_block, uint32_t first, uint32_t end) {
  units_per_block_ = units_per_block;
  first_ = first;
  end_ = end;
  first_block_ = first / units_per_block;
  all_users_ = 0;
  const size_t count = (end + units_per_block - 1) / units_per_block - first_block_;
  uses_.assign(count, 0);
  squares_.assign(count, 0.0);
  blocks_.clear();
}

void UnitUnion::Add(std::span<const uint32_t> positions, std::span<const WantedBlock> scores) {
  uint64_t end = 0;  // of the block that `uses` counts; one division for each block
  uint32_t* uses = nullptr;
  for (const uint32_t position : positions) {
    if (position >= end) {
      const uint32_t block = position / units_per_block_;
      uses = &uses_[block - first_block_];
      end = (uint64_t{block} + 1) * units_per_block_;
    }
    ++*uses;
  }
  for (const WantedBlock& scored : scores) {
    const double score = scored.score;
    squares_[scored.block - first_block_] += score * score;
  }
}

void UnitUnion::Finish() {
  const double largest = squares_.empty() ? 0 : *std::ranges::max_element(squares_);
  for (uint32_t i = 0; i < uses_.size(); ++i) {
    if (uses_[i] == 0 && all_users_ == 0) continue;
    WantedBlock wanted = {.block = first_block_ + i};
    blocks_.push_back(wanted);
    const auto [begin, end] = Positions(blocks_.size() - 1);
    const uint64_t units = uses_[i] + uint64_t{all_users_} * (end - begin);
    constexpr uint64_t kMost = std::numeric_limits<uint16_t>::max();
    blocks_.back().units = static_cast<uint16_t>(std::min(units, kMost));
    const double share = largest > 0 ? squares_[i] / largest : 0;
    blocks_.back().score = static_cast<uint16_t>(std::lround(std::sqrt(share) * kScoreMax));
  }
}

void UnitUnion::Ranges(std::span<const uint32_t> positions, std::vector<uint32_t>& begin) const {
  begin.clear();
  uint32_t at = 0;
  for (const WantedBlock& wanted : blocks_) {
    begin.push_back(at);
    const uint64_t end = (uint64_t{wanted.block} + 1) * units_per_block_;
    while (at < positions.size() && positions[at] < end) ++at;
  }
  begin.push_back(at);
}

std::pair<uint32_t, uint32_t> UnitUnion::Positions(size_t i) const {
  const uint32_t begin = blocks_[i].block * units_per_block_;
  return {std::max(begin, first_), std::min(begin + units_per_block_, end_)};
}

}  // namespace tidegate
