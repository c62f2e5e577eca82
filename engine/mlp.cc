#include "engine/mlp.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "base/status_macros.h"
#include "base/units.h"

namespace tidegate {
namespace {

// Bytes of units added per pass over the outputs: so much work that the meeting of the threads does
// not show beside it (0.3 %), and little enough that what lands meanwhile is not kept waiting.
constexpr size_t kBatchBytes = 16 << 20;
// Hidden units that go to one part before the next part gets some: what a block usually holds.
constexpr size_t kPartRun = 8;
// Units per pass for many tokens: each pass reads and writes all outputs of all tokens, which takes
// as long as multiplying some 50 units.
constexpr size_t kBatchUnitsOfTokens = 512;
constexpr size_t kBatchCopyBytes = 8 << 20;  // of streamed blocks, in a batch of many tokens
// Output ranges of threads begin at whole quantisation groups and cache lines of floats.
constexpr size_t kOutputGranule = 64;

}  // namespace

void Mlp::Batch::Clear() {
  columns[0].clear();
  columns[1].clear();
  units.clear();
}

void Mlp::Part::Clear() {
  columns.clear();
  coefficients.clear();
}

Mlp::Mlp(const Model* model, WeightClient* client, ThreadPool* pool, bool overlap)
    : model_(model), client_(client), pool_(pool), overlap_(overlap), lora_(pool), matmul_(pool) {
  const size_t slots = model->config.expert_slots();
  all_positions_[0].resize(slots * model->config.hidden_size);
  all_positions_[1].resize(slots * model->config.intermediate_size);
  for (auto& positions : all_positions_) std::iota(positions.begin(), positions.end(), 0u);
}

absl::StatusOr<WeightLease> Mlp::Acquire(uint32_t layer, UnitKind kind,
                                         std::span<const uint32_t> positions, LeaseMode mode,
                                         std::span<const float> values, uint32_t expert) {
  const uint32_t units_per_block = client_->geometry().kind(kind).units_per_block;
  wanted_.clear();
  for (const uint32_t position : positions) {
    const uint32_t block = position / units_per_block;
    if (wanted_.empty() || wanted_.back().block != block) wanted_.push_back({block, 0});
    ++wanted_.back().units;
  }
  if (!values.empty()) {
    ScoreBlocks(values, UnitAt(layer, kind, expert), positions, units_per_block,
                expert * UnitsOf(kind), wanted_);
  }
  return client_->Acquire(layer, kind, wanted_, mode);
}

absl::StatusOr<WeightLease> Mlp::AcquireAll(uint32_t layer, UnitKind kind, uint32_t expert) {
  if (client_->Complete(layer, kind)) return WeightLease();
  return Acquire(layer, kind, AllOf(kind, expert), LeaseMode::kStream);
}

void Mlp::GatherBlock(const Sweep& sweep, size_t block, const std::byte* data) {
  const KindGeometry& geometry = client_->geometry().kind(sweep.kind);
  const auto* bytes = reinterpret_cast<const uint8_t*>(data);
  for (uint32_t i = block_begin_[block]; i < block_begin_[block + 1]; ++i) {
    const uint32_t position = sweep.positions[i];
    const uint8_t* unit = bytes + position % geometry.units_per_block * geometry.unit_bytes;
    batch_.units.push_back(sweep.order->Unit(position) - sweep.first_unit);
    batch_.columns[0].push_back(unit);
    if (geometry.columns_per_unit == 2) batch_.columns[1].push_back(unit + geometry.unit_bytes / 2);
  }
}

size_t Mlp::BatchUnits(const Sweep& sweep) const {
  return sweep.many ? kBatchUnitsOfTokens
                    : kBatchBytes / client_->geometry().kind(sweep.kind).unit_bytes + 1;
}

void Mlp::AddBatch(const Sweep& sweep, StageTimes& times) {
  const StageTimer timer(times, Stage::kUnits);
  if (sweep.many) {
    AddBatchTokens(sweep);
  } else {
    AddBatchOne(sweep);
  }
  batch_.Clear();
}

// Deals the batch out to the parts, kPartRun units at a time.
void Mlp::DealParts(const Sweep& sweep) {
  for (Part& part : parts_) part.Clear();
  for (size_t k = 0; k < batch_.units.size(); ++k) {
    Part& part = parts_[dealt_++ / kPartRun % kParts];
    part.columns.push_back(batch_.columns[0][k]);
    part.coefficients.push_back(sweep.x[batch_.units[k]]);
  }
}

void Mlp::BeginParts(const Sweep& sweep, StageTimes& times) {
  const StageTimer timer(times, Stage::kUnits);
  dealt_ = 0;
  part_sums_.assign(kParts * client_->geometry().kind(sweep.kind).column_elements, 0.0f);
}

void Mlp::FinishParts(const Sweep& sweep, StageTimes& times) {
  const StageTimer timer(times, Stage::kUnits);
  const size_t elements = client_->geometry().kind(sweep.kind).column_elements;
  for (size_t p = 1; p < kParts; ++p) {
    BestKernels(Precision::kExact).add(&part_sums_[p * elements], elements, part_sums_.data());
  }
  BestKernels(Precision::kExact).add(part_sums_.data(), elements, sweep.y[0]);
}

void Mlp::AddBatchOne(const Sweep& sweep) {
  const KindGeometry& geometry = client_->geometry().kind(sweep.kind);
  const size_t count = batch_.units.size();
  const size_t elements = geometry.column_elements;
  // Sums of columns, one behind the other: what is divided among the threads.
  struct Chain {
    const uint8_t* const* columns;
    const float* coefficients;
    size_t count;
    float* y;
  };
  Chain chains[std::max<size_t>(kParts, 2)];
  size_t chain_count = 0;
  if (InParts(sweep)) {
    DealParts(sweep);
    for (size_t p = 0; p < kParts; ++p) {
      if (parts_[p].columns.empty()) continue;
      chains[chain_count++] = {parts_[p].columns.data(), parts_[p].coefficients.data(),
                               parts_[p].columns.size(), &part_sums_[p * elements]};
    }
  } else {
    coefficients_.resize(count);
    for (size_t k = 0; k < count; ++k) coefficients_[k] = sweep.x[batch_.units[k]];
    for (uint32_t c = 0; c < geometry.columns_per_unit; ++c) {
      chains[chain_count++] = {batch_.columns[c].data(), coefficients_.data(), count, sweep.y[c]};
    }
  }
  const Kernels& kernels = BestKernels(sweep.precision);
  const size_t stride = RoundUp(elements, kOutputGranule);
  pool_->For(chain_count * stride, kOutputGranule, count * geometry.unit_bytes,
             [&](size_t begin, size_t end) {
               for (size_t i = begin / stride; i * stride < end; ++i) {
                 const size_t first = std::max(begin, i * stride) - i * stride;
                 const size_t last = std::min(end - i * stride, elements);
                 if (first >= last) continue;
                 kernels.add_columns(model_->unit_encoding, chains[i].columns,
                                     chains[i].coefficients, chains[i].count, elements, first, last,
                                     chains[i].y);
               }
             });
}

void Mlp::AddBatchTokens(const Sweep& sweep) {
  const KindGeometry& geometry = client_->geometry().kind(sweep.kind);
  matmul_.Pack(sweep.precision, {.data = sweep.x,
                                 .stride = sweep.units,
                                 .index = batch_.units.data(),
                                 .depth = batch_.units.size(),
                                 .tokens = sweep.tokens});
  for (uint32_t c = 0; c < geometry.columns_per_unit; ++c) {
    matmul_.AddColumns({.encoding = model_->unit_encoding,
                        .columns = batch_.columns[c].data(),
                        .count = batch_.units.size(),
                        .elements = geometry.column_elements},
                       sweep.y[c]);
  }
}

absl::Status Mlp::RunInOrder(WeightLease& lease, const Sweep& sweep, StageTimes& times) {
  const size_t units_max = BatchUnits(sweep);
  for (size_t next = 0; next < lease.size();) {
    bool streamed = false;
    for (; next < lease.size() && batch_.units.size() < units_max; ++next) {
      const std::byte* data = lease.TryGet(next);
      if (data == nullptr) break;
      streamed |= lease.IsStreamed(next);
      GatherBlock(sweep, next, data);
    }
    if (batch_.units.empty()) {
      RETURN_IF_ERROR(lease.Wait(next).status());
      continue;
    }
    AddBatch(sweep, times);
    if (streamed) lease.Consumed(next);
  }
  return absl::OkStatus();
}

void Mlp::CopyStreamed(WeightLease& lease, const Sweep& sweep, size_t consumed) {
  if (copies_.empty()) return;
  const size_t bytes = client_->geometry().kind(sweep.kind).block_bytes;
  pool_->For(copies_.size(), 1, 2 * copies_.size() * bytes, [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) std::memcpy(copies_[i].to, copies_[i].from, bytes);
  });
  copies_.clear();
  lease.Consumed(consumed);
}

