#include "engine/unit_sums.h"

#include <algorithm>

#include "base/units.h"
#include "engine/grow.h"

namespace tidegate {
namespace {

// Hidden units that go to one chain before the next gets some: what a block usually holds.
constexpr size_t kChainRun = 8;
// Output ranges of threads begin at whole quantisation groups and cache lines of floats.
constexpr size_t kChainGranule = 64;

}  // namespace

void UnitColumns::Clear() {
  columns[0].clear();
  columns[1].clear();
  units.clear();
}

void UnitSums::Begin(const SumShape& shape, std::span<SumLane> lanes,
                     std::span<const SumPrompt> prompts) {
  shape_ = shape;
  lanes_ = lanes;
  prompts_ = prompts;
  group_count_ = 0;
  const auto add_group = [&]() -> Group& {
    if (group_count_ == groups_.size()) groups_.emplace_back();
    Group& group = groups_[group_count_++];
    group.lanes.clear();
    group.columns = nullptr;
    group.dealt = 0;
    return group;
  };
  for (const Precision precision : {Precision::kExact, Precision::kFast}) {
    Group* shared = nullptr;
    for (SumLane& lane : lanes_) {
      if (lane.units == LaneUnits::kOwn || lane.precision != precision) continue;
      if (shared == nullptr) shared = &add_group();
      shared->lanes.push_back(&lane);
    }
  }
  for (SumLane& lane : lanes_) {
    if (lane.units != LaneUnits::kOwn) continue;
    Group& group = add_group();
    group.lanes.push_back(&lane);
    group.columns = &lane.own;
  }
  if (shape_.kind == UnitKind::kHidden) {
    for (SumLane& lane : lanes_) lane.chain_sums.assign(kChains * shape_.elements, 0.0f);
  }
}

void UnitSums::Add(const UnitColumns& shared) {
  if (!shared.empty()) AddPrompts(shared);
  chains_.clear();
  chain_coefficients_.clear();
  chain_sums_.clear();
  size_t bytes = 0;
  for (Group& group : std::span(groups_).first(group_count_)) {
    const UnitColumns& batch = group.columns != nullptr ? *group.columns : shared;
    if (batch.empty()) continue;
    bytes += batch.units.size() * shape_.unit_bytes * group.lanes.size();
    if (shape_.kind == UnitKind::kHidden) {
      AddHidden(group, batch);
    } else {
      AddInput(group, batch);
    }
  }
  RunChains(bytes);
}

void UnitSums::AddInput(Group& group, const UnitColumns& batch) {
  const size_t count = batch.units.size();
  for (SumLane* lane : group.lanes) {
    GrowAnew(count, lane->coefficients);
    const float* const x = lane->factors();
    for (size_t k = 0; k < count; ++k) lane->coefficients[k] = x[batch.units[k]];
  }
  for (uint32_t c = 0; c < shape_.columns; ++c) {
    chains_.push_back({batch.columns[c].data(), count, chain_sums_.size(), group.lanes.size(),
                       &BestKernels(group.lanes[0]->precision)});
    for (SumLane* lane : group.lanes) {
      chain_coefficients_.push_back(lane->coefficients.data());
      chain_sums_.push_back(lane->y[c]);
    }
  }
}

// Deals the batch out to the chains, kChainRun units at a time.
void UnitSums::AddHidden(Group& group, const UnitColumns& batch) {
  const size_t count = batch.units.size();
  const auto chain_of = [&](size_t k) { return (group.dealt + k) / kChainRun % kChains; };
  size_t begin[kChains + 1] = {};
  for (size_t k = 0; k < count; ++k) ++begin[chain_of(k) + 1];
  for (size_t c = 0; c < kChains; ++c) begin[c + 1] += begin[c];
  size_t next[kChains];
  std::copy_n(begin, kChains, next);
  GrowAnew(count, group.order);
  GrowAnew(count, group.by_chain);
  for (size_t k = 0; k < count; ++k) {
    const size_t at = next[chain_of(k)]++;
    group.order[at] = static_cast<uint32_t>(k);
    group.by_chain[at] = batch.columns[0][k];
  }
  group.dealt += count;
  for (SumLane* lane : group.lanes) {
    GrowAnew(count, lane->coefficients);
    const float* const x = lane->factors();
    for (size_t at = 0; at < count; ++at) {
      lane->coefficients[at] = x[batch.units[group.order[at]]];
    }
  }
  for (size_t c = 0; c < kChains; ++c) {
    if (begin[c] == begin[c + 1]) continue;
    chains_.push_back({group.by_chain.data() + begin[c], begin[c + 1] - begin[c],
                       chain_sums_.size(), group.lanes.size(),
                       &BestKernels(group.lanes[0]->precision)});
    for (SumLane* lane : group.lanes) {
      chain_coefficients_.push_back(lane->coefficients.data() + begin[c]);
      chain_sums_.push_back(lane->chain_sums.data() + c * shape_.elements);
    }
  }
}

// Threads divide (chain, output). Chains of equal work are cut into one range for each thread;
// where they differ, whoever is free takes the next chain.
void UnitSums::RunChains(size_t bytes) {
  if (chains_.empty()) return;
  const size_t elements = shape_.elements;
  const size_t stride = RoundUp(elements, kChainGranule);
  const auto body = [&](size_t begin, size_t end) {
    for (size_t i = begin / stride; i * stride < end; ++i) {
      const size_t first = std::max(begin, i * stride) - i * stride;
      const size_t last = std::min(end - i * stride, elements);
      if (first >= last) continue;
      const Chain& chain = chains_[i];
      const float* const* coefficients = &chain_coefficients_[chain.first_lane];
      float* const* sums = &chain_sums_[chain.first_lane];
      if (chain.lanes == 1) {
        chain.kernels->add_columns(model_.unit_encoding, chain.columns, coefficients[0],
                                   chain.count, elements, first, last, sums[0]);
      } else {
        chain.kernels->add_columns_lanes(model_.unit_encoding, chain.columns, coefficients,
                                         chain.count, elements, first, last, sums, chain.lanes);
      }
    }
  };
  if (group_count_ == 1) {
    pool_->For(chains_.size() * stride, kChainGranule, bytes, body);
  } else {
    pool_->ForPieces(chains_.size() * stride, stride, bytes, body);
  }
}

void UnitSums::AddPrompts(const UnitColumns& shared) {
  for (const SumPrompt& prompt : prompts_) {
    matmul_.Pack(prompt.precision, {.data = prompt.x,
                                    .stride = shape_.units,
                                    .index = shared.units.data(),
                                    .depth = shared.units.size(),
                                    .tokens = prompt.tokens});
    for (uint32_t c = 0; c < shape_.columns; ++c) {
      matmul_.AddColumns({.encoding = model_.unit_encoding,
                          .columns = shared.columns[c].data(),
                          .count = shared.units.size(),
                          .elements = shape_.elements},
                         prompt.y[c]);
    }
  }
}

void UnitSums::Finish() {
  const Kernels& kernels = BestKernels(Precision::kExact);
  const size_t elements = shape_.elements;
  const bool input = shape_.kind == UnitKind::kInput;
  const LayerLora& lora = model_.lora.layers[shape_.layer];
  const LoraFactors* factors[2] = {input ? &lora.gate : &lora.down, input ? &lora.up : nullptr};
  const auto add_lora = [&](const float* x, uint32_t tokens, bool many, Precision precision,
                            float* const* y) {
    for (size_t c = 0; c < 2; ++c) {
      if (factors[c] == nullptr || factors[c]->rank == 0) continue;
      lora_.Add(*factors[c], x, tokens, many, precision, y[c]);
    }
  };
  for (SumLane& lane : lanes_) {
    if (!input) {
      float* sums = lane.chain_sums.data();
      for (size_t c = 1; c < kChains; ++c) kernels.add(sums + c * elements, elements, sums);
      kernels.add(sums, elements, lane.y[0]);
    }
    const bool adapted = factors[0]->rank != 0 || (factors[1] != nullptr && factors[1]->rank != 0);
    if (!adapted) continue;
    add_lora(lane.all() ? lane.x : lane.masked.data(), 1, /*many=*/false, lane.precision, lane.y);
  }
  for (const SumPrompt& prompt : prompts_) {
    add_lora(prompt.x, prompt.tokens, /*many=*/true, prompt.precision, prompt.y);
  }
}

}  // namespace tidegate
