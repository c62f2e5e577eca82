#include "engine/unit_sweep.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

// Bytes of units added per pass over the outputs: so much work that the meeting of the threads does
// not show beside it (0.3 %), and little enough that what lands meanwhile is not kept waiting.
constexpr size_t kBatchBytes = 16 << 20;
// Units per pass for prompt rows: each pass reads and writes all outputs of all rows, which takes
// as long as multiplying some 50 units.
constexpr size_t kBatchUnitsOfPrompts = 512;
constexpr size_t kBatchCopyBytes = 8 << 20;  // of streamed blocks, in a batch of prompt rows

}  // namespace

UnitSweep::UnitSweep(const Model* model, UnitSource* source, ThreadPool* pool, bool overlap)
    : model_(*model), source_(source), pool_(pool), overlap_(overlap), sums_(model, pool) {}

absl::Status UnitSweep::Run(const Sweep& sweep, StepCost& cost) {
  const KindGeometry& kind = Kind(sweep);
  StageTimes& times = cost.step.times;
  shares_ = !sweep.prompts.empty() || std::ranges::any_of(sweep.sums, [](const SumLane& lane) {
    return lane.units != LaneUnits::kOwn;
  });
  shared_.Clear();
  for (SumLane& lane : sweep.sums) lane.own.Clear();
  gathered_ = 0;
  {
    const StageTimer timer(times, Stage::kUnits);
    FillMasked(sweep);
    sums_.Begin({.layer = sweep.layer,
                 .kind = sweep.kind,
                 .units = UnitsOf(sweep.kind),
                 .elements = kind.column_elements,
                 .columns = kind.columns_per_unit,
                 .unit_bytes = kind.unit_bytes},
                sweep.sums, sweep.prompts);
  }
  if (sweep.flow == nullptr) {
    RunComplete(sweep, source_->CompleteSlots(sweep.layer, sweep.kind), times);
    ChargeComplete(sweep, cost);
  } else {
    RETURN_IF_ERROR(RunFlow(sweep, times));
    RETURN_IF_ERROR(Charge(sweep, cost));
  }
  const StageTimer timer(times, Stage::kUnits);
  sums_.Finish();
  return absl::OkStatus();
}

// x under the masks of rows that add shared units, or have adapters.
void UnitSweep::FillMasked(const Sweep& sweep) {
  const UnitOrder& order = OrderOf(sweep);
  const uint32_t first_unit = sweep.expert * UnitsOf(sweep.kind);
  const bool adapted = model_.lora.bytes() > 0;
  for (size_t l = 0; l < sweep.lanes.size(); ++l) {
    SumLane& lane = sweep.sums[l];
    if (lane.units != LaneUnits::kMasked && (lane.all() || !adapted)) continue;
    lane.masked.assign(UnitsOf(sweep.kind), 0.0f);
    for (const uint32_t position : sweep.lanes[l].positions) {
      const uint32_t unit = order.Unit(position) - first_unit;
      lane.masked[unit] = lane.x[unit];
    }
  }
}

absl::Status UnitSweep::RunFlow(const Sweep& sweep, StageTimes& times) {
  landed_.assign(sweep.flow->size(), false);
  arrivals_.clear();
  copies_.clear();
  for (size_t l = 0; l < sweep.lanes.size(); ++l) {
    if (!sweep.sums[l].all()) sweep.wanted->Ranges(sweep.lanes[l].positions, sweep.lanes[l].begin);
  }
  if (!overlap_) RETURN_IF_ERROR(WaitForAll(sweep));
  if (!sweep.prompts.empty()) return RunPrompts(sweep, times);
  return sweep.in_order ? RunInOrder(sweep, times) : RunAsTheyLand(sweep, times);
}

absl::Status UnitSweep::Look(const Sweep& sweep, bool wait) {
  ASSIGN_OR_RETURN(const std::span<const uint32_t> landed, sweep.flow->Next(wait));
  if (wait && landed.empty()) return absl::InternalError("a block was asked for and never came");
  for (const uint32_t block : landed) {
    landed_[block] = true;
    arrivals_.push_back(block);
  }
  return absl::OkStatus();
}

