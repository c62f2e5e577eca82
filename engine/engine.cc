#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/mutex.h"
#include "base/status_macros.h"
#include "engine/attached_model.h"
#include "engine/kernels/kernels.h"
#include "engine/request_check.h"
#include "engine/sequence.h"
#include "engine/steering.h"
#include "proto/store/v1/profile.h"

namespace tidegate {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kBackOffMin{50}, kBackOffMax{2000};
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
        profile_(std::move(profile)),
        observer_(observer),
        pool_(options.threads) {}
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
  struct Waiting {
    uint64_t id;
    GenerationRequest request;
    std::shared_ptr<GenerationSink> sink;
    Clock::time_point submitted;
  };
  struct Running {
    uint64_t id;
    std::unique_ptr<Sequence> sequence;
  };

  // All of these run on the decode thread.
  void Loop();
  bool EnsureAttached();
  absl::Status Attach();
  void Publish();
  void Detach();
  void EndCancelled();
  void EndExpired();
  void EndAll(FinishReason reason, const absl::Status& status);
  static void EndWaiting(const Waiting& waiting, FinishReason reason, const absl::Status& status);
  void Admit();
  void StepAll();
  bool RoundCounts() const;
  void Step(Running& running);
  void UpdateGauges();
  void WaitForWork(std::chrono::milliseconds timeout);
  uint64_t KvTokensReserved() const;

  const EngineOptions options_;
  const std::optional<store::v1::Profile> profile_;  // of options_; checked
  EngineObserver* const observer_;
  ThreadPool pool_;
  std::unique_ptr<AttachedModel> attached_;
  std::optional<Steering> steering_;
  absl::Status attach_error_;         // of the last attach
  absl::Status configuration_error_;  // the same, where another attempt would not help
  std::vector<Running> running_;      // after attached_ and steering_: sequences use them
  std::chrono::milliseconds back_off_ = kBackOffMin;
  Clock::time_point next_attach_;
  std::thread thread_;

  std::atomic<bool> cancel_pending_ = false;  // looked at between steps without the lock

  mutable Mutex mutex_;
  CondVar work_, idle_;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
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
    if (!configuration_error_.ok()) return configuration_error_;  // waiting would not help
    if (options_.attach_timeout.count() == 0) break;
    if (Clock::now() >= deadline) return absl::UnavailableError(attach_error_.message());
    std::this_thread::sleep_for(kBackOffMin);
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
  waiting_.push_back({id, std::move(request), std::move(sink), Clock::now()});
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
  return stats_.attached && !draining_;
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
  if (attached_ != nullptr) {
    if (attached_->client->connected()) return true;
    LogWarning("the weight store is gone; re-attaching");
    Detach();
  }
  if (Clock::now() < next_attach_) return false;
  const absl::Status before = std::exchange(attach_error_, Attach());
  if (!attach_error_.ok()) {
    if (attach_error_ != before) LogWarning("not attached yet: ", attach_error_.message());
    next_attach_ = Clock::now() + back_off_;
    back_off_ = std::min(back_off_ * 2, kBackOffMax);
    return false;
  }
  back_off_ = kBackOffMin;
  Publish();
  LogAttached(*attached_, options_);
  return true;
}

absl::Status EngineImpl::Attach() {
  auto attached = AttachModel(options_, &pool_);
  // Of options or adapters: a store that comes back does not mend that.
  configuration_error_ =
      absl::IsInvalidArgument(attached.status()) ? attached.status() : absl::OkStatus();
  if (!attached.ok()) return attached.status();
  attached_ = *std::move(attached);
  auto steering = SteeringFor(options_, profile_, *attached_->client, attached_->model->config);
  configuration_error_ = steering.status();
  if (steering.ok()) {
    steering_ = *std::move(steering);
  } else {
    attached_.reset();
  }
  return configuration_error_;
}

void EngineImpl::Publish() {
  MutexLock lock(mutex_);
  stats_.steering = steering_ ? steering_->stats() : SteeringStats();
  if (tokenizer_ != nullptr) ++stats_.reattached;
  tokenizer_ = attached_->tokenizer;
  info_ = attached_->info;
  context_tokens_ = attached_->context_tokens;
  stats_.attached = true;
  stats_.kv_tokens_capacity = attached_->kv_capacity_tokens;
}

void EngineImpl::Detach() {
  {
    MutexLock lock(mutex_);
    stats_.attached = false;
  }
  EndAll(FinishReason::kError, absl::UnavailableError("the weight store went away; retry shortly"));
  steering_.reset();
  attached_.reset();
}

void EngineImpl::EndWaiting(const Waiting& waiting, FinishReason reason,
                            const absl::Status& status) {
  GenerationResult result;
  result.reason = reason;
  result.status = status;
  result.accounts.prompt_tokens = static_cast<uint32_t>(waiting.request.prompt.size());
  result.accounts.queue_seconds =
      std::chrono::duration<double>(Clock::now() - waiting.submitted).count();
  waiting.sink->OnDone(result);
}

void EngineImpl::EndAll(FinishReason reason, const absl::Status& status) {
  std::deque<Waiting> waiting;
  {
    MutexLock lock(mutex_);
    waiting.swap(waiting_);
  }
  for (Running& running : running_) running.sequence->End(reason, status);
  running_.clear();
  // What never began has no text to keep: say that it may be sent elsewhere.
  const bool drained = reason == FinishReason::kDraining;
  for (const Waiting& w : waiting) {
    EndWaiting(w, drained ? FinishReason::kError : reason,
               drained ? absl::UnavailableError("the engine drained before the request began; "
                                                "send it elsewhere")
                       : status);
  }
  UpdateGauges();
}

