#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "engine/kernels/kernels.h"
#include "engine/request_check.h"
#include "engine/request_queue.h"
#include "engine/step_runner.h"
#include "engine/store_link.h"
#include "proto/store/v1/profile.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kIdleCheck{50};  // of the store, by an idle engine

// Between reports of how far prompts are, apart from those that their parts bring.
constexpr std::chrono::milliseconds kProgressInterval{500};

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

  absl::StatusOr<uint64_t> SubmitChoices(
      GenerationRequest request, std::vector<std::shared_ptr<GenerationSink>> sinks) override;
  void Cancel(uint64_t id) override;
  void Drain(Clock::time_point deadline) override;
  bool ready() const override;
  EngineStats stats() const override;
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer() const override;
  absl::StatusOr<ModelInfo> model_info() const override;
  uint32_t context_tokens() const override;
  const PruningBounds& pruning_bounds() const override { return options_.pruning; }

 private:
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
  void EndAll(FinishReason reason, const absl::Status& status);
  void EndIf(FinishReason reason, const absl::Status& status,
             const std::function<bool(uint64_t, const Sequence&)>& ends);
  void ReportProgress();
  void Admit();
  void Step();
  void UpdateGauges();
  void WaitForWork(std::chrono::milliseconds timeout);

  const EngineOptions options_;
  EngineObserver* const observer_;
  ThreadPool pool_;
  StoreLink link_;
  Clock::time_point next_progress_;   // of the decode thread
  uint64_t preemptions_before_ = 0;   // the present attach; of the decode thread
  std::optional<StepRunner> runner_;  // while attached; after link_: it uses its model
  std::vector<SequenceNeed> queued_;  // what waiting_ had when the step was planned
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

absl::StatusOr<uint64_t> EngineImpl::SubmitChoices(
    GenerationRequest request, std::vector<std::shared_ptr<GenerationSink>> sinks) {
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
  CHECK(sinks.size() == request.choices);
  MutexLock lock(mutex_);
  if (draining_)
    return absl::UnavailableError("the engine is draining; send the request elsewhere");
  if (!stats_.attached || tokenizer != tokenizer_) return NoStore();
  RETURN_IF_ERROR(CheckQueueBounds(
      {.requests = options_.max_waiting, .prompt_tokens = options_.max_waiting_tokens},
      waiting_.size(), waiting_.prompt_tokens(), request.prompt.size()));
  if (request.queue_share < 1) {
    RETURN_IF_ERROR(CheckQueueShare(options_.max_waiting, request.queue_share,
                                    waiting_.CountOf(ClientKey(request))));
  }
  const uint64_t id = next_id_;
  next_id_ += request.choices;
  waiting_.Push({id, std::move(request), std::move(sinks), Clock::now()});
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
  runner_.emplace(options_, &link_.model(), link_.steering(), observer_);
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
  preemptions_before_ += runner_->preemptions();
  runner_.reset();
  link_.Detach();
}

void EngineImpl::EndAll(FinishReason reason, const absl::Status& status) {
  std::vector<WaitingRequest> waiting;
  {
    MutexLock lock(mutex_);
    waiting = waiting_.TakeIf([](const WaitingRequest&) { return true; });
  }
  EndIf(reason, status, [](uint64_t, const Sequence&) { return true; });
  // What never began has no text to keep: say that it may be sent elsewhere.
  const bool drained = reason == FinishReason::kDraining;
  for (const WaitingRequest& w : waiting) {
    w.End(drained ? FinishReason::kError : reason,
          drained ? absl::UnavailableError("the engine drained before the request began; send it "
                                           "elsewhere")
                  : status);
  }
  UpdateGauges();
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
  EndIf(FinishReason::kCancelled, cancelled,
        [&](uint64_t id, const Sequence&) { return ids.contains(id); });
  if (!waiting.empty()) UpdateGauges();
}

// Ends requests whose time limit has passed, queued or running.
void EngineImpl::EndExpired() {
  std::vector<WaitingRequest> waiting;
  {
    MutexLock lock(mutex_);
    waiting = waiting_.TakeExpired(Clock::now());
  }
  for (const WaitingRequest& w : waiting) w.End(FinishReason::kTimeLimit, absl::OkStatus());
  EndIf(FinishReason::kTimeLimit, absl::OkStatus(),
        [](uint64_t, const Sequence& sequence) { return sequence.TimeIsUp(); });
  if (!waiting.empty()) UpdateGauges();
}