// Streamed blocks come only as far as their staging reaches; the others all land by themselves.
absl::Status UnitSweep::WaitForAll(const Sweep& sweep) {
  for (size_t i = 0; i < sweep.flow->size(); ++i) {
    while (!landed_[i]) RETURN_IF_ERROR(Look(sweep, /*wait=*/true));
    if (sweep.flow->IsStreamed(i)) break;
  }
  return absl::OkStatus();
}

size_t UnitSweep::BatchUnits(const Sweep& sweep) const {
  return sweep.prompts.empty() ? kBatchBytes / Kind(sweep).unit_bytes + 1 : kBatchUnitsOfPrompts;
}

void UnitSweep::GatherBlock(const Sweep& sweep, size_t i, const std::byte* data) {
  const KindGeometry& kind = Kind(sweep);
  const UnitOrder& order = OrderOf(sweep);
  const uint32_t first_unit = sweep.expert * UnitsOf(sweep.kind);
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  const auto [begin, end] = sweep.wanted->Positions(i);
  const auto add = [&](uint32_t position, UnitColumns& columns) {
    const uint8_t* unit = bytes + position % kind.units_per_block * kind.unit_bytes;
    columns.units.push_back(order.Unit(position) - first_unit);
    columns.columns[0].push_back(unit);
    if (kind.columns_per_unit == 2) columns.columns[1].push_back(unit + kind.unit_bytes / 2);
  };
  if (shares_) {
    for (uint32_t position = begin; position < end; ++position) add(position, shared_);
  }
  for (size_t l = 0; l < sweep.lanes.size(); ++l) {
    if (sweep.sums[l].units != LaneUnits::kOwn) continue;
    const SweepLane& lane = sweep.lanes[l];
    for (uint32_t n = lane.begin[i]; n < lane.begin[i + 1]; ++n) {
      add(lane.positions[n], sweep.sums[l].own);
    }
  }
  gathered_ += end - begin;
}

void UnitSweep::AddBatch(const Sweep& sweep, StageTimes& times) {
  const StageTimer timer(times, Stage::kUnits);
  sums_.Add(shared_);
  shared_.Clear();
  for (SumLane& lane : sweep.sums) lane.own.Clear();
  gathered_ = 0;
}

absl::Status UnitSweep::RunInOrder(const Sweep& sweep, StageTimes& times) {
  UnitFlow& flow = *sweep.flow;
  const size_t units_max = BatchUnits(sweep);
  for (size_t next = 0; next < flow.size();) {
    RETURN_IF_ERROR(Look(sweep, /*wait=*/!landed_[next]));
    bool streamed = false;
    for (; next < flow.size() && landed_[next] && gathered_ < units_max; ++next) {
      streamed |= flow.IsStreamed(next);
      GatherBlock(sweep, next, flow.Data(next));
    }
    if (gathered_ == 0) continue;
    AddBatch(sweep, times);
    if (streamed) flow.UsedUp(next);
  }
  return absl::OkStatus();
}

void UnitSweep::CopyStreamed(const Sweep& sweep, size_t used_up) {
  if (copies_.empty()) return;
  const size_t bytes = Kind(sweep).block_bytes;
  pool_->For(copies_.size(), 1, 2 * copies_.size() * bytes, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) std::memcpy(copies_[i].to, copies_[i].from, bytes);
  });
  copies_.clear();
  sweep.flow->UsedUp(used_up);
}

// With prompt rows, batches are full, because each one reads and writes the outputs of all of them,
// and streamed blocks are copied, so that staging goes on filling while a batch is added.
absl::Status UnitSweep::RunPrompts(const Sweep& sweep, StageTimes& times) {
  UnitFlow& flow = *sweep.flow;
  const KindGeometry& kind = Kind(sweep);
  const size_t block_bytes = kind.block_bytes;
  const size_t copies_max = std::min({flow.size(), kBatchUnitsOfPrompts / kind.units_per_block + 1,
                                      kBatchCopyBytes / block_bytes + 1});
  for (size_t next = 0; next < flow.size();) {
    size_t copied = 0;  // blocks
    while (next < flow.size() && gathered_ < kBatchUnitsOfPrompts && copied < copies_max) {
      RETURN_IF_ERROR(Look(sweep, /*wait=*/false));
      if (!landed_[next]) {
        CopyStreamed(sweep, next);
        RETURN_IF_ERROR(Look(sweep, /*wait=*/true));
        continue;
      }
      const std::byte* data = flow.Data(next);
      if (flow.IsStreamed(next)) {
        RETURN_IF_ERROR(copied_.Reserve(copies_max * block_bytes));
        copies_.push_back({data, copied_.data() + copied++ * block_bytes});
        data = reinterpret_cast<const std::byte*>(copies_.back().to);
      }
      GatherBlock(sweep, next++, data);
    }
    CopyStreamed(sweep, next);
    AddBatch(sweep, times);
  }
  return absl::OkStatus();
}

