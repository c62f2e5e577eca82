#include "engine/request_queue.h"

#include <gtest/gtest.h>

namespace tidegate {
namespace {

class Sink : public GenerationSink {
 public:
  void OnTokens(std::string_view, std::span<const TokenId>) override { ADD_FAILURE(); }
  void OnDone(const GenerationResult& result) override { result_ = result; }
  GenerationResult result_;
};

WaitingRequest Waiting(uint64_t id, std::shared_ptr<GenerationSink> sink = nullptr) {
  WaitingRequest waiting;
  waiting.id = id;
  waiting.request.prompt = {1, 2, 3};
  waiting.sink = std::move(sink);
  waiting.submitted = WaitingRequest::Clock::now() - std::chrono::seconds(2);
  return waiting;
}

TEST(RequestQueueTest, KeepsTheOrderOfWhatIsLeft) {
  RequestQueue queue;
  for (uint64_t id = 1; id <= 6; ++id) queue.Push(Waiting(id));
  const auto even = queue.TakeIf([](const WaitingRequest& w) { return w.id % 2 == 0; });
  ASSERT_EQ(even.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(even[i].id, 2 * i + 2);
  EXPECT_TRUE(queue.TakeIf([](const WaitingRequest&) { return false; }).empty());
  EXPECT_EQ(queue.size(), 3u);
  EXPECT_EQ(queue.front().id, 1u);
  for (const uint64_t id : {1, 3, 5}) EXPECT_EQ(queue.Pop().id, id);
  EXPECT_TRUE(queue.empty());
}

TEST(RequestQueueTest, CountsTheTokensOfThePromptsThatWait) {
  RequestQueue queue;
  for (uint64_t id = 1; id <= 5; ++id) {
    WaitingRequest waiting = Waiting(id);
    waiting.request.prompt.resize(id);
    queue.Push(std::move(waiting));
  }
  EXPECT_EQ(queue.prompt_tokens(), 15u);
  queue.Pop();
  EXPECT_EQ(queue.prompt_tokens(), 14u);
  queue.TakeIf([](const WaitingRequest& w) { return w.id % 2 == 0; });
  EXPECT_EQ(queue.prompt_tokens(), 8u);
  queue.TakeIf([](const WaitingRequest&) { return true; });
  EXPECT_EQ(queue.prompt_tokens(), 0u);
}

TEST(RequestQueueTest, BoundsOfWhatWaits) {
  const QueueBounds both = {.requests = 3, .prompt_tokens = 100}, count = {.requests = 3};
  EXPECT_EQ(CheckQueueBounds(both, 2, 90, 10), absl::OkStatus());
  EXPECT_EQ(CheckQueueBounds(count, 2, 1'000'000, 1'000'000), absl::OkStatus()) << "no bound";
  EXPECT_EQ(CheckQueueBounds(both, 0, 0, 1000), absl::OkStatus()) << "an empty queue takes it";
  EXPECT_EQ(CheckQueueBounds(both, 3, 30, 1),
            absl::ResourceExhaustedError("the queue is full: 3 requests wait already and "
                                         "--max-waiting is 3; retry later"));
  EXPECT_EQ(CheckQueueBounds(both, 2, 90, 11),
            absl::ResourceExhaustedError(
                "the queue is full: requests with 90 prompt tokens wait already, this one has 11 "
                "and --max-waiting-tokens is 100; retry later or send a shorter prompt"));
  EXPECT_FALSE(CheckQueueBounds({.requests = 0}, 0, 0, 1).ok());
}

TEST(RequestQueueTest, ARequestThatNeverBeganEndsWithItsAccounts) {
  const auto sink = std::make_shared<Sink>();
  Waiting(1, sink).End(FinishReason::kCancelled, absl::CancelledError("x"));
  EXPECT_EQ(sink->result_.reason, FinishReason::kCancelled);
  EXPECT_EQ(sink->result_.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(sink->result_.accounts.prompt_tokens, 3u);
  EXPECT_GE(sink->result_.accounts.queue_seconds, 2);
}

TEST(RequestQueueTest, TimeIsUpAtTheLimit) {
  WaitingRequest waiting = Waiting(1);
  const auto now = WaitingRequest::Clock::now();
  EXPECT_FALSE(waiting.TimeIsUp(now)) << "it has none";
  waiting.request.time_limit = now;
  EXPECT_TRUE(waiting.TimeIsUp(now));
  EXPECT_FALSE(waiting.TimeIsUp(now - std::chrono::nanoseconds(1)));
}

}  // namespace
}  // namespace tidegate