// Many tokens: batches are full, because each one reads and writes the outputs of all tokens, and
// streamed blocks are copied, so that staging goes on filling while a batch is added.
absl::Status Mlp::RunTokens(WeightLease& lease, const Sweep& sweep, StageTimes& times) {
  const KindGeometry& kind = client_->geometry().kind(sweep.kind);
  const size_t block_bytes = kind.block_bytes;
  const size_t copies_max = std::min({lease.size(), kBatchUnitsOfTokens / kind.units_per_block + 1,
                                      kBatchCopyBytes / block_bytes + 1});
  for (size_t next = 0; next < lease.size();) {
    size_t copied = 0;  // blocks
    while (next < lease.size() && batch_.units.size() < kBatchUnitsOfTokens &&
           copied < copies_max) {
      const std::byte* data = lease.TryGet(next);
      if (data == nullptr) {
        CopyStreamed(lease, sweep, next);
        RETURN_IF_ERROR(lease.Wait(next).status());
        continue;
      }
      if (lease.IsStreamed(next)) {
        RETURN_IF_ERROR(copied_.Reserve(copies_max * block_bytes));
        copies_.push_back({data, copied_.data() + copied++ * block_bytes});
        data = reinterpret_cast<const std::byte*>(copies_.back().to);
      }
      GatherBlock(sweep, next++, data);
    }
    CopyStreamed(lease, sweep, next);
    AddBatch(sweep, times);
  }
  return absl::OkStatus();
}