absl::Status UnitSweep::RunAsTheyLand(const Sweep& sweep, StageTimes& times) {
  UnitFlow& flow = *sweep.flow;
  const size_t units_max = BatchUnits(sweep);
  added_.assign(flow.size(), false);
  size_t front = 0;  // all before it have been added
  // Once a streamed block has been added, every advance of the front may be what frees its staging,
  // also an advance past blocks that came through the cache.
  bool streamed = false;
  for (size_t next = 0; next < flow.size();) {
    RETURN_IF_ERROR(Look(sweep, /*wait=*/next == arrivals_.size()));
    for (; next < arrivals_.size() && gathered_ < units_max; ++next) {
      const uint32_t block = arrivals_[next];
      streamed |= flow.IsStreamed(block);
      GatherBlock(sweep, block, flow.Data(block));
      added_[block] = true;
    }
    AddBatch(sweep, times);
    while (front < flow.size() && added_[front]) ++front;
    if (streamed) flow.UsedUp(front);
  }
  return absl::OkStatus();
}

// Addresses of the units at `positions`, all of them resident for good.
void UnitSweep::GatherComplete(const Sweep& sweep, const std::byte* slots,
                               std::span<const uint32_t> positions, UnitColumns& columns) const {
  const KindGeometry& kind = Kind(sweep);
  const UnitOrder& order = OrderOf(sweep);
  const uint32_t first_unit = sweep.expert * UnitsOf(sweep.kind);
  const auto residency = source_->Residency(sweep.layer, sweep.kind);
  const auto* base = reinterpret_cast<const uint8_t*>(slots);
  const uint32_t last_slot = kind.block_count - 1;
  columns.units.resize(positions.size());
  for (auto& addresses : columns.columns) addresses.resize(positions.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    const uint32_t position = positions[i];
    const uint32_t block = kind.units_per_block == 1 ? position : position / kind.units_per_block;
    const uint32_t in_block = position - block * kind.units_per_block;
    const uint32_t slot = residency[block].load(std::memory_order_relaxed) - 1;
    const uint8_t* unit = base + size_t{std::min(slot, last_slot)} * kind.block_bytes +
                          size_t{in_block} * kind.unit_bytes;
    columns.units[i] = order.Unit(position) - first_unit;
    columns.columns[0][i] = unit;
    if (kind.columns_per_unit == 2) columns.columns[1][i] = unit + kind.unit_bytes / 2;
  }
}

// Positions of the units that rows share, where all units are resident.
void UnitSweep::ListShared(const Sweep& sweep) {
  shared_positions_.clear();
  if (!shares_) return;
  const bool whole = !sweep.prompts.empty() || std::ranges::any_of(sweep.sums, &SumLane::all);
  const uint32_t units = UnitsOf(sweep.kind), first = sweep.expert * units;
  if (whole) {
    shared_positions_.resize(units);
    std::iota(shared_positions_.begin(), shared_positions_.end(), first);
    return;
  }
  for (size_t i = 0; i < sweep.wanted->blocks().size(); ++i) {
    const auto [begin, end] = sweep.wanted->Positions(i);
    for (uint32_t position = begin; position < end; ++position) {
      shared_positions_.push_back(position);
    }
  }
}

void UnitSweep::RunComplete(const Sweep& sweep, const std::byte* slots, StageTimes& times) {
  const size_t units_max = BatchUnits(sweep);
  const uint32_t units = UnitsOf(sweep.kind);
  ListShared(sweep);
  const auto part = [&](std::span<const uint32_t> positions, size_t at) {
    const size_t begin = std::min(at, positions.size());
    return positions.subspan(begin, std::min(units_max, positions.size() - begin));
  };
  for (size_t at = 0; at < units; at += units_max) {
    GatherComplete(sweep, slots, part(shared_positions_, at), shared_);
    for (size_t l = 0; l < sweep.lanes.size(); ++l) {
      if (sweep.sums[l].units != LaneUnits::kOwn) continue;
      GatherComplete(sweep, slots, part(sweep.lanes[l].positions, at), sweep.sums[l].own);
    }
    AddBatch(sweep, times);
  }
}