void EngineImpl::EndCancelled() {
  if (!cancel_pending_.exchange(false)) return;
  absl::flat_hash_set<uint64_t> ids;
  std::vector<Waiting> ended;
  {
    MutexLock lock(mutex_);
    ids.swap(cancelled_);
    for (auto at = waiting_.begin(); at != waiting_.end();) {
      if (!ids.contains(at->id)) {
        ++at;
        continue;
      }
      ended.push_back(std::move(*at));
      at = waiting_.erase(at);
    }
  }
  const absl::Status cancelled = absl::CancelledError("cancelled by the client");
  for (const Waiting& w : ended) EndWaiting(w, FinishReason::kCancelled, cancelled);
  std::erase_if(running_, [&](Running& running) {
    if (!ids.contains(running.id)) return false;
    running.sequence->End(FinishReason::kCancelled, cancelled);
    return true;
  });
  UpdateGauges();
}

// Ends requests whose time limit passed while they waited.
void EngineImpl::EndExpired() {
  std::vector<Waiting> ended;
  {
    MutexLock lock(mutex_);
    const Clock::time_point now = Clock::now();
    for (auto at = waiting_.begin(); at != waiting_.end();) {
      if (!at->request.time_limit.has_value() || *at->request.time_limit > now) {
        ++at;
        continue;
      }
      ended.push_back(std::move(*at));
      at = waiting_.erase(at);
    }
  }
  if (ended.empty()) return;
  for (const Waiting& w : ended) EndWaiting(w, FinishReason::kTimeLimit, absl::OkStatus());
  UpdateGauges();
}

uint64_t EngineImpl::KvTokensReserved() const {
  uint64_t tokens = 0;
  for (const Running& running : running_) tokens += running.sequence->capacity_tokens();
  return tokens;
}

void EngineImpl::Admit() {
  bool any = false;
  while (running_.size() < options_.max_running) {
    MutexLock lock(mutex_);
    if (waiting_.empty()) break;
    const GenerationRequest& request = waiting_.front().request;
    const auto needed = static_cast<uint32_t>(std::min<uint64_t>(
        attached_->context_tokens, request.prompt.size() + uint64_t{request.max_tokens}));
    if (KvTokensReserved() + needed > attached_->kv_capacity_tokens) break;
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    running_.push_back(
        {next.id,
         std::make_unique<Sequence>(
             std::move(next.request), std::move(next.sink), next.submitted, *attached_->model,
             attached_->decoder.get(), attached_->tokenizer, needed, attached_->context_tokens,
             options_.kv_half, options_.precision, steering_ ? &*steering_ : nullptr, observer_)});
    any = true;
  }
  if (any) UpdateGauges();
}

void EngineImpl::Step(Running& running) {
  Sequence& sequence = *running.sequence;
  const GenerationAccounts before = sequence.accounts();
  const double prefill_stall = sequence.prefill_stall_seconds();
  const bool more = sequence.Advance();
  const GenerationAccounts& after = sequence.accounts();
  {
    MutexLock lock(mutex_);
    stats_.generated_tokens += after.generated_tokens - before.generated_tokens;
    stats_.stall_seconds_decode += after.stall_seconds - before.stall_seconds;
    stats_.stall_seconds_prefill += sequence.prefill_stall_seconds() - prefill_stall;
    // The prompt counts once, when its last piece is through.
    if (before.generated_tokens == 0 && after.generated_tokens > 0) {
      stats_.prompt_tokens += after.prompt_tokens;
    }
  }
  if (!more) running.sequence.reset();
}

// Whether the next round is one token of every stream, of which one at least is steered.
bool EngineImpl::RoundCounts() const {
  const auto prefilling = [](const Running& r) { return r.sequence->prefilling(); };
  const auto steered = [](const Running& r) { return r.sequence->steered(); };
  return std::none_of(running_.begin(), running_.end(), prefilling) &&
         std::any_of(running_.begin(), running_.end(), steered);
}

// One piece of work for every running request, in turn.
void EngineImpl::StepAll() {
  const bool counts = RoundCounts();
  const Clock::time_point begin = Clock::now();
  for (Running& running : running_) {
    if (cancel_pending_) break;  // Handled before the next step, whosever it is.
    Step(running);
  }
  if (counts && !cancel_pending_) {
    steering_->OnRound(std::chrono::duration<double>(Clock::now() - begin).count());
    MutexLock lock(mutex_);
    stats_.steering = steering_->stats();
  }
  if (std::erase_if(running_, [](const Running& r) { return r.sequence == nullptr; }) > 0) {
    UpdateGauges();
  }
}

void EngineImpl::UpdateGauges() {
  MutexLock lock(mutex_);
  stats_.running = static_cast<uint32_t>(running_.size());
  stats_.waiting = static_cast<uint32_t>(waiting_.size());
  stats_.kv_tokens_used = KvTokensReserved();
  if (stats_.running == 0 && stats_.waiting == 0) idle_.NotifyAll();
}

void EngineImpl::WaitForWork(std::chrono::milliseconds timeout) {
  MutexLock lock(mutex_);
  if (waiting_.empty() && cancelled_.empty() && !stopping_) work_.WaitFor(mutex_, timeout);
}

void EngineImpl::Loop() {
  while (true) {
    bool stop = false, expired = false;
    {
      MutexLock lock(mutex_);
      stop = stopping_;
      expired = drain_expired_;
    }
    if (stop) {
      EndAll(FinishReason::kCancelled, absl::CancelledError("the engine is shutting down"));
      return;
    }
    if (expired) EndAll(FinishReason::kDraining, absl::OkStatus());
    EndCancelled();
    EndExpired();
    if (!EnsureAttached()) {
      WaitForWork(kBackOffMin);
      continue;
    }
    Admit();
    if (running_.empty()) {
      WaitForWork(kIdleCheck);
      continue;
    }
    StepAll();
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