absl::Status Mlp::RunAsTheyLand(WeightLease& lease, const Sweep& sweep, StageTimes& times) {
  const size_t units_max = BatchUnits(sweep);
  added_.assign(lease.size(), false);
  size_t front = 0;  // all before it have been added
  // Once a streamed block has been added, every advance of the front may be what frees its staging,
  // also an advance past blocks that came through the cache.
  bool streamed = false;
  for (size_t next = 0; next < lease.size();) {
    for (const size_t arrived = lease.arrived(); next < arrived && batch_.units.size() < units_max;
         ++next) {
      const size_t block = lease.Arrival(next);
      const std::byte* data = lease.TryGet(block);
      if (data == nullptr) {
        ASSIGN_OR_RETURN(data, lease.Wait(block));  // says why
      }
      streamed |= lease.IsStreamed(block);
      GatherBlock(sweep, block, data);
      added_[block] = true;
    }
    if (batch_.units.empty()) {
      RETURN_IF_ERROR(lease.WaitArrival(next));
      continue;
    }
    AddBatch(sweep, times);
    while (front < lease.size() && added_[front]) ++front;
    if (streamed) lease.Consumed(front);
  }
  return absl::OkStatus();
}

// Addresses of the units at `positions`, all of them resident for good.
void Mlp::GatherComplete(const Sweep& sweep, std::span<const uint32_t> positions) {
  const KindGeometry& geometry = client_->geometry().kind(sweep.kind);
  const auto residency = client_->Residency(sweep.layer, sweep.kind);
  const auto* slots = reinterpret_cast<const uint8_t*>(client_->Slots(sweep.layer, sweep.kind));
  const uint32_t last_slot = geometry.block_count - 1;
  const uint32_t units_per_block = geometry.units_per_block;
  batch_.units.resize(positions.size());
  for (auto& columns : batch_.columns) columns.resize(positions.size());
  for (size_t i = 0; i < positions.size(); ++i) {
    const uint32_t position = positions[i];
    const uint32_t block = units_per_block == 1 ? position : position / units_per_block;
    const uint32_t in_block = position - block * units_per_block;
    const uint32_t slot = residency[block].load(std::memory_order_relaxed) - 1;
    const uint8_t* unit = slots + size_t{std::min(slot, last_slot)} * geometry.block_bytes +
                          size_t{in_block} * geometry.unit_bytes;
    batch_.units[i] = sweep.order->Unit(position) - sweep.first_unit;
    batch_.columns[0][i] = unit;
    if (geometry.columns_per_unit == 2) batch_.columns[1][i] = unit + geometry.unit_bytes / 2;
  }
}

