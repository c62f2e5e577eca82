#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "engine/kernels/kernels.h"
#include "engine/request_check.h"
#include "engine/request_queue.h"
#include "engine/sequence.h"
#include "engine/store_link.h"
#include "proto/store/v1/profile.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kIdleCheck{50};  // of the store, by an idle engine

// For clients: why it is away is for the log alone.
absl::Status NoStore() {
  return absl::UnavailableError("the weight store is not attached; retry shortly");
}

class EngineImpl final : public Engine {
 public:
  EngineImpl(const EngineOptions& options, std::optional<store::v1::Profile> profile,
             EngineObserver* observer)
      : options_(options),
        observer_(observer),
        pool_(options.threads),
        link_(options_, std::move(profile), &pool_, [this](auto) { return OnWait(); }) {}
  ~EngineImpl() override;

  absl::Status Start();

  absl::StatusOr<uint64_t> Submit(GenerationRequest request,
                                  std::shared_ptr<GenerationSink> sink) override;
  void Cancel(uint64_t id) override;
  void Drain(Clock::time_point deadline) override;
  bool ready() const override;
  EngineStats stats() const override;
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer() const override;
  absl::StatusOr<ModelInfo> model_info() const override;
  uint32_t context_tokens() const override;
  const PruningBounds& pruning_bounds() const override { return options_.pruning; }

 private:
  struct Running {
    uint64_t id;
    std::unique_ptr<Sequence> sequence;
    bool ended = false;  // its sink has been told; it goes when no step uses it
  };

  // All of these run on the decode thread.
  void Loop();
  bool EnsureAttached();
  void Publish();
  void Detach();
  absl::Status OnWait();
  void WatchStore(bool idle);
  bool EndWhatMust();
  void EndCancelled();
  void EndExpired();
  void End(Running& running, FinishReason reason, const absl::Status& status);
  void EndAll(FinishReason reason, const absl::Status& status);
  void Admit();
  void Step();
  void PlanRows();
  absl::Status RunRows(std::span<Running* const> running);
  void Fail(std::span<Running* const> running, const absl::Status& status);
  void CountStep();
  void CountTokens(uint32_t before, const GenerationAccounts& after);
  void Sweep();
  void UpdateGauges();
  void WaitForWork(std::chrono::milliseconds timeout);
  uint64_t KvTokensReserved() const;

  const EngineOptions options_;
  EngineObserver* const observer_;
  ThreadPool pool_;
  StoreLink link_;
  std::vector<Running> running_;  // after link_: sequences use its model
  // Of the present step. While it waits for the store, OnWait() may end requests, but nothing is
  // taken out of running_.
  std::vector<Running*> stepping_;
  std::vector<uint32_t> rows_max_;  // of each of these
  std::vector<BatchSequence> batch_;
  StepCost cost_;
  std::thread thread_;

  std::atomic<bool> cancel_pending_ = false;  // looked at between steps without the lock

  mutable Mutex mutex_;
  CondVar work_, idle_;
  RequestQueue waiting_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_set<uint64_t> cancelled_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool drain_expired_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  EngineStats stats_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Tokenizer> tokenizer_ ABSL_GUARDED_BY(mutex_);
  ModelInfo info_ ABSL_GUARDED_BY(mutex_);
  uint32_t context_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
};