void UnitSweep::ChargeComplete(const Sweep& sweep, StepCost& cost) {
  const auto kind = static_cast<uint32_t>(sweep.kind);
  const uint32_t all = UnitsOf(sweep.kind);
  uint64_t uses = 0;
  const auto charge = [&](uint32_t sequence, uint64_t units) {
    cost.sequences[sequence].hit_units[kind] += units;
    uses += units;
  };
  for (size_t l = 0; l < sweep.lanes.size(); ++l) {
    charge(sweep.lanes[l].sequence, sweep.sums[l].all() ? all : sweep.lanes[l].positions.size());
  }
  for (const uint32_t sequence : sweep.prompt_sequences) charge(sequence, all);
  cost.step.hit_units[kind] += uses;
  source_->CountUses(sweep.mode, uses);
}

// Charges every user its units, and of what was read equal parts to those that wanted it. Users of
// all units are alike: they are counted once.
absl::Status UnitSweep::Charge(const Sweep& sweep, StepCost& cost) {
  ASSIGN_OR_RETURN(const UnitFlow::Cost flow, sweep.flow->cost());
  cost.step.flash_bytes += flow.flash_bytes;
  cost.step.flash_reads += flow.flash_reads;
  cost.step.times.Add(Stage::kStalls, flow.stall_seconds);

  users_.clear();
  for (size_t l = 0; l < sweep.lanes.size(); ++l) {
    if (!sweep.sums[l].all()) users_.push_back({sweep.lanes[l].sequence, &sweep.lanes[l]});
  }
  const size_t masked = users_.size();
  for (size_t l = 0; l < sweep.lanes.size(); ++l) {
    if (sweep.sums[l].all()) users_.push_back({sweep.lanes[l].sequence, nullptr});
  }
  for (const uint32_t sequence : sweep.prompt_sequences) users_.push_back({sequence, nullptr});
  const size_t whole = users_.size() - masked;

  User all;
  double read = 0;  // blocks
  for (size_t i = 0; i < sweep.flow->size(); ++i) {
    const bool hit = sweep.flow->WasResident(i);
    const auto [begin, end] = sweep.wanted->Positions(i);
    (hit ? all.hits : all.misses) += end - begin;
    size_t wanting = whole;
    for (User& user : std::span(users_).first(masked)) {
      const uint32_t units = user.lane->begin[i + 1] - user.lane->begin[i];
      (hit ? user.hits : user.misses) += units;
      wanting += units > 0;
    }
    if (hit) continue;
    ++read;
    const double share = 1.0 / static_cast<double>(wanting);
    all.share += share;
    for (User& user : std::span(users_).first(masked)) {
      if (user.lane->begin[i + 1] > user.lane->begin[i]) user.share += share;
    }
  }
  for (User& user : std::span(users_).subspan(masked)) {
    user.hits = all.hits;
    user.misses = all.misses;
    user.share = all.share;
  }
  Share(flow, sweep.kind, read, cost);
  return absl::OkStatus();
}

// Whole bytes and reads: what rounding leaves over falls to later users.
void UnitSweep::Share(const UnitFlow::Cost& flow, UnitKind kind, double read, StepCost& cost) {
  const auto k = static_cast<uint32_t>(kind);
  double done = 0;
  uint64_t bytes = 0, reads = 0;
  for (const User& user : users_) {
    PassAccounts& own = cost.sequences[user.sequence];
    own.hit_units[k] += user.hits;
    own.miss_units[k] += user.misses;
    cost.step.hit_units[k] += user.hits;
    cost.step.miss_units[k] += user.misses;
    if (read == 0) continue;
    done += user.share;
    const bool last = &user == &users_.back();
    const auto part = [&](uint64_t total) {
      return last ? total : static_cast<uint64_t>(static_cast<double>(total) * (done / read));
    };
    own.flash_bytes += part(flow.flash_bytes) - std::exchange(bytes, part(flow.flash_bytes));
    own.flash_reads += part(flow.flash_reads) - std::exchange(reads, part(flow.flash_reads));
  }
}

}  // namespace tidegate