void Mlp::RunComplete(const Sweep& sweep, PassAccounts& accounts) {
  const size_t units_max = BatchUnits(sweep);
  for (size_t at = 0; at < sweep.positions.size(); at += units_max) {
    GatherComplete(sweep,
                   sweep.positions.subspan(at, std::min(units_max, sweep.positions.size() - at)));
    AddBatch(sweep, accounts.times);
  }
  accounts.hit_units[static_cast<uint32_t>(sweep.kind)] += sweep.positions.size();
  client_->CountUses(sweep.mode, sweep.positions.size());
}

absl::Status Mlp::Run(WeightLease& lease, const Sweep& sweep, PassAccounts& accounts) {
  if (InParts(sweep)) BeginParts(sweep, accounts.times);
  if (lease.held()) {
    RETURN_IF_ERROR(RunLease(lease, sweep, accounts));
  } else {
    RunComplete(sweep, accounts);
  }
  FinishSweep(sweep, accounts.times);
  return absl::OkStatus();
}

absl::Status Mlp::RunLease(WeightLease& lease, const Sweep& sweep, PassAccounts& accounts) {
  const uint32_t units_per_block = client_->geometry().kind(sweep.kind).units_per_block;
  block_begin_.clear();
  for (uint32_t i = 0; i < sweep.positions.size(); ++i) {
    const bool first =
        i == 0 || sweep.positions[i] / units_per_block != sweep.positions[i - 1] / units_per_block;
    if (first) block_begin_.push_back(i);
  }
  block_begin_.push_back(static_cast<uint32_t>(sweep.positions.size()));
  DCHECK(block_begin_.size() == lease.size() + 1);
  batch_.Clear();
  copies_.clear();
  if (!overlap_) {
    // Streamed blocks come only as far as their staging reaches; the others all land by themselves.
    const auto granted = lease.accounts();
    RETURN_IF_ERROR(granted.status());
    for (size_t i = 0; i < lease.size(); ++i) {
      RETURN_IF_ERROR(lease.Wait(i).status());
      if (lease.IsStreamed(i)) break;
    }
  }
  if (sweep.many) {
    RETURN_IF_ERROR(RunTokens(lease, sweep, accounts.times));
  } else {
    RETURN_IF_ERROR(sweep.in_order ? RunInOrder(lease, sweep, accounts.times)
                                   : RunAsTheyLand(lease, sweep, accounts.times));
  }
  ASSIGN_OR_RETURN(const WeightLease::Accounts used, lease.accounts());
  accounts.hit_units[static_cast<uint32_t>(sweep.kind)] += used.hit_units;
  accounts.miss_units[static_cast<uint32_t>(sweep.kind)] += used.miss_units;
  accounts.flash_bytes += used.flash_bytes;
  accounts.flash_reads += used.flash_reads;
  accounts.times.Add(Stage::kStalls, std::chrono::duration<double>(lease.stall()).count());
  lease.Release();
  return absl::OkStatus();
}