// To those who asked for it, also while they wait.
void EngineImpl::ReportProgress() {
  const Clock::time_point now = Clock::now();
  if (now < next_progress_) return;
  next_progress_ = now + kProgressInterval;
  std::vector<std::pair<std::shared_ptr<GenerationSink>, PromptProgress>> waiting;
  {
    MutexLock lock(mutex_);
    waiting_.ForEach([&waiting](const WaitingRequest& w) {
      if (!w.request.progress) return;
      const auto total = static_cast<uint32_t>(w.request.prompt.size());
      waiting.push_back({w.sinks[0], {.total = total}});
    });
  }
  // Only this thread takes requests out and ends them.
  for (const auto& [sink, progress] : waiting) sink->OnPromptProgress(progress);
  if (runner_) runner_->ReportProgress();
}

// Whatever ends requests from outside, and what they are told meanwhile. Returns true when the
// engine is to stop.
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
  ReportProgress();
  return stop;
}

// A step, or an attach, waits for the store: do what does not have to.
absl::Status EngineImpl::OnWait() {
  if (EndWhatMust() || (runner_ && runner_->StepIsMoot())) {
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

void EngineImpl::EndIf(FinishReason reason, const absl::Status& status,
                       const std::function<bool(uint64_t, const Sequence&)>& ends) {
  if (runner_ && runner_->EndIf(reason, status, ends)) UpdateGauges();
}

// Lets the plan of the next step take what waits. The plan is made without the lock: only this
// thread takes requests out, so that what it wants is there still.
void EngineImpl::Admit() {
  {
    MutexLock lock(mutex_);
    const std::span<const SequenceNeed> needs = waiting_.needs();
    queued_.assign(needs.begin(), needs.end());
  }
  const std::vector<uint64_t>& wanted = runner_->Plan(queued_);
  if (wanted.empty()) return;
  std::vector<WaitingRequest> admitted;
  {
    MutexLock lock(mutex_);
    for (const uint64_t id : wanted) admitted.push_back(waiting_.Take(id));
  }
  for (WaitingRequest& request : admitted) runner_->Admit(std::move(request));
  UpdateGauges();
}

void EngineImpl::Step() {
  const StepResult result = runner_->Step();
  const bool counts = result.steered && result.prompt_rows == 0 && !link_.stalled();
  if (counts) link_.steering()->OnRound(result.seconds);
  {
    MutexLock lock(mutex_);
    ++stats_.steps;
    stats_.decode_rows += result.decode_rows;
    stats_.prompt_rows += result.prompt_rows;
    stats_.generated_tokens += result.generated_tokens;
    stats_.prompt_tokens += result.prompt_tokens;
    stats_.dense_instead_tokens += result.dense_instead_tokens;
    (result.decode_rows > 0 ? stats_.stall_seconds_decode : stats_.stall_seconds_prefill) +=
        result.stall_seconds;
    if (counts) stats_.steering = link_.steering()->stats();
  }
  UpdateGauges();
}

void EngineImpl::UpdateGauges() {
  MutexLock lock(mutex_);
  stats_.running = runner_ ? runner_->running() : 0;
  stats_.waiting = static_cast<uint32_t>(waiting_.size()) + (runner_ ? runner_->waiting() : 0);
  if (runner_) {
    stats_.kv_tokens_used = runner_->kv_tokens_used();
    stats_.preemptions = preemptions_before_ + runner_->preemptions();
    stats_.prefix = runner_->prefix_stats();
  }
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
    WatchStore(/*idle=*/runner_->empty());
    if (const absl::Status hopeless = link_.Hopeless(); !hopeless.ok()) {
      EndAll(FinishReason::kError, hopeless);
    }
    Admit();
    if (runner_->empty()) {
      WaitForWork(kIdleCheck);
      continue;
    }
    Step();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options,
                                                       EngineObserver* observer) {
  std::optional<store::v1::Profile> profile;
  if (!options.steering.profile.empty()) {
    ASSIGN_OR_RETURN(profile, ReadProfile(options.steering.profile));
  }
  auto engine = std::make_unique<EngineImpl>(options, std::move(profile), observer);
  RETURN_IF_ERROR(engine->Start());
  return engine;
}

}  // namespace tidegate