absl::Status EngineImpl::Start() {
  LogInfo("computing with ", pool_.thread_count(), " threads",
          options_.threads == 0 ? " (one for each core that this process may use)" : "",
          ", kernels ", std::string(BestKernels(options_.precision).name), ", precision ",
          std::string(PrecisionName(options_.precision)));
  const Clock::time_point deadline = Clock::now() + options_.attach_timeout;
  while (!EnsureAttached()) {
    if (!link_.configuration_error().ok()) return link_.configuration_error();  // it will not help
    if (options_.attach_timeout.count() == 0) break;
    if (Clock::now() >= deadline) return absl::UnavailableError(link_.error().message());
    std::this_thread::sleep_for(StoreLink::kBackOffMin);
  }
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

EngineImpl::~EngineImpl() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    work_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<uint64_t> EngineImpl::Submit(GenerationRequest request,
                                            std::shared_ptr<GenerationSink> sink) {
  std::shared_ptr<const Tokenizer> tokenizer;
  uint32_t context = 0;
  {
    MutexLock lock(mutex_);
    if (draining_)
      return absl::UnavailableError("the engine is draining; send the request elsewhere");
    if (!stats_.attached) return NoStore();
    if (stats_.stalled) {
      return absl::UnavailableError("the weight store makes no progress; retry shortly");
    }
    tokenizer = tokenizer_;
    context = context_tokens_;
  }
  RETURN_IF_ERROR(CheckRequest(request, options_.pruning, *tokenizer, context));
  MutexLock lock(mutex_);
  if (draining_)
    return absl::UnavailableError("the engine is draining; send the request elsewhere");
  if (!stats_.attached || tokenizer != tokenizer_) return NoStore();
  if (waiting_.size() >= options_.max_waiting) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", waiting_.size(),
                                                     " requests wait already; retry later"));
  }
  const uint64_t id = next_id_++;
  waiting_.Push({id, std::move(request), std::move(sink), Clock::now()});
  stats_.waiting = static_cast<uint32_t>(waiting_.size());
  work_.NotifyAll();
  return id;
}

void EngineImpl::Cancel(uint64_t id) {
  MutexLock lock(mutex_);
  if (id == 0 || id >= next_id_) return;
  cancelled_.insert(id);
  cancel_pending_ = true;
  work_.NotifyAll();
}

void EngineImpl::Drain(Clock::time_point deadline) {
  MutexLock lock(mutex_);
  draining_ = true;
  stats_.draining = true;
  work_.NotifyAll();
  while (stats_.running > 0 || stats_.waiting > 0) {
    const Clock::time_point now = Clock::now();
    if (now >= deadline && !drain_expired_) {
      drain_expired_ = true;
      work_.NotifyAll();
    }
    const auto left =
        drain_expired_ ? Clock::duration(std::chrono::milliseconds(50)) : deadline - now;
    idle_.WaitFor(mutex_, std::chrono::duration_cast<std::chrono::nanoseconds>(left));
  }
}

bool EngineImpl::ready() const {
  MutexLock lock(mutex_);
  return stats_.attached && !stats_.stalled && !draining_;
}

EngineStats EngineImpl::stats() const {
  MutexLock lock(mutex_);
  return stats_;
}

absl::StatusOr<std::shared_ptr<const Tokenizer>> EngineImpl::tokenizer() const {
  MutexLock lock(mutex_);
  if (tokenizer_ == nullptr) return NoStore();
  return tokenizer_;
}

absl::StatusOr<ModelInfo> EngineImpl::model_info() const {
  MutexLock lock(mutex_);
  if (tokenizer_ == nullptr) return NoStore();
  return info_;
}

uint32_t EngineImpl::context_tokens() const {
  MutexLock lock(mutex_);
  return context_tokens_;
}

// Decode thread from here on.

bool EngineImpl::EnsureAttached() {
  if (link_.attached()) {
    if (link_.connected()) return true;
    LogWarning("the weight store is gone; re-attaching");
    Detach();
  }
  if (!link_.Attach()) return false;
  Publish();
  return true;
}

void EngineImpl::Publish() {
  const AttachedModel& model = link_.model();
  MutexLock lock(mutex_);
  stats_.steering = link_.steering() != nullptr ? link_.steering()->stats() : SteeringStats();
  if (tokenizer_ != nullptr) ++stats_.reattached;
  tokenizer_ = model.tokenizer;
  info_ = model.info;
  context_tokens_ = model.context_tokens;
  stats_.attached = true;
  stats_.kv_tokens_capacity = model.kv_capacity_tokens();
}

