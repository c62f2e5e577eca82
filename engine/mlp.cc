#include "engine/mlp.h"

#include <algorithm>
#include <utility>

#include "base/status_macros.h"
#include "engine/grow.h"

namespace tidegate {
namespace {

constexpr size_t kRangeGranule = 64;  // ranges of threads: whole cache lines of floats

}  // namespace

Mlp::Mlp(const Model* model, UnitSource* source, ThreadPool* pool, bool overlap)
    : model_(*model), source_(source), pool_(pool), sweep_(model, source, pool, overlap) {}

std::span<const uint32_t> Mlp::UnitAt(uint32_t layer, UnitKind kind, uint32_t expert) const {
  const std::span<const uint32_t> unit_at =
      model_.unit_orders[static_cast<uint32_t>(kind)][layer].unit_at;
  return unit_at.empty() ? unit_at : unit_at.subspan(expert * UnitsOf(kind), UnitsOf(kind));
}

// Lists the rows: those of decode form as lanes, prompts by group. Cache-aware rows lose their
// masks where another row uses every unit.
void Mlp::PrepareRows(Call& call) {
  lane_count_ = 0;
  prompts_.clear();
  prompt_sequences_.clear();
  prune_.clear();
  for (const MlpRows& rows : call.rows) {
    if (rows.form == RowForm::kPrompt) {
      call.dense = true;
      prompts_.push_back({.tokens = rows.count, .precision = rows.precision});
      for (const uint32_t sequence : rows.sequences) {
        const bool known = !prompt_sequences_.empty() && prompt_sequences_.back() == sequence;
        if (!known) prompt_sequences_.push_back(sequence);
      }
      continue;
    }
    for (uint32_t r = 0; r < rows.count; ++r) {
      const RowPruning* prune = rows.prune.empty() ? nullptr : rows.prune[r];
      if (lane_count_ == lanes_.size()) {
        lanes_.emplace_back();
        sums_.emplace_back();
      }
      lanes_[lane_count_].sequence = rows.sequences[r];
      sums_[lane_count_++].precision = rows.precision;
      prune_.push_back(prune);
      call.dense |= prune == nullptr;
    }
  }
  ChooseUnits(call);
  for (const SumLane& lane : std::span(sums_).first(lane_count_)) call.masked |= !lane.all();
}

// Before it is known what the masks want together.
void Mlp::ChooseUnits(const Call& call) {
  for (size_t l = 0; l < lane_count_; ++l) {
    const bool all = prune_[l] == nullptr || (call.dense && prune_[l]->may_be_dense);
    sums_[l].units = all ? LaneUnits::kAll : LaneUnits::kOwn;
  }
}

// Lets cache-aware rows add what their masks want together, where that takes less time than each
// adding its own: a unit that is added to n rows at once costs about (2 + n) / 3 of one that is
// added to one row (docs/decisions/0009-rows.md).
void Mlp::ShareUnits(const UnitUnion& wanted) {
  uint64_t rows = 0, own = 0, together = 0;
  const auto may_share = [&](size_t l) { return !sums_[l].all() && prune_[l]->may_be_dense; };
  for (size_t l = 0; l < lane_count_; ++l) {
    if (!may_share(l)) continue;
    ++rows;
    own += lanes_[l].positions.size();
  }
  if (rows < 2) return;
  for (size_t i = 0; i < wanted.blocks().size(); ++i) {
    const auto [begin, end] = wanted.Positions(i);
    together += end - begin;
  }
  if (together * (2 + rows) >= 3 * own) return;
  for (size_t l = 0; l < lane_count_; ++l) {
    if (may_share(l)) sums_[l].units = LaneUnits::kMasked;
  }
}

uint32_t Mlp::UsersOfAll(std::span<const MlpRows> rows) {
  UsersAhead users;
  for (const MlpRows& group : rows) {
    const bool prompt = group.form == RowForm::kPrompt;
    for (uint32_t r = 0; r < group.count; ++r) {
      const bool known = prompt && r > 0 && group.sequences[r] == group.sequences[r - 1];
      users.Add(group.prune.empty() ? nullptr : group.prune[r], known ? 0 : 1);
    }
  }
  return users.count();
}

// Inputs and outputs of the rows in the sweep of a kind.
void Mlp::PlaceRows(const Call& call, UnitKind kind) {
  const size_t h = model_.config.hidden_size, width = model_.config.intermediate_size;
  size_t row = 0, lane = 0, prompt = 0;
  for (const MlpRows& rows : call.rows) {
    const float* x = seen_.empty() ? rows.x : seen_.data() + row * h;
    const auto place = [&](auto& sums, size_t r) {
      float* const gate = gate_.data() + (row + r) * width;
      const bool input = kind == UnitKind::kInput;
      sums.x = input ? x + r * h : gate;
      sums.y[0] = input ? gate : rows.y + r * h;
      sums.y[1] = input ? up_.data() + (row + r) * width : nullptr;
    };
    if (rows.form == RowForm::kPrompt) {
      place(prompts_[prompt++], 0);
    } else {
      for (uint32_t r = 0; r < rows.count; ++r) place(sums_[lane++], r);
    }
    row += rows.count;
  }
}

uint32_t Mlp::AllUsers() const {
  const auto lanes = std::span(sums_).first(lane_count_);
  const auto all = std::ranges::count_if(lanes, [](const SumLane& lane) { return lane.all(); });
  return static_cast<uint32_t>(all) + static_cast<uint32_t>(prompt_sequences_.size());
}

absl::Status Mlp::AskForAll(uint32_t layer, UnitKind kind, uint32_t expert, uint32_t users,
                            Request& request) {
  const uint32_t first = expert * UnitsOf(kind);
  request.mode = LeaseMode::kStream;
  if (source_->CompleteSlots(layer, kind) != nullptr) return absl::OkStatus();
  request.wanted.Begin(Kind(kind).units_per_block, first, first + UnitsOf(kind));
  request.wanted.AddAll(users);
  request.wanted.Finish();
  ASSIGN_OR_RETURN(request.flow,
                   source_->Open(layer, kind, request.wanted.blocks(), LeaseMode::kStream));
  return absl::OkStatus();
}

// The residency that a row's mask looks at, of its expert's blocks.
std::span<const ResidencyEntry> Mlp::SeenBy(const Call& call, UnitKind kind, size_t l,
                                            const UnitUnion& wanted) {
  const uint32_t first = call.expert * UnitsOf(kind) / Kind(kind).units_per_block;
  const auto resident = source_->Residency(call.layer, kind).subspan(first);
  if (!prune_[l]->follows_company || prune_[l]->gamma >= 1) return resident;
  if (!company_kept_) JoinCompany(call, kind, wanted);
  return company_;
}

// What is resident now, and what rows so far want; of later rows SelectMasks() adds it.
void Mlp::JoinCompany(const Call& call, UnitKind kind, const UnitUnion& wanted) {
  const uint32_t per_block = Kind(kind).units_per_block;
  const uint32_t first = call.expert * UnitsOf(kind) / per_block;
  const uint32_t end = ((call.expert + 1) * UnitsOf(kind) + per_block - 1) / per_block;
  const auto resident = source_->Residency(call.layer, kind).subspan(first);
  if (company_.size() < end - first) company_ = std::vector<ResidencyEntry>(end - first);
  for (uint32_t block = first; block < end; ++block) {
    const uint32_t slot = resident[block - first].load(std::memory_order_relaxed);
    company_[block - first].store(wanted.Wants(block) ? 1 : slot, std::memory_order_relaxed);
  }
  company_kept_ = true;
}

void Mlp::SelectMask(const Call& call, UnitKind kind, size_t l,
                     std::span<const ResidencyEntry> residency) {
  const RowPruning& prune = *prune_[l];
  const KeptCounts counts = prune.Kept(call.layer);
  const uint32_t kept = kind == UnitKind::kInput ? counts.input : counts.hidden;
  const uint32_t units_per_block = Kind(kind).units_per_block;
  const uint32_t first = call.expert * UnitsOf(kind);
  const std::span<const uint32_t> positions =
      selector_.Select({sums_[l].x, UnitsOf(kind)},
                       {.kept = kept,
                        .gamma = prune.gamma,
                        .fixed_top_n = prune.fixed_top_n,
                        .protected_share = prune.protected_share,
                        .first_unit = first},
                       UnitAt(call.layer, kind, call.expert), residency, units_per_block);
  lanes_[l].positions.assign(positions.begin(), positions.end());
  if (on_mask_ == nullptr) return;
  on_mask_(call.layer, kind, model_.unit_orders[static_cast<uint32_t>(kind)][call.layer],
           positions);
}

// Whether every block that is not resident is wanted: then a dense pass reads no more.
bool Mlp::UnionIsDense(const Call& call, UnitKind kind, const UnitUnion& wanted) const {
  if (lane_count_ < 2 || wanted.all_users() > 0) return false;
  for (const RowPruning* prune : prune_) {
    if (!prune->may_be_dense) return false;
  }
  const uint32_t per_block = Kind(kind).units_per_block;
  const uint32_t first = call.expert * UnitsOf(kind) / per_block;
  const uint32_t end = ((call.expert + 1) * UnitsOf(kind) + per_block - 1) / per_block;
  const auto residency = source_->Residency(call.layer, kind);
  auto next = wanted.blocks().begin();
  for (uint32_t block = first; block < end; ++block) {
    if (next != wanted.blocks().end() && next->block == block) {
      ++next;
    } else if (residency[block].load(std::memory_order_relaxed) == 0) {
      return false;
    }
  }
  return true;
}

// Where all units are resident, nobody asks for blocks: the union is then only for rows that may
// share units, and has no scores.
void Mlp::SelectMasks(const Call& call, UnitKind kind, UnitUnion& wanted, StageTimes& times) {
  const StageTimer timer(times, Stage::kMasks);
  const uint32_t per_block = Kind(kind).units_per_block;
  const uint32_t first = call.expert * UnitsOf(kind);
  const bool complete = source_->CompleteSlots(call.layer, kind) != nullptr;
  wanted.Begin(per_block, first, first + UnitsOf(kind));
  wanted.AddAll(AllUsers());
  company_kept_ = false;
  for (size_t l = 0; l < lane_count_; ++l) {
    if (sums_[l].all()) continue;
    SelectMask(call, kind, l, SeenBy(call, kind, l, wanted));
    const std::span<const uint32_t> positions = lanes_[l].positions;
    if (complete) {
      if (lane_count_ > 1) wanted.Add(positions);
      continue;
    }
    ScoreBlocks({sums_[l].x, UnitsOf(kind)}, UnitAt(call.layer, kind, call.expert), positions,
                per_block, first, scored_);
    wanted.Add(positions, scored_);
    if (!company_kept_) continue;
    for (const WantedBlock& one : scored_) {
      company_[one.block - first / per_block].store(1, std::memory_order_relaxed);
    }
  }
  wanted.Finish();
}

absl::Status Mlp::Ask(const Call& call, UnitKind kind, Request& request, StageTimes& times) {
  if (!call.masked) return AskForAll(call.layer, kind, call.expert, AllUsers(), request);
  SelectMasks(call, kind, request.wanted, times);
  request.mode = call.dense ? LeaseMode::kStream : LeaseMode::kSelect;
  ShareUnits(request.wanted);
  if (source_->CompleteSlots(call.layer, kind) != nullptr) return absl::OkStatus();
  if (UnionIsDense(call, kind, request.wanted)) {
    for (SumLane& lane : std::span(sums_).first(lane_count_)) lane.units = LaneUnits::kAll;
    return AskForAll(call.layer, kind, call.expert, AllUsers(), request);
  }
  ASSIGN_OR_RETURN(request.flow,
                   source_->Open(call.layer, kind, request.wanted.blocks(), request.mode));
  return absl::OkStatus();
}

absl::Status Mlp::AskAhead(const MlpAhead& ahead) {
  if (ahead.users == 0) return absl::OkStatus();
  ahead_.emplace(Asked{.what = ahead, .request = {}});
  return AskForAll(ahead.layer, UnitKind::kInput, ahead.expert, ahead.users, ahead_->request);
}

absl::Status Mlp::Sum(const Call& call, UnitKind kind, const Request& request, StepCost& cost) {
  bool in_order = call.dense;
  for (size_t l = 0; l < lane_count_; ++l) {
    in_order |= sums_[l].all() || prune_[l]->gamma >= 1;
    if (prune_[l] == nullptr || !sums_[l].all()) continue;
    const ModelConfig& c = model_.config;
    const uint32_t mlps = c.expert_count == 0 ? 1 : c.experts_used + c.shared_experts;
    const double part = 1.0 / (double{kUnitKinds} * c.layer_count * mlps);
    cost.sequences[lanes_[l].sequence].dense_instead += part;
    cost.step.dense_instead += part;
  }
  return sweep_.Run({.layer = call.layer,
                     .kind = kind,
                     .mode = request.mode,
                     .expert = call.expert,
                     .lanes = std::span(lanes_).first(lane_count_),
                     .sums = std::span(sums_).first(lane_count_),
                     .prompts = prompts_,
                     .prompt_sequences = prompt_sequences_,
                     .flow = request.flow.get(),
                     .wanted = &request.wanted,
                     .in_order = in_order},
                    cost);
}

absl::Status Mlp::Run(uint32_t layer, std::span<const MlpRows> rows, StepCost& cost,
                      const MlpAhead& ahead, uint32_t expert) {
  StageTimes& times = cost.step.times;
  const StageTimer timer(times, Stage::kLeases);
  Call call = {.layer = layer, .rows = rows, .expert = expert};
  PrepareRows(call);
  size_t count = 0;
  for (const MlpRows& group : rows) count += group.count;
  ClearGate(count);
  Show(call, UnitKind::kInput);
  PlaceRows(call, UnitKind::kInput);

  Request input, hidden;
  std::optional<Asked> asked = std::exchange(ahead_, std::nullopt);
  if (asked && asked->what.layer == layer && asked->what.expert == expert && !call.masked) {
    input = std::move(asked->request);
  } else {
    asked.reset();
    RETURN_IF_ERROR(Ask(call, UnitKind::kInput, input, times));
  }
  // Without masks, the hidden units load while the input units are computed.
  const bool early = !call.masked;
  if (early) RETURN_IF_ERROR(Ask(call, UnitKind::kHidden, hidden, times));
  RETURN_IF_ERROR(Sum(call, UnitKind::kInput, input, cost));
  input.flow.reset();

  Activate(call, times);
  Show(call, UnitKind::kHidden);
  PlaceRows(call, UnitKind::kHidden);
  if (early) {
    RETURN_IF_ERROR(AskAhead(ahead));
  } else {
    // What rows share of the input units is for those alone.
    ChooseUnits(call);
    RETURN_IF_ERROR(Ask(call, UnitKind::kHidden, hidden, times));
  }
  return Sum(call, UnitKind::kHidden, hidden, cost);
}

void Mlp::ClearGate(size_t rows) {
  const size_t n = rows * model_.config.intermediate_size;
  for (std::vector<float>* outputs : {&gate_, &up_}) {
    GrowAnew(n, *outputs);
    pool_->For(n, kRangeGranule, n * sizeof(float), [&](size_t begin, size_t end) {
      std::fill(outputs->data() + begin, outputs->data() + end, 0.0f);
    });
  }
}

// h = act(gate) * up for every row, times its weight.
void Mlp::Activate(const Call& call, StageTimes& times) {
  const StageTimer timer(times, Stage::kUnits);
  const size_t width = model_.config.intermediate_size;
  const Kernels& kernels = BestKernels(Precision::kExact);
  const auto activate = model_.config.activation == Activation::kGeluTanh ? kernels.gelu_multiply
                                                                          : kernels.silu_multiply;
  size_t row = 0;
  for (const MlpRows& rows : call.rows) {
    const size_t n = rows.count * width;
    float* const gate = gate_.data() + row * width;
    float* const up = up_.data() + row * width;
    if (on_gate_ != nullptr && (rows.form == RowForm::kPrompt || !call.masked)) {
      on_gate_(call.layer, rows.count, gate, up);
    }
    pool_->For(n, kRangeGranule, n * 3 * sizeof(float), [&](size_t begin, size_t end) {
      activate(gate + begin, up + begin, end - begin, gate + begin);
    });
    for (size_t i = 0; rows.weights != nullptr && i < n; ++i) gate[i] *= rows.weights[i / width];
    row += rows.count;
  }
}

// Shows on_inputs_ what the rows of dense groups multiply with, in memory that it may change.
void Mlp::Show(const Call& call, UnitKind kind) {
  seen_.clear();
  if (on_inputs_ == nullptr) return;
  const size_t width = UnitsOf(kind);
  size_t row = 0;
  for (const MlpRows& rows : call.rows) {
    float* shown = gate_.data() + row * width;
    if (kind == UnitKind::kInput) {
      seen_.insert(seen_.end(), rows.x, rows.x + rows.count * width);
      shown = seen_.data() + row * width;
    }
    if (rows.form == RowForm::kPrompt || !call.masked) {
      on_inputs_(call.layer, kind, shown, rows.count);
    }
    row += rows.count;
  }
}

}  // namespace tidegate
