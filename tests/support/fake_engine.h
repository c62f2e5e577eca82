// An engine without a model: the test says what it generates. For tests of everything above it.
// Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "engine/engine.h"
#include "tests/engine/tokenizer/tiny_tokenizer.h"

namespace tidegate {

class FakeEngine final : public Engine {
 public:
  FakeEngine() : tokenizer_(MakeTokenizer(TinyVocabulary({{"\u2581a", -1}}))) {}
  ~FakeEngine() override {
    for (const uint64_t id : Running()) End(id, FinishReason::kCancelled);
  }

  // What the test decides.
  void SetAttached(bool attached) {
    MutexLock lock(mutex_);
    attached_ = attached;
  }
  void SetChatTemplate(std::string source) {
    MutexLock lock(mutex_);
    chat_template_ = std::move(source);
  }
  void SetSubmitError(absl::Status status) {
    MutexLock lock(mutex_);
    submit_error_ = std::move(status);
  }
  // `id`: of a request, which is that of its first choice, or of another one, which follow.
  void Emit(uint64_t id, std::string_view text, std::vector<TokenId> ids) {
    if (const auto sink = Find(id)) sink->OnTokens(text, ids);
  }
  void EmitLogprobs(uint64_t id, std::string_view text, std::vector<TokenId> ids,
                    std::vector<TokenLogprobs> logprobs) {
    if (const auto sink = Find(id)) sink->OnTokensWithLogprobs(text, ids, logprobs);
  }
  void EmitPromptLogprobs(uint64_t id, uint32_t first, std::vector<TokenId> ids,
                          std::vector<TokenLogprobs> logprobs) {
    if (const auto sink = Find(id)) sink->OnPromptLogprobs(first, ids, logprobs);
  }
  void EmitProgress(uint64_t id, const PromptProgress& progress) {
    if (const auto sink = Find(id)) sink->OnPromptProgress(progress);
  }
  void End(uint64_t id, GenerationResult result) {
    std::shared_ptr<GenerationSink> sink = Find(id);
    {
      MutexLock lock(mutex_);
      sinks_.erase(id);
    }
    changed_.NotifyAll();
    if (sink != nullptr) sink->OnDone(result);
  }
  void End(uint64_t id, FinishReason reason) {
    GenerationResult result;
    result.reason = reason;
    if (reason == FinishReason::kCancelled) result.status = absl::CancelledError("cancelled");
    End(id, result);
  }

  // What the test looks at.
  std::vector<uint64_t> Running() const {
    MutexLock lock(mutex_);
    std::vector<uint64_t> ids;
    for (const auto& [id, sink] : sinks_) ids.push_back(id);
    return ids;
  }
  uint64_t WaitForRequest() {
    MutexLock lock(mutex_);
    while (sinks_.empty()) changed_.Wait(mutex_);
    return requests_.at(sinks_.rbegin()->first);
  }
  void WaitForCancel(uint64_t id) {
    MutexLock lock(mutex_);
    while (!cancelled_.contains(id)) changed_.Wait(mutex_);
  }
  std::shared_ptr<GenerationSink> SinkOf(uint64_t id) const { return Find(id); }
  uint64_t submitted() const {  // requests so far
    MutexLock lock(mutex_);
    return last_id_;
  }
  GenerationRequest last_request() const {
    MutexLock lock(mutex_);
    return last_request_;
  }

  // Engine.
  absl::StatusOr<uint64_t> SubmitChoices(
      GenerationRequest request, std::vector<std::shared_ptr<GenerationSink>> sinks) override {
    MutexLock lock(mutex_);
    if (!submit_error_.ok()) return submit_error_;
    if (draining_) return absl::UnavailableError("the server is stopping");
    last_request_ = std::move(request);
    const uint64_t id = last_id_ + 1;
    last_id_ += sinks.size();
    for (size_t i = 0; i < sinks.size(); ++i) {
      requests_[id + i] = id;
      sinks_[id + i] = std::move(sinks[i]);
    }
    changed_.NotifyAll();
    return id;
  }
  void Cancel(uint64_t id) override {
    {
      MutexLock lock(mutex_);
      cancelled_.insert(id);
    }
    for (const uint64_t choice : Running()) {
      if (RequestOf(choice) == id) End(choice, FinishReason::kCancelled);
    }
  }
  void Drain(std::chrono::steady_clock::time_point deadline) override {
    {
      MutexLock lock(mutex_);
      draining_ = true;
      changed_.NotifyAll();
      while (!sinks_.empty() && std::chrono::steady_clock::now() < deadline) {
        changed_.WaitFor(mutex_, deadline - std::chrono::steady_clock::now());
      }
    }
    for (const uint64_t id : Running()) End(id, FinishReason::kDraining);
  }
  void WaitForDrain() {
    MutexLock lock(mutex_);
    while (!draining_) changed_.Wait(mutex_);
  }
  bool ready() const override {
    MutexLock lock(mutex_);
    return attached_ && !draining_;
  }
  EngineStats stats() const override {
    MutexLock lock(mutex_);
    EngineStats stats;
    stats.attached = attached_;
    stats.draining = draining_;
    stats.running = static_cast<uint32_t>(sinks_.size());
    return stats;
  }
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer() const override {
    MutexLock lock(mutex_);
    if (!attached_) return absl::UnavailableError("not attached to a weight store yet");
    return tokenizer_;
  }
  absl::StatusOr<ModelInfo> model_info() const override {
    MutexLock lock(mutex_);
    if (!attached_) return absl::UnavailableError("not attached to a weight store yet");
    ModelInfo info;
    info.name = "tiny";
    info.architecture = "llama";
    info.kv_encoding = "q8";
    info.layer_count = 2;
    info.chat_template = chat_template_;
    info.vocab_size = static_cast<uint32_t>(tokenizer_->vocab_size());
    return info;
  }
  uint32_t context_tokens() const override { return 64; }
  const PruningBounds& pruning_bounds() const override { return bounds_; }

 private:
  uint64_t RequestOf(uint64_t choice) const {
    MutexLock lock(mutex_);
    return requests_.at(choice);
  }
  std::shared_ptr<GenerationSink> Find(uint64_t id) const {
    MutexLock lock(mutex_);
    const auto found = sinks_.find(id);
    return found == sinks_.end() ? nullptr : found->second;
  }

  const std::shared_ptr<const Tokenizer> tokenizer_;
  const PruningBounds bounds_{.defaults = {}, .density_min = 0.25f};
  mutable Mutex mutex_;
  CondVar changed_;
  bool attached_ ABSL_GUARDED_BY(mutex_) = true;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::string chat_template_ ABSL_GUARDED_BY(mutex_);
  absl::Status submit_error_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<uint64_t, uint64_t> requests_ ABSL_GUARDED_BY(mutex_);  // by choice
  GenerationRequest last_request_ ABSL_GUARDED_BY(mutex_);
  std::map<uint64_t, std::shared_ptr<GenerationSink>> sinks_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> cancelled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tidegate
