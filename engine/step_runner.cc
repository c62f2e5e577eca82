#include "engine/step_runner.h"

#include <algorithm>
#include <chrono>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

SchedulerLimits LimitsOf(const EngineOptions& options, const AttachedModel& model) {
  return {.sequences_max = model.memory.sequences_max,
          .prompt_rows_max = model.memory.prompt_rows_max,
          .page_tokens = kKvPageTokens,
          .step_seconds_target = std::chrono::duration<double>(options.step_time).count()};
}

}  // namespace

StepRunner::StepRunner(const EngineOptions& options, const AttachedModel* model, Steering* steering,
                       EngineObserver* observer)
    : options_(options),
      model_(*model),
      steering_(steering),
      observer_(observer),
      prefix_(model->kv_pool.get()),
      scheduler_(LimitsOf(options, *model)) {
  if (options_.prefix_cache) model_.kv_pool->set_cache(&prefix_);
}

StepRunner::~StepRunner() {
  running_.clear();
  model_.kv_pool->set_cache(nullptr);
}

template <typename Visit>
void StepRunner::ForFollowers(const Running& first, const Visit& visit) {
  if (first.id != first.request || first.sequence->request().choices == 1) return;
  for (Running& one : running_) {
    if (one.follows && !one.ended && one.request == first.id) visit(one);
  }
}

SequenceNeed StepRunner::NeedOf(const Running& running) {
  const Sequence& sequence = *running.sequence;
  SequenceNeed need = {.id = running.id,
                       .client = ClientKey(sequence.request()),
                       .priority = sequence.request().priority,
                       .prompt_rows = sequence.prompt_rows(),
                       .positions = sequence.kv().size(),
                       .pages = static_cast<uint32_t>(sequence.kv().pages().size())};
  const uint32_t released = sequence.kv().released();  // Nobody gets them by a preemption.
  need.pages_shared = released;
  for (const PageId page : sequence.kv().pages().subspan(released)) {
    need.pages_shared += model_.kv_pool->holders(page) > 1;
  }
  ForFollowers(running, [&need](const Running&) { ++need.choices; });
  return need;
}

void StepRunner::FreeFollowers() {
  for (Running& running : running_) {
    if (!running.follows || running.ended) continue;
    const Running* const first = Find(running.request);
    if (first != nullptr && !first->ended) continue;
    running.follows = false;
    running.waits = true;
  }
}

const std::vector<uint64_t>& StepRunner::Plan(std::span<const SequenceNeed> queued) {
  FreeFollowers();
  std::vector<SequenceNeed> running, admitted;
  for (const Running& one : running_) {
    if (!one.ended && !one.follows) (one.waits ? admitted : running).push_back(NeedOf(one));
  }
  std::span<const SequenceNeed> waiting = queued;
  if (!admitted.empty()) {
    admitted.insert(admitted.end(), queued.begin(), queued.end());
    waiting = admitted;
  }
  plan_ = scheduler_.Next(running, waiting, model_.kv_pool->available());
  for (const uint64_t id : plan_.preempt) Preempt(*Find(id));
  // What was admitted before is here already.
  std::erase_if(plan_.admit, [this](uint64_t id) {
    Running* known = Find(id);
    if (known == nullptr) return false;
    Running again = std::move(*known);
    running_.erase(running_.begin() + (known - running_.data()));
    again.waits = false;
    AdoptPrefix(*again.sequence);
    running_.push_back(std::move(again));
    return true;
  });
  return plan_.admit;
}

StepRunner::Running* StepRunner::Find(uint64_t id) {
  const auto at = std::ranges::find(running_, id, &Running::id);
  return at == running_.end() ? nullptr : &*at;
}

void StepRunner::Preempt(Running& running) {
  running.sequence->Preempt();
  running.waits = true;
  ++preemptions_;
}

void StepRunner::Admit(WaitingRequest request) {
  const bool steered = request.request.pruning.FollowsLadder();
  SequenceOptions options = {.submitted = request.submitted,
                             .tokenizer = model_.tokenizer,
                             .context_tokens = model_.context_tokens,
                             .precision = options_.precision,
                             .share_reads = options_.share_reads,
                             .steering = steered ? steering_ : nullptr,
                             .observer = observer_};
  const size_t first = running_.size(), places = model_.memory.sequences_max;
  for (uint32_t choice = 0; choice < request.request.choices; ++choice) {
    options.choice = choice;
    running_.push_back({.id = request.id + choice,
                        .request = request.id,
                        .sequence = std::make_unique<Sequence>(
                            request.request, std::move(request.sinks[choice]), options,
                            &model_.model->config, model_.kv_pool.get()),
                        .follows = choice > 0 && choice < places,
                        .waits = choice >= places});
  }
  AdoptPrefix(*running_[first].sequence);
  running_[first].sequence->ReportProgress();
}