void Mlp::ClearGate(uint32_t tokens) {
  const size_t n = size_t{tokens} * model_->config.intermediate_size;
  for (std::vector<float>* outputs : {&gate_, &up_}) {
    if (outputs->size() < n) *outputs = std::vector<float>(n);
    pool_->For(n, kOutputGranule, n * sizeof(float), [&](size_t begin, size_t end) {
      std::fill(outputs->data() + begin, outputs->data() + end, 0.0f);
    });
  }
}

void Mlp::ActivateGate(uint32_t tokens, const float* weights, StageTimes& times) {
  const StageTimer timer(times, Stage::kUnits);
  const size_t n = size_t{tokens} * model_->config.intermediate_size;
  const Kernels& kernels = BestKernels(Precision::kExact);
  const auto activate = model_->config.activation == Activation::kGeluTanh ? kernels.gelu_multiply
                                                                           : kernels.silu_multiply;
  pool_->For(n, kOutputGranule, n * 3 * sizeof(float), [&](size_t begin, size_t end) {
    activate(gate_.data() + begin, up_.data() + begin, end - begin, gate_.data() + begin);
  });
  if (weights == nullptr) return;
  const size_t width = model_->config.intermediate_size;
  for (size_t i = 0; i < n; ++i) gate_[i] *= weights[i / width];
}

absl::Status Mlp::Dense(uint32_t layer, const float* x, Precision precision, float* y,
                        PassAccounts& accounts, const MlpExpert& expert) {
  return RunDense(layer, x, 1, /*many=*/false, precision, y, accounts, expert);
}

absl::Status Mlp::DenseTokens(uint32_t layer, const float* x, uint32_t tokens, Precision precision,
                              float* y, PassAccounts& accounts, const MlpExpert& expert) {
  return RunDense(layer, x, tokens, /*many=*/true, precision, y, accounts, expert);
}

absl::Status Mlp::StreamAhead(uint32_t layer, const MlpExpert& expert) {
  Ahead ahead = {layer, expert.next.value_or(0), {}};
  if (!expert.next.has_value()) {
    // Which experts the next layer takes is not known yet.
    if (model_->config.expert_count > 0 || ++ahead.layer >= model_->config.layer_count) {
      return absl::OkStatus();
    }
  }
  ASSIGN_OR_RETURN(ahead.lease, AcquireAll(ahead.layer, UnitKind::kInput, ahead.expert));
  ahead_.emplace(std::move(ahead));
  return absl::OkStatus();
}

