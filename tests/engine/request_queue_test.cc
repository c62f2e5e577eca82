#include "engine/request_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error_reason.h"

namespace tidegate::request_queue_test {

using testing::ElementsAre;
using testing::IsEmpty;

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
  waiting.sinks = {std::move(sink)};
  waiting.submitted = WaitingRequest::Clock::now() - std::chrono::seconds(2);
  return waiting;
}

std::vector<uint64_t> NeedIds(const RequestQueue& queue) {
  std::vector<uint64_t> ids;
  for (const SequenceNeed& need : queue.needs()) ids.push_back(need.id);
  return ids;
}

TEST(RequestQueueTest, AGreedyClientTakesItsShareAndNoMore) {
  RequestQueue queue;
  uint64_t id = 0;
  const auto push = [&](const std::string& client, double share) {
    WaitingRequest waiting = Waiting(++id);
    waiting.request.client = client;
    const absl::Status status =
        CheckQueueShare(20, share, queue.CountOf(ClientKey(waiting.request)));
    if (status.ok()) queue.Push(std::move(waiting));
    return status;
  };
  int greedy = 0;
  for (int i = 0; i < 100; ++i) greedy += push("key:greedy", 0.25).ok();
  EXPECT_EQ(greedy, 5);
  EXPECT_EQ(ErrorReason(push("key:greedy", 0.25)), kQueueShareLimit);
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(push("key:polite", 0.25).ok());
  EXPECT_TRUE(push("key:small", 0.001).ok()) << "one place in any case";
  EXPECT_FALSE(push("key:small", 0.001).ok());
  for (int i = 0; i < 30; ++i) EXPECT_TRUE(push("key:whole", 1).ok());
}

TEST(RequestQueueTest, KeepsTheOrderOfWhatIsLeft) {
  RequestQueue queue;
  for (uint64_t id = 1; id <= 6; ++id) queue.Push(Waiting(id));
  const auto even = queue.TakeIf([](const WaitingRequest& w) { return w.id % 2 == 0; });
  ASSERT_EQ(even.size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(even[i].id, 2 * i + 2);
  EXPECT_TRUE(queue.TakeIf([](const WaitingRequest&) { return false; }).empty());
  EXPECT_EQ(queue.size(), 3u);
  EXPECT_THAT(NeedIds(queue), ElementsAre(1, 3, 5));
  for (const uint64_t id : {3, 1, 5}) EXPECT_EQ(queue.Take(id).id, id);
  EXPECT_TRUE(queue.empty());
  EXPECT_THAT(NeedIds(queue), IsEmpty());
}

TEST(RequestQueueTest, SaysWhatTheSchedulerHasToKnow) {
  RequestQueue queue;
  for (uint64_t id = 1; id <= 4; ++id) {
    WaitingRequest waiting = Waiting(id);
    waiting.request.client = id == 4 ? "192.0.2.2" : "192.0.2.1";
    waiting.request.priority = static_cast<int32_t>(id) - 2;
    waiting.request.prompt.resize(10 * id);
    queue.Push(std::move(waiting));
  }
  EXPECT_EQ(queue.Take(2).request.prompt.size(), 20u);
  const auto needs = queue.needs();
  ASSERT_EQ(needs.size(), 3u);
  for (size_t i = 0; i < 3; ++i) {
    const uint64_t id = std::vector<uint64_t>{1, 3, 4}[i];
    EXPECT_EQ(needs[i].id, id);
    EXPECT_EQ(needs[i].priority, static_cast<int32_t>(id) - 2);
    EXPECT_EQ(needs[i].prompt_rows, 10 * id);
    EXPECT_EQ(needs[i].positions + needs[i].pages + needs[i].pages_shared, 0u);
  }
  EXPECT_EQ(needs[0].client, needs[1].client);
  EXPECT_NE(needs[0].client, needs[2].client);
}

TEST(RequestQueueTest, AllChoicesEndAndThePromptCountsOnce) {
  const auto first = std::make_shared<Sink>(), second = std::make_shared<Sink>();
  WaitingRequest waiting = Waiting(1, first);
  waiting.sinks.push_back(second);
  waiting.request.choices = 2;
  RequestQueue queue;
  queue.Push(std::move(waiting));
  EXPECT_EQ(queue.needs()[0].choices, 2u);
  queue.Take(1).End(FinishReason::kTimeLimit, absl::OkStatus());
  EXPECT_EQ(first->result_.accounts.prompt_tokens, 3u);
  EXPECT_EQ(second->result_.accounts.prompt_tokens, 0u);
  for (const auto& sink : {first, second}) {
    EXPECT_EQ(sink->result_.reason, FinishReason::kTimeLimit);
  }
}

TEST(RequestQueueTest, TakesWhatHasExpiredHoweverTheQueueChanged) {
  const WaitingRequest::Clock::time_point begin;
  const auto at = [&](int second) { return begin + std::chrono::seconds(second); };
  RequestQueue queue;
  EXPECT_TRUE(queue.TakeExpired(at(1000)).empty());
  for (uint64_t id = 1; id <= 6; ++id) {
    WaitingRequest waiting = Waiting(id);
    if (id % 2 == 0) waiting.request.time_limit = at(static_cast<int>(10 * id));  // 20, 40, 60
    queue.Push(std::move(waiting));
  }
  EXPECT_TRUE(queue.TakeExpired(at(19)).empty());
  queue.Take(2);
  EXPECT_TRUE(queue.TakeExpired(at(39)).empty());
  const auto first = queue.TakeExpired(at(40));
  ASSERT_EQ(first.size(), 1u);
  EXPECT_EQ(first[0].id, 4u);
  WaitingRequest early = Waiting(7);
  early.request.time_limit = at(50);
  queue.Push(std::move(early));
  const auto second = queue.TakeExpired(at(50));
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].id, 7u);
  EXPECT_EQ(queue.TakeExpired(at(60)).size(), 1u);
  EXPECT_TRUE(queue.TakeExpired(WaitingRequest::Clock::time_point::max()).empty());
  EXPECT_THAT(NeedIds(queue), ElementsAre(1, 3, 5)) << "without a limit";
}

TEST(RequestQueueTest, CountsTheTokensOfThePromptsThatWait) {
  RequestQueue queue;
  for (uint64_t id = 1; id <= 5; ++id) {
    WaitingRequest waiting = Waiting(id);
    waiting.request.prompt.resize(id);
    queue.Push(std::move(waiting));
  }
  EXPECT_EQ(queue.prompt_tokens(), 15u);
  queue.Take(1);
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

}  // namespace tidegate::request_queue_test
