// An engine and its streams, as tests start and collect them.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "engine/engine.h"
#include "tests/support/test_support.h"

namespace tidegate {

// Collects one stream; other threads wait for what they need to see.
class StreamSink : public GenerationSink {
 public:
  void OnTokens(std::string_view text, std::span<const TokenId> ids) override {
    MutexLock lock(mutex_);
    text_.append(text);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  void OnDone(const GenerationResult& result) override {
    MutexLock lock(mutex_);
    EXPECT_FALSE(done_);
    result_ = result;
    done_ = true;
  }
  void OnPromptProgress(const PromptProgress& progress) override {
    MutexLock lock(mutex_);
    EXPECT_FALSE(done_);
    EXPECT_TRUE(ids_.empty());
    progress_.push_back(progress);
  }
  void OnPromptLogprobs(uint32_t first, std::span<const TokenId> ids,
                        std::span<const TokenLogprobs> logprobs) override {
    MutexLock lock(mutex_);
    EXPECT_TRUE(ids_.empty());
    EXPECT_EQ(first, prompt_ids_.size() + 1);
    EXPECT_EQ(ids.size(), logprobs.size());
    prompt_ids_.insert(prompt_ids_.end(), ids.begin(), ids.end());
    prompt_logprobs_.insert(prompt_logprobs_.end(), logprobs.begin(), logprobs.end());
  }
  // Of the prompt from its second token on.
  std::vector<TokenId> prompt_ids() {
    MutexLock lock(mutex_);
    return prompt_ids_;
  }
  std::vector<TokenLogprobs> prompt_logprobs() {
    MutexLock lock(mutex_);
    return prompt_logprobs_;
  }
  std::vector<PromptProgress> progress() {
    MutexLock lock(mutex_);
    return progress_;
  }
  bool done() {
    MutexLock lock(mutex_);
    return done_;
  }
  size_t tokens() {
    MutexLock lock(mutex_);
    return ids_.size();
  }
  GenerationResult Wait() {
    EXPECT_TRUE(WaitUntil([this] { return done(); }, std::chrono::seconds(30)));
    MutexLock lock(mutex_);
    return result_;
  }
  std::vector<TokenId> ids() {
    MutexLock lock(mutex_);
    return ids_;
  }
  std::string text() {
    MutexLock lock(mutex_);
    return text_;
  }

 private:
  Mutex mutex_;
  std::string text_;
  std::vector<TokenId> ids_;
  std::vector<TokenId> prompt_ids_;
  std::vector<TokenLogprobs> prompt_logprobs_;
  std::vector<PromptProgress> progress_;
  GenerationResult result_;
  bool done_ = false;
};

struct Stream {
  std::shared_ptr<StreamSink> sink = std::make_shared<StreamSink>();
  uint64_t id = 0;
};

// One for each of the request's choices, all with its id.
inline std::vector<Stream> SubmitChoices(Engine& engine, GenerationRequest request) {
  std::vector<Stream> streams(request.choices);
  std::vector<std::shared_ptr<GenerationSink>> sinks;
  for (const Stream& stream : streams) sinks.push_back(stream.sink);
  const auto id = engine.SubmitChoices(std::move(request), std::move(sinks));
  EXPECT_TRUE(id.ok()) << id.status();
  for (Stream& stream : streams) stream.id = id.value_or(0);
  return streams;
}

inline Stream Submit(Engine& engine, GenerationRequest request) {
  Stream stream;
  const auto id = engine.Submit(std::move(request), stream.sink);
  EXPECT_TRUE(id.ok()) << id.status();
  stream.id = id.value_or(0);
  return stream;
}

// Statistics in which every stream counts that has ended: a step is counted after its streams are
// told.
inline EngineStats SettledStats(const Engine& engine) {
  EngineStats stats;
  EXPECT_TRUE(WaitUntil(
      [&] {
        stats = engine.stats();
        return stats.running == 0 && stats.waiting == 0;
      },
      std::chrono::seconds(30)));
  return stats;
}

inline std::unique_ptr<Engine> Make(const EngineOptions& options) {
  auto engine = Engine::Create(options, nullptr);
  CHECK(engine.ok());
  return *std::move(engine);
}

}  // namespace tidegate