void EngineImpl::Detach() {
  {
    MutexLock lock(mutex_);
    stats_.attached = stats_.stalled = false;
  }
  EndAll(FinishReason::kError, absl::UnavailableError("the weight store went away; retry shortly"));
  link_.Detach();
}

void EngineImpl::End(Running& running, FinishReason reason, const absl::Status& status) {
  if (!std::exchange(running.ended, true)) running.sequence->End(reason, status);
}

void EngineImpl::EndAll(FinishReason reason, const absl::Status& status) {
  std::vector<WaitingRequest> waiting;
  {
    MutexLock lock(mutex_);
    waiting = waiting_.TakeIf([](const WaitingRequest&) { return true; });
  }
  for (Running& running : running_) End(running, reason, status);
  // What never began has no text to keep: say that it may be sent elsewhere.
  const bool drained = reason == FinishReason::kDraining;
  for (const WaitingRequest& w : waiting) {
    w.End(drained ? FinishReason::kError : reason,
          drained ? absl::UnavailableError("the engine drained before the request began; send it "
                                           "elsewhere")
                  : status);
  }
  Sweep();
}

void EngineImpl::EndCancelled() {
  if (!cancel_pending_.exchange(false)) return;
  absl::flat_hash_set<uint64_t> ids;
  std::vector<WaitingRequest> waiting;
  {
    MutexLock lock(mutex_);
    ids.swap(cancelled_);
    waiting = waiting_.TakeIf([&](const WaitingRequest& w) { return ids.contains(w.id); });
  }
  const absl::Status cancelled = absl::CancelledError("cancelled by the client");
  for (const WaitingRequest& w : waiting) w.End(FinishReason::kCancelled, cancelled);
  for (Running& running : running_) {
    if (ids.contains(running.id)) End(running, FinishReason::kCancelled, cancelled);
  }
  Sweep();
}

// Ends requests whose time limit has passed, queued or running.
void EngineImpl::EndExpired() {
  std::vector<WaitingRequest> waiting;
  {
    MutexLock lock(mutex_);
    waiting = waiting_.TakeIf([now = Clock::now()](const auto& w) { return w.TimeIsUp(now); });
  }
  for (const WaitingRequest& w : waiting) w.End(FinishReason::kTimeLimit, absl::OkStatus());
  bool any = !waiting.empty();
  for (Running& running : running_) {
    if (running.ended || !running.sequence->TimeIsUp()) continue;
    End(running, FinishReason::kTimeLimit, absl::OkStatus());
    any = true;
  }
  if (any) Sweep();
}

// Whatever ends requests from outside. Returns true when the engine is to stop.
bool EngineImpl::EndWhatMust() {
  bool stop = false, expired = false;
  {
    MutexLock lock(mutex_);
    stop = stopping_;
    expired = drain_expired_;
  }
  if (stop) {
    EndAll(FinishReason::kCancelled, absl::CancelledError("the engine is shutting down"));
  } else if (expired) {
    EndAll(FinishReason::kDraining, absl::OkStatus());
  }
  EndCancelled();
  EndExpired();
  return stop;
}

// A step, or an attach, waits for the store: do what does not have to.
absl::Status EngineImpl::OnWait() {
  const auto ended = [](const Running* running) { return running->ended; };
  if (EndWhatMust() || (!stepping_.empty() && std::ranges::all_of(stepping_, ended))) {
    return absl::CancelledError("nobody waits for it any more");
  }
  if (!link_.attached()) return absl::OkStatus();
  WatchStore(/*idle=*/false);
  return link_.Hopeless();
}

void EngineImpl::WatchStore(bool idle) {
  link_.Watch(idle);
  MutexLock lock(mutex_);
  stats_.stalled = link_.stalled();
  stats_.stalls = link_.stalls();
}