void StepRunner::ReportProgress() const {
  for (const Running& running : running_) {
    if (!running.ended) running.sequence->ReportProgress();
  }
}

PrefixKey StepRunner::KeyOf(const Sequence& sequence) const {
  const ModelRope& rope = model_.model->rope;
  return {.salt = sequence.request().cache_salt,
          .precision = sequence.precision(),
          .long_context = &rope.For(sequence.kv().context_tokens()) != &rope.usual};
}

void StepRunner::AdoptPrefix(Sequence& sequence) {
  if (!options_.prefix_cache || sequence.scores_prompt()) return;
  sequence.AdoptPrefix(prefix_.Longest(KeyOf(sequence), sequence.prompt()));
}

// Full pages of the prompt: their rows are all of prompt form.
void StepRunner::KeepPrefix(const Sequence& sequence) {
  const size_t pages = sequence.prompt().size() / kKvPageTokens;
  if (!options_.prefix_cache || pages == 0) return;
  prefix_.Add(KeyOf(sequence), sequence.prompt().first(pages * kKvPageTokens),
              sequence.kv().pages().first(pages));
}

// Rows of the plan for which there are pages.
void StepRunner::GatherStep() {
  stepping_.clear();
  Running* refused = nullptr;
  // Of decode form, beside one for each sequence: memory is counted for no more of them.
  const uint32_t decode_max = model_.memory.decode_rows_max;
  uint32_t spare = decode_max - std::min<uint32_t>(decode_max, running());
  absl::Status why;
  for (const RowShare& share : plan_.rows) {
    Running* running = Find(share.id);
    if (running == nullptr || running->ended || running->waits) continue;
    Sequence& sequence = *running->sequence;
    uint32_t rows = sequence.RowsNext(share.rows);
    if (!sequence.reads()) {
      rows = std::min(rows, 1 + spare);
      spare -= rows - 1;
    }
    if (const absl::Status room = sequence.kv().Grow(rows); !room.ok()) {
      refused = running;
      why = room;
      continue;
    }
    stepping_.push_back({running, rows});
  }
  // Nobody is left who could give it pages: it is alone, or the system has no memory.
  if (!stepping_.empty() || refused == nullptr) return;
  refused->ended = true;
  refused->sequence->End(FinishReason::kError, why);
}

StepResult StepRunner::Step() {
  StepResult result;
  GatherStep();
  std::vector<size_t> all(stepping_.size());
  std::iota(all.begin(), all.end(), size_t{0});
  if (!all.empty()) {
    const Clock::time_point begin = Clock::now();
    const absl::Status done = RunRows(all, result);
    if (absl::IsDataLoss(done) && all.size() > 1) {
      // Weights are lost that not all of them may need: each on its own.
      for (const size_t& one : all) {
        if (const absl::Status alone = RunRows({&one, 1}, result); !alone.ok()) {
          Fail({&one, 1}, alone);
        }
      }
    } else if (!done.ok()) {
      Fail(all, done);
    }
    result.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (done.ok()) scheduler_.OnStep(result.seconds, result.decode_rows, result.prompt_rows);
  }
  stepping_.clear();
  Sweep();
  return result;
}

// Computes the rows of some of stepping_ and takes what comes of them. An error is that of all.
absl::Status StepRunner::RunRows(std::span<const size_t> which, StepResult& result) {
  batch_.clear();
  branched_.clear();
  for (const size_t i : which) {
    batch_.push_back(stepping_[i].running->sequence->Wants(stepping_[i].rows));
  }
  RETURN_IF_ERROR(model_.decoder->Run(
      batch_,
      [&](size_t i, uint32_t row, std::span<float> logits) {
        TakeLogits(*stepping_[which[i]].running, row, logits);
      },
      cost_));
  for (const BatchSequence& sequence : batch_) {
    const auto rows = static_cast<uint32_t>(sequence.tokens.size());
    (sequence.form == RowForm::kPrompt ? result.prompt_rows : result.decode_rows) += rows;
  }
  result.sequences += static_cast<uint32_t>(which.size());
  result.stall_seconds += cost_.step.times.seconds(Stage::kStalls);
  result.dense_instead_tokens += cost_.step.dense_instead;
  Advance(which, result);
  return absl::OkStatus();
}