absl::Status Mlp::RunDense(uint32_t layer, const float* x, uint32_t tokens, bool many,
                           Precision precision, float* y, PassAccounts& accounts,
                           const MlpExpert& expert) {
  const StageTimer timer(accounts.times, Stage::kLeases);
  const ModelConfig& config = model_->config;
  WeightLease input;
  const bool ahead = ahead_ && ahead_->layer == layer && ahead_->expert == expert.index;
  if (ahead) input = std::move(ahead_->lease);
  ahead_.reset();
  if (!ahead) {
    ASSIGN_OR_RETURN(input, AcquireAll(layer, UnitKind::kInput, expert.index));
  }
  // The hidden units load while the input units are computed, and the next layer's after them.
  ASSIGN_OR_RETURN(WeightLease hidden, AcquireAll(layer, UnitKind::kHidden, expert.index));
  x = Seen(layer, x, tokens);
  ClearGate(tokens);
  RETURN_IF_ERROR(Run(input,
                      {.layer = layer,
                       .kind = UnitKind::kInput,
                       .order = &model_->unit_orders[0][layer],
                       .positions = AllOf(UnitKind::kInput, expert.index),
                       .first_unit = expert.index * config.hidden_size,
                       .units = config.hidden_size,
                       .x = x,
                       .tokens = tokens,
                       .many = many,
                       .precision = precision,
                       .y = {gate_.data(), up_.data()}},
                      accounts));
  if (on_gate_ != nullptr) on_gate_(layer, tokens, gate_.data(), up_.data());
  ActivateGate(tokens, expert.weights, accounts.times);
  if (on_inputs_ != nullptr) on_inputs_(layer, UnitKind::kHidden, gate_.data(), tokens);
  RETURN_IF_ERROR(StreamAhead(layer, expert));
  return Run(hidden,
             {.layer = layer,
              .kind = UnitKind::kHidden,
              .order = &model_->unit_orders[1][layer],
              .positions = AllOf(UnitKind::kHidden, expert.index),
              .first_unit = expert.index * config.intermediate_size,
              .units = config.intermediate_size,
              .x = gate_.data(),
              .tokens = tokens,
              .many = many,
              .precision = precision,
              .y = {y, nullptr}},
             accounts);
}

std::span<const uint32_t> Mlp::Select(uint32_t layer, UnitKind kind, uint32_t expert, uint32_t kept,
                                      std::span<const float> values, const PruneStep& step,
                                      StageTimes& times) {
  const StageTimer timer(times, Stage::kMasks);
  const uint32_t units_per_block = client_->geometry().kind(kind).units_per_block;
  const uint32_t first = expert * UnitsOf(kind);
  return selector_.Select(values,
                          {.kept = kept,
                           .gamma = step.gamma,
                           .fixed_top_n = step.fixed_top_n,
                           .protected_share = step.protected_share,
                           .first_unit = first},
                          UnitAt(layer, kind, expert),
                          client_->Residency(layer, kind).subspan(first / units_per_block),
                          units_per_block);
}

absl::Status Mlp::Pruned(uint32_t layer, const float* x, const PruneStep& step, Precision precision,
                         float* y, PassAccounts& accounts, const MlpExpert& expert) {
  const StageTimer timer(accounts.times, Stage::kLeases);
  const ModelConfig& config = model_->config;
  const bool in_order = step.gamma >= 1;
  const auto sweep = [&](UnitKind kind, uint32_t units, std::span<const float> values, float* y0,
                         float* y1) -> absl::Status {
    const UnitOrder& order = model_->unit_orders[static_cast<uint32_t>(kind)][layer];
    const std::span<const uint32_t> positions =
        Select(layer, kind, expert.index, units, values, step, accounts.times);
    if (on_mask_ != nullptr) on_mask_(layer, kind, order, positions);
    WeightLease lease;
    if (!client_->Complete(layer, kind)) {
      ASSIGN_OR_RETURN(lease,
                       Acquire(layer, kind, positions, LeaseMode::kSelect, values, expert.index));
    }
    return Run(lease,
               {.layer = layer,
                .kind = kind,
                .mode = LeaseMode::kSelect,
                .order = &order,
                .positions = positions,
                .first_unit = expert.index * UnitsOf(kind),
                .units = UnitsOf(kind),
                .x = values.data(),
                .precision = precision,
                .y = {y0, y1},
                .in_order = in_order},
               accounts);
  };
  ClearGate(1);
  RETURN_IF_ERROR(sweep(UnitKind::kInput, step.Kept(layer).input, {x, config.hidden_size},
                        gate_.data(), up_.data()));
  ActivateGate(1, expert.weights, accounts.times);
  return sweep(UnitKind::kHidden, step.Kept(layer).hidden, {gate_.data(), config.intermediate_size},
               y, nullptr);
}

}  // namespace tidegate
