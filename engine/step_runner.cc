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

SequenceNeed StepRunner::NeedOf(const Running& running) const {
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
  return need;
}

const std::vector<uint64_t>& StepRunner::Plan(std::span<const SequenceNeed> queued) {
  std::vector<SequenceNeed> running, preempted;
  for (const Running& one : running_) {
    if (!one.ended) (one.preempted ? preempted : running).push_back(NeedOf(one));
  }
  std::span<const SequenceNeed> waiting = queued;
  if (!preempted.empty()) {
    preempted.insert(preempted.end(), queued.begin(), queued.end());
    waiting = preempted;
  }
  plan_ = scheduler_.Next(running, waiting, model_.kv_pool->available());
  for (const uint64_t id : plan_.preempt) Preempt(*Find(id));
  // What was preempted is here already.
  std::erase_if(plan_.admit, [this](uint64_t id) {
    Running* known = Find(id);
    if (known == nullptr) return false;
    Running again = std::move(*known);
    running_.erase(running_.begin() + (known - running_.data()));
    again.preempted = false;
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
  running.preempted = true;
  ++preemptions_;
}

void StepRunner::Admit(WaitingRequest request) {
  const bool steered = request.request.pruning.FollowsLadder();
  const SequenceOptions options = {.submitted = request.submitted,
                                   .tokenizer = model_.tokenizer,
                                   .context_tokens = model_.context_tokens,
                                   .precision = options_.precision,
                                   .share_reads = options_.share_reads,
                                   .steering = steered ? steering_ : nullptr,
                                   .observer = observer_};
  running_.push_back({.id = request.id,
                      .sequence = std::make_unique<Sequence>(
                          std::move(request.request), std::move(request.sink), options,
                          &model_.model->config, model_.kv_pool.get())});
  AdoptPrefix(*running_.back().sequence);
  running_.back().sequence->ReportProgress();
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
  if (!options_.prefix_cache) return;
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
    if (running == nullptr || running->ended || running->preempted) continue;
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
  for (const size_t i : which) {
    batch_.push_back(stepping_[i].running->sequence->Wants(stepping_[i].rows));
  }
  RETURN_IF_ERROR(model_.decoder->Run(
      batch_,
      [&](size_t i, uint32_t, std::span<float> logits) {
        stepping_[which[i]].running->sequence->TakeLogits(logits);
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
    const uint32_t before = sequence.accounts().generated_tokens;
    sequence.ReleaseUnseen();
    running.ended = !sequence.Advance(cost_.sequences[n], stall);
    const uint32_t after = sequence.accounts().generated_tokens;
    result.generated_tokens += after - before;
    // The prompt counts once, when its last chunk is through.
    if (before == 0 && after > 0) result.prompt_tokens += sequence.prompt().size();
  }
}

void StepRunner::Fail(std::span<const size_t> which, const absl::Status& status) {
  for (const size_t i : which) {
    Running& running = *stepping_[i].running;
    if (!std::exchange(running.ended, true)) running.sequence->Fail(status);
  }
}

bool StepRunner::EndIf(FinishReason reason, const absl::Status& status,
                       const std::function<bool(uint64_t, const Sequence&)>& ends) {
  bool any = false;
  for (Running& running : running_) {
    if (running.ended || !ends(running.id, *running.sequence)) continue;
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

uint32_t StepRunner::preempted() const {
  const auto waits = [](const Running& running) { return !running.ended && running.preempted; };
  return static_cast<uint32_t>(std::ranges::count_if(running_, waits));
}

uint64_t StepRunner::kv_tokens_used() const {
  const KvPool& pool = *model_.kv_pool;  // What only the prefix index holds makes room.
  return uint64_t{pool.capacity() - std::min(pool.capacity(), pool.available())} * kKvPageTokens;
}

}  // namespace tidegate