// Where the prompt of the first of several choices is complete, the others go on from there.
void StepRunner::TakeLogits(Running& running, uint32_t row, std::span<float> logits) {
  const auto branch = [&](Running& follower) {
    logits_.assign(logits.begin(), logits.end());
    follower.follows = false;
    follower.waits = !follower.sequence->Branch(*running.sequence, logits_);
    if (!follower.waits) branched_.push_back(&follower);
  };
  if (running.sequence->SamplesAt(row)) ForFollowers(running, branch);
  running.sequence->TakeLogits(row, logits);
}

void StepRunner::Emit(Running& running, const PassAccounts& cost, double stall_seconds,
                      StepResult& result) {
  Sequence& sequence = *running.sequence;
  const uint32_t before = sequence.accounts().generated_tokens;
  sequence.ReleaseUnseen();
  running.ended = !sequence.Advance(cost, stall_seconds);
  const uint32_t after = sequence.accounts().generated_tokens;
  result.generated_tokens += after - before;
  // The prompt counts once, when its last chunk is through.
  if (before == 0 && after > 0) result.prompt_tokens += sequence.accounts().prompt_tokens;
}

void StepRunner::Advance(std::span<const size_t> which, StepResult& result) {
  const double stall = cost_.step.times.seconds(Stage::kStalls);
  for (size_t n = 0; n < which.size(); ++n) {
    Running& running = *stepping_[which[n]].running;
    if (running.ended) continue;  // While the step waited.
    Sequence& sequence = *running.sequence;
    result.steered |= sequence.steered();
    if (const absl::Status& failed = cost_.statuses[n]; !failed.ok()) {
      Fail(which.subspan(n, 1), failed);
      continue;
    }
    const bool reads = batch_[n].form == RowForm::kPrompt;
    if (reads && sequence.kv().size() == sequence.prompt().size()) KeepPrefix(sequence);
    Emit(running, cost_.sequences[n], stall, result);
  }
  for (Running* const choice : branched_) {
    if (!choice->ended) Emit(*choice, {}, 0, result);
  }
}

void StepRunner::Fail(std::span<const size_t> which, const absl::Status& status) {
  for (const size_t i : which) {
    Running& running = *stepping_[i].running;
    if (std::exchange(running.ended, true)) continue;
    running.sequence->Fail(status);
    ForFollowers(running, [&status](Running& follower) {
      follower.ended = true;
      follower.sequence->Fail(status);
    });
  }
}

bool StepRunner::EndIf(FinishReason reason, const absl::Status& status,
                       const std::function<bool(uint64_t, const Sequence&)>& ends) {
  bool any = false;
  for (Running& running : running_) {
    if (running.ended || !ends(running.request, *running.sequence)) continue;
    running.ended = any = true;
    running.sequence->End(reason, status);
  }
  Sweep();
  return any;
}

bool StepRunner::StepIsMoot() const {
  return !stepping_.empty() &&
         std::ranges::all_of(stepping_, [](const Share& share) { return share.running->ended; });
}

// Forgets sequences that have ended, unless a step uses them.
void StepRunner::Sweep() {
  if (stepping_.empty()) {
    std::erase_if(running_, [](const Running& running) { return running.ended; });
  }
}

size_t StepRunner::Live() const {
  const auto live = [](const Running& running) { return !running.ended; };
  return static_cast<size_t>(std::ranges::count_if(running_, live));
}

uint32_t StepRunner::waiting() const {
  const auto waits = [](const Running& running) { return !running.ended && running.waits; };
  return static_cast<uint32_t>(std::ranges::count_if(running_, waits));
}

uint64_t StepRunner::kv_tokens_used() const {
  const KvPool& pool = *model_.kv_pool;  // What only the prefix index holds makes room.
  return uint64_t{pool.capacity() - std::min(pool.capacity(), pool.available())} * kKvPageTokens;
}

}  // namespace tidegate