uint64_t EngineImpl::KvTokensReserved() const {
  uint64_t tokens = 0;
  for (const Running& running : running_) {
    if (!running.ended) tokens += running.sequence->kv().pages().size() * kKvPageTokens;
  }
  return tokens;
}

void EngineImpl::Admit() {
  bool any = false;
  const AttachedModel& model = link_.model();
  while (running_.size() < options_.max_running) {
    MutexLock lock(mutex_);
    if (waiting_.empty()) break;
    const GenerationRequest& request = waiting_.front().request;
    const auto needed = static_cast<uint32_t>(std::min<uint64_t>(
        model.context_tokens, request.prompt.size() + uint64_t{request.max_tokens}));
    if (model.kv_pool->available() < KvPool::PagesFor(needed)) break;
    KvCache kv(model.kv_pool.get(), model.context_tokens);
    if (!kv.Grow(needed).ok()) break;
    WaitingRequest next = waiting_.Pop();
    const bool steered = next.request.pruning.FollowsLadder();
    const SequenceOptions sequence = {.submitted = next.submitted,
                                      .tokenizer = model.tokenizer,
                                      .precision = options_.precision,
                                      .steering = steered ? link_.steering() : nullptr,
                                      .observer = observer_};
    const ModelConfig& config = model.model->config;
    running_.push_back(
        {next.id, std::make_unique<Sequence>(std::move(next.request), std::move(next.sink),
                                             sequence, &config, std::move(kv))});
    any = true;
  }
  if (any) UpdateGauges();
}

// Which rows the next step has: one of each sequence that decodes, and of prompts as many as a
// chunk has.
void EngineImpl::PlanRows() {
  stepping_.clear();
  rows_max_.clear();
  uint32_t prompt_rows = options_.prefill_chunk_tokens;
  for (Running& running : running_) {
    if (running.ended) continue;
    uint32_t rows = 1;
    if (running.sequence->prefilling()) {
      rows = std::min(prompt_rows, running.sequence->prompt_rows());
      prompt_rows -= rows;
    }
    if (rows == 0) continue;
    stepping_.push_back(&running);
    rows_max_.push_back(rows);
  }
}

// One step: rows of the running requests, computed together.
void EngineImpl::Step() {
  PlanRows();
  const bool any_prompt =
      std::ranges::any_of(stepping_, [](const Running* r) { return r->sequence->prefilling(); });
  const bool any_steered =
      std::ranges::any_of(stepping_, [](const Running* r) { return r->sequence->steered(); });
  const Clock::time_point begin = Clock::now();
  const absl::Status done = RunRows(stepping_);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  if (absl::IsDataLoss(done) && stepping_.size() > 1) {
    // Weights are lost that not all of them may need: each on its own.
    const std::vector<Running*> all = stepping_;
    for (Running* one : all) {
      if (const absl::Status alone = RunRows({&one, 1}); !alone.ok()) Fail({&one, 1}, alone);
    }
  } else if (!done.ok()) {
    Fail(stepping_, done);
  } else if (any_steered && !any_prompt && !link_.stalled()) {
    link_.steering()->OnRound(seconds);
    MutexLock lock(mutex_);
    stats_.steering = link_.steering()->stats();
  }
  stepping_.clear();
  if (std::ranges::any_of(running_, [](const Running& r) { return r.ended; })) Sweep();
}

