// Collects one stream; other threads wait for what they need to see.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/mutex.h"
#include "engine/generation.h"
#include "tests/support/test_support.h"

namespace tidegate {

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
  GenerationResult result_;
  bool done_ = false;
};

}  // namespace tidegate