// Computes their rows and takes what comes of them. An error is that of all.
absl::Status EngineImpl::RunRows(std::span<Running* const> running) {
  batch_.clear();
  for (size_t i = 0; i < running.size(); ++i) {
    const auto at =
        static_cast<size_t>(std::ranges::find(stepping_, running[i]) - stepping_.begin());
    batch_.push_back(running[i]->sequence->Wants(rows_max_[at]));
  }
  RETURN_IF_ERROR(link_.model().decoder->Run(
      batch_,
      [&](size_t i, uint32_t, std::span<float> logits) {
        running[i]->sequence->TakeLogits(logits);
      },
      cost_));
  CountStep();
  const double stall = cost_.step.times.seconds(Stage::kStalls);
  for (size_t i = 0; i < running.size(); ++i) {
    if (running[i]->ended) continue;  // While the step waited.
    if (const absl::Status& failed = cost_.statuses[i]; !failed.ok()) {
      running[i]->ended = true;
      running[i]->sequence->Fail(failed);
      continue;
    }
    const uint32_t tokens = running[i]->sequence->accounts().generated_tokens;
    running[i]->ended = !running[i]->sequence->Advance(cost_.sequences[i], stall);
    CountTokens(tokens, running[i]->sequence->accounts());
  }
  return absl::OkStatus();
}

void EngineImpl::Fail(std::span<Running* const> running, const absl::Status& status) {
  for (Running* one : running) {
    if (!std::exchange(one->ended, true)) one->sequence->Fail(status);
  }
}

void EngineImpl::CountTokens(uint32_t before, const GenerationAccounts& after) {
  MutexLock lock(mutex_);
  stats_.generated_tokens += after.generated_tokens - before;
  // The prompt counts once, when its last chunk is through.
  if (before == 0 && after.generated_tokens > 0) stats_.prompt_tokens += after.prompt_tokens;
}

void EngineImpl::CountStep() {
  uint64_t prompt = 0, decode = 0;
  for (const BatchSequence& sequence : batch_) {
    (sequence.form == RowForm::kPrompt ? prompt : decode) += sequence.tokens.size();
  }
  MutexLock lock(mutex_);
  ++stats_.steps;
  stats_.prompt_rows += prompt;
  stats_.decode_rows += decode;
  stats_.dense_instead_tokens += cost_.step.dense_instead;
  (decode > 0 ? stats_.stall_seconds_decode : stats_.stall_seconds_prefill) +=
      cost_.step.times.seconds(Stage::kStalls);
}

// Forgets requests that have ended.
void EngineImpl::Sweep() {
  if (stepping_.empty()) {  // Else a step uses them.
    std::erase_if(running_, [](const Running& r) { return r.ended; });
  }
  UpdateGauges();
}

void EngineImpl::UpdateGauges() {
  MutexLock lock(mutex_);
  stats_.running = static_cast<uint32_t>(
      std::ranges::count_if(running_, [](const Running& r) { return !r.ended; }));
  stats_.waiting = static_cast<uint32_t>(waiting_.size());
  stats_.kv_tokens_used = KvTokensReserved();
  if (stats_.running == 0 && stats_.waiting == 0) idle_.NotifyAll();
}

void EngineImpl::WaitForWork(std::chrono::milliseconds timeout) {
  MutexLock lock(mutex_);
  if (waiting_.empty() && cancelled_.empty() && !stopping_) work_.WaitFor(mutex_, timeout);
}

void EngineImpl::Loop() {
  while (!EndWhatMust()) {
    if (!EnsureAttached()) {
      WaitForWork(StoreLink::kBackOffMin);
      continue;
    }
    WatchStore(/*idle=*/running_.empty());
    if (const absl::Status hopeless = link_.Hopeless(); !hopeless.ok()) {
      EndAll(FinishReason::kError, hopeless);
    }
    Admit();
    if (running_.empty()) {
      WaitForWork(kIdleCheck);
      continue;
    }
    Step();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       EngineObserver* observer) {
  if (options.max_running == 0 || options.prefill_chunk_tokens == 0) {
    return absl::InvalidArgumentError("max_running and prefill_chunk_tokens must be at least 1");
  }
  std::optional<store::v1::Profile> profile;
  if (!options.steering.profile.empty()) {
    ASSIGN_OR_RETURN(profile, ReadProfile(options.steering.profile));
  }
  auto engine = std::make_unique<EngineImpl>(options, std::move(profile), observer);
  RETURN_IF_ERROR(engine->Start());
  return engine;
}

}  // namespace tidegate
