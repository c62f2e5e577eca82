#include "server/token_buffer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <thread>

namespace tidegate::token_buffer_test {

using Action = TokenBuffer::Action;
using testing::ElementsAre;

constexpr size_t kRoomy = 1 << 20;

GenerationResult Result(FinishReason reason, absl::Status status = absl::OkStatus()) {
  GenerationResult result;
  result.reason = reason;
  result.status = std::move(status);
  return result;
}

TokenBuffer::Move Push(TokenBuffer& buffer, std::string_view text, std::vector<TokenId> ids) {
  return buffer.Tokens(text, ids);
}

TEST(TokenBuffer, WritesStartedThenTokensThenTheResult) {
  TokenBuffer buffer(kRoomy);
  EXPECT_EQ(buffer.Start().action, Action::kWriteStarted);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kNone);
  const TokenBuffer::Move move = Push(buffer, "Once", {7});
  EXPECT_EQ(move.action, Action::kWriteTokens);
  EXPECT_EQ(move.text, "Once");
  EXPECT_THAT(move.ids, ElementsAre(7));
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kNone);
  const TokenBuffer::Move last = buffer.Result(Result(FinishReason::kMaxTokens));
  EXPECT_EQ(last.action, Action::kFinishWithResult);
  EXPECT_EQ(last.result.reason, FinishReason::kMaxTokens);
  EXPECT_TRUE(last.status.ok());
}

TEST(TokenBuffer, TokensBeforeStartWait) {
  TokenBuffer buffer(kRoomy);
  EXPECT_EQ(Push(buffer, "a", {1}).action, Action::kNone);
  EXPECT_EQ(buffer.Result(Result(FinishReason::kEndOfText)).action, Action::kNone);
  EXPECT_EQ(buffer.Start().action, Action::kWriteStarted);
  const TokenBuffer::Move move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kWriteTokens);
  EXPECT_EQ(move.text, "a");
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kFinishWithResult);
}

TEST(TokenBuffer, JoinsWhatArrivesDuringAWrite) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  EXPECT_EQ(Push(buffer, "a", {1}).action, Action::kNone);
  EXPECT_EQ(Push(buffer, "", {2}).action, Action::kNone);
  EXPECT_EQ(Push(buffer, "bc", {3}).action, Action::kNone);
  const TokenBuffer::Move move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kWriteTokens);
  EXPECT_EQ(move.text, "abc");
  EXPECT_THAT(move.ids, ElementsAre(1, 2, 3));
}

TEST(TokenBuffer, EmptyTokensWriteNothing) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  buffer.WriteDone(true);
  EXPECT_EQ(Push(buffer, "", {}).action, Action::kNone);
}

TEST(TokenBuffer, TheResultWaitsForTheTokensBeforeIt) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  Push(buffer, "a", {1});
  EXPECT_EQ(buffer.Result(Result(FinishReason::kStopString)).action, Action::kNone);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kWriteTokens);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kFinishWithResult);
  EXPECT_EQ(buffer.ClientGone().action, Action::kNone);
}

TEST(TokenBuffer, ChoicesTakeTurnsAndTheLastResultEndsTheStream) {
  TokenBuffer buffer(kRoomy);
  buffer.Expect(2);
  buffer.Start();
  const TokenId id = 7;
  for (const uint32_t choice : {0, 1, 0}) buffer.Tokens("a", {&id, 1}, {}, choice);
  buffer.Result(Result(FinishReason::kMaxTokens), 0);
  TokenBuffer::Move move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kWriteTokens);
  EXPECT_EQ(move.choice, 0u);
  EXPECT_EQ(move.text, "aa");
  move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kWriteTokens);
  EXPECT_EQ(move.choice, 1u);
  move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kWriteResult);
  EXPECT_EQ(move.choice, 0u);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kNone);
  move = buffer.Result(Result(FinishReason::kEndOfText), 1);
  EXPECT_EQ(move.action, Action::kFinishWithResult);
  EXPECT_EQ(move.choice, 1u);
  EXPECT_EQ(move.result.reason, FinishReason::kEndOfText);
}

TEST(TokenBuffer, PromptLogprobsComeBeforeTokensInPartsAndOrder) {
  constexpr uint32_t kCount = 1000, kTop = 20;
  std::vector<TokenId> ids(kCount);
  std::vector<TokenLogprobs> logprobs(kCount);
  for (uint32_t i = 0; i < kCount; ++i) {
    ids[i] = static_cast<TokenId>(i);
    logprobs[i].logprob = -static_cast<double>(i);
    logprobs[i].top.resize(kTop);
  }
  TokenBuffer buffer(10);  // they count for themselves
  buffer.Start();
  buffer.PromptLogprobs(1, std::span(ids).first(600), std::span(logprobs).first(600));
  buffer.PromptLogprobs(601, std::span(ids).subspan(600), std::span(logprobs).subspan(600));
  Push(buffer, "a", {1});
  uint32_t seen = 0, parts = 0;
  TokenBuffer::Move move = buffer.WriteDone(true);
  for (; move.action == Action::kWritePromptLogprobs; move = buffer.WriteDone(true)) {
    EXPECT_EQ(move.first, seen + 1);
    ASSERT_EQ(move.ids.size(), move.logprobs.size());
    EXPECT_EQ(move.ids[0], static_cast<TokenId>(seen));
    EXPECT_EQ(move.logprobs[0].logprob, -static_cast<double>(seen));
    seen += static_cast<uint32_t>(move.ids.size());
    ++parts;
  }
  EXPECT_EQ(seen, kCount);
  EXPECT_EQ(parts, 3u);
  EXPECT_EQ(move.action, Action::kWriteTokens);
}

TEST(TokenBuffer, IsKeptAliveBetweenWrites) {
  TokenBuffer buffer(kRoomy);
  EXPECT_EQ(buffer.KeepAlive().action, Action::kNone);
  buffer.Start();
  EXPECT_EQ(buffer.KeepAlive().action, Action::kNone) << "Started is out";
  buffer.WriteDone(true);
  EXPECT_EQ(buffer.KeepAlive().action, Action::kWriteKeepAlive);
  EXPECT_EQ(buffer.KeepAlive().action, Action::kNone) << "one is out";
  EXPECT_EQ(Push(buffer, "a", {1}).action, Action::kNone);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kWriteTokens);
  buffer.Result(Result(FinishReason::kMaxTokens));
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kFinishWithResult);
  EXPECT_EQ(buffer.KeepAlive().action, Action::kNone);
}

TEST(TokenBuffer, AnErrorOfOneChoiceEndsTheStream) {
  TokenBuffer buffer(kRoomy);
  buffer.Expect(3);
  buffer.Start();
  buffer.WriteDone(true);
  const TokenBuffer::Move move =
      buffer.Result(Result(FinishReason::kError, absl::DataLossError("x")), 1);
  EXPECT_EQ(move.action, Action::kFinish);
  EXPECT_EQ(move.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(buffer.Result(Result(FinishReason::kCancelled), 0).action, Action::kNone);
  EXPECT_EQ(buffer.Tokens("late", {}, {}, 2).action, Action::kNone);
}

TEST(TokenBuffer, TokensAfterTheResultAreDropped) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  buffer.Result(Result(FinishReason::kMaxTokens));
  Push(buffer, "late", {9});
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kFinishWithResult);
}

TEST(TokenBuffer, OnlyTheFirstResultCounts) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  buffer.Result(Result(FinishReason::kMaxTokens));
  buffer.Result(Result(FinishReason::kError, absl::DataLossError("x")));
  EXPECT_EQ(buffer.WriteDone(true).result.reason, FinishReason::kMaxTokens);
}

TEST(TokenBuffer, OnlyTheLatestProgressIsWritten) {
  TokenBuffer buffer(kRoomy);
  EXPECT_EQ(buffer.Progress({.total = 9}).action, Action::kNone);
  EXPECT_EQ(buffer.Start().action, Action::kWriteStarted);
  EXPECT_EQ(buffer.Progress({.processed = 4, .total = 9}).action, Action::kNone);
  TokenBuffer::Move move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kWriteProgress);
  EXPECT_EQ(move.progress.processed, 4u);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kNone);
  move = buffer.Progress({.processed = 8, .total = 9, .cached = 2});
  EXPECT_EQ(move.action, Action::kWriteProgress);
  EXPECT_EQ(move.progress.cached, 2u);
}

TEST(TokenBuffer, LogprobsGoWithTheirIdsAndCount) {
  const TokenLogprobs one = {.logprob = -1, .top = {{.id = 4, .logprob = -0.5}}};
  const TokenId id = 7;
  const size_t bytes = 1 + sizeof(TokenId) + sizeof(TokenLogprobs) + sizeof(TopLogprob);
  TokenBuffer buffer(2 * bytes);
  buffer.Start();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(buffer.Tokens("a", {&id, 1}, {&one, 1}).action, Action::kNone);
  }
  const TokenBuffer::Move move = buffer.WriteDone(true);
  ASSERT_EQ(move.logprobs.size(), 2u);
  EXPECT_EQ(move.logprobs[1].logprob, -1);
  EXPECT_EQ(move.logprobs[1].top.at(0).id, 4);
  // While that is out, there is room for the same again and for no more.
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(buffer.Tokens("a", {&id, 1}, {&one, 1}).action, Action::kNone);
  }
  EXPECT_EQ(buffer.Tokens("a", {}).action, Action::kAbort);
}

TEST(TokenBuffer, TokensAndTheResultReplaceProgress) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  buffer.Progress({.processed = 4, .total = 9});
  Push(buffer, "a", {1});
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kWriteTokens);
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kNone);
  TokenBuffer ended(kRoomy);
  ended.Start();
  ended.Progress({.processed = 4, .total = 9});
  ended.Result(Result(FinishReason::kTimeLimit));
  EXPECT_EQ(ended.WriteDone(true).action, Action::kFinishWithResult);
  EXPECT_EQ(ended.Progress({.processed = 5, .total = 9}).action, Action::kNone);
}

TEST(TokenBuffer, AnErrorEndsWithItsStatusAfterTheText) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  Push(buffer, "a", {1});
  buffer.Result(Result(FinishReason::kError, absl::DataLossError("layer 3")));
  EXPECT_EQ(buffer.WriteDone(true).action, Action::kWriteTokens);
  const TokenBuffer::Move move = buffer.WriteDone(true);
  EXPECT_EQ(move.action, Action::kFinish);
  EXPECT_EQ(move.status, absl::DataLossError("layer 3"));
}

struct EndCase {
  GenerationResult result;
  absl::StatusCode expected;
};
class TokenBufferEndTest : public testing::TestWithParam<EndCase> {};

TEST_P(TokenBufferEndTest, HasStatus) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  buffer.WriteDone(true);
  EXPECT_EQ(buffer.Result(GetParam().result).status.code(), GetParam().expected);
}
INSTANTIATE_TEST_SUITE_P(
    All, TokenBufferEndTest,
    testing::Values(EndCase{Result(FinishReason::kDraining), absl::StatusCode::kOk},
                    EndCase{Result(FinishReason::kTimeLimit), absl::StatusCode::kOk},
                    EndCase{Result(FinishReason::kCancelled), absl::StatusCode::kCancelled},
                    EndCase{Result(FinishReason::kError), absl::StatusCode::kInternal},
                    EndCase{Result(FinishReason::kError, absl::UnavailableError("store")),
                            absl::StatusCode::kUnavailable}));

TEST(TokenBuffer, ARejectedRequestFinishesAtOnceAndOnce) {
  TokenBuffer buffer(kRoomy);
  const TokenBuffer::Move move = buffer.Reject(absl::ResourceExhaustedError("full"));
  EXPECT_EQ(move.action, Action::kFinish);
  EXPECT_EQ(move.status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(buffer.ClientGone().action, Action::kNone);
}

TEST(TokenBuffer, AGoneClientFinishesAfterTheWriteThatIsOut) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  Push(buffer, "a", {1});
  EXPECT_EQ(buffer.ClientGone().action, Action::kNone);
  EXPECT_TRUE(buffer.client_gone());
  const TokenBuffer::Move move = buffer.WriteDone(false);
  EXPECT_EQ(move.action, Action::kFinish);
  EXPECT_EQ(move.status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(Push(buffer, "b", {2}).action, Action::kNone);
  EXPECT_EQ(buffer.Result(Result(FinishReason::kCancelled)).action, Action::kNone);
}

TEST(TokenBuffer, AGoneClientFinishesAtOnceWhenNothingIsOut) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  buffer.WriteDone(true);
  EXPECT_EQ(buffer.ClientGone().action, Action::kFinish);
  EXPECT_EQ(buffer.ClientGone().action, Action::kNone);
}

TEST(TokenBuffer, AFailedWriteMeansThatTheClientIsGone) {
  TokenBuffer buffer(kRoomy);
  buffer.Start();
  EXPECT_EQ(buffer.WriteDone(false).action, Action::kFinish);
  EXPECT_TRUE(buffer.client_gone());
}

TEST(TokenBuffer, AClientGoneBeforeStartFinishesAtStart) {
  TokenBuffer buffer(kRoomy);
  EXPECT_EQ(buffer.ClientGone().action, Action::kNone);
  EXPECT_EQ(buffer.Start().action, Action::kFinish);
}

TEST(TokenBuffer, AbortsOnceWhenTheClientDoesNotRead) {
  TokenBuffer buffer(10);
  buffer.Start();
  EXPECT_EQ(Push(buffer, "123456", {1}).action, Action::kNone);  // 10 bytes: the limit
  EXPECT_EQ(Push(buffer, "7", {}).action, Action::kAbort);
  EXPECT_EQ(Push(buffer, "8", {}).action, Action::kNone);
  // Finishes only after both the abort and the write are done, in either order.
  EXPECT_EQ(buffer.AbortDone().action, Action::kNone);
  EXPECT_EQ(buffer.ClientGone().action, Action::kNone);
  const TokenBuffer::Move move = buffer.WriteDone(false);
  EXPECT_EQ(move.action, Action::kFinish);
  EXPECT_TRUE(move.text.empty());
}

TEST(TokenBuffer, TheAbortMayEndAfterTheWrite) {
  TokenBuffer buffer(1);
  buffer.Start();
  EXPECT_EQ(Push(buffer, "12", {}).action, Action::kAbort);
  EXPECT_EQ(buffer.WriteDone(false).action, Action::kNone);
  const TokenBuffer::Move move = buffer.AbortDone();
  EXPECT_EQ(move.action, Action::kFinish);
  EXPECT_EQ(move.status.code(), absl::StatusCode::kCancelled);
}

// A stream that performs the steps on a thread of its own, as gRPC does.
class FakeStream {
 public:
  explicit FakeStream(TokenBuffer& buffer) : buffer_(buffer), thread_([this] { Run(); }) {}
  ~FakeStream() {
    if (thread_.joinable()) thread_.join();
  }
  void Perform(TokenBuffer::Move move) {
    if (move.action == Action::kNone) return;
    MutexLock lock(mutex_);
    steps_.push_back(std::move(move));
    changed_.NotifyAll();
  }
  void Join() { thread_.join(); }

  std::vector<TokenId> received;
  int writes = 0;
  int finishes = 0;

 private:
  void Run() {
    while (finishes == 0) {
      TokenBuffer::Move move;
      {
        MutexLock lock(mutex_);
        while (steps_.empty()) changed_.Wait(mutex_);
        EXPECT_EQ(steps_.size(), 1u) << "more than one move at a time";
        move = std::move(steps_.front());
        steps_.pop_front();
      }
      if (move.action == Action::kFinish || move.action == Action::kFinishWithResult) {
        ++finishes;
        continue;
      }
      ++writes;
      received.insert(received.end(), move.ids.begin(), move.ids.end());
      Perform(buffer_.WriteDone(true));
    }
  }

  TokenBuffer& buffer_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<TokenBuffer::Move> steps_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

TEST(TokenBuffer, KeepsOrderBetweenThreads) {
  constexpr TokenId kTokens = 20000;
  TokenBuffer buffer(kRoomy);
  FakeStream stream(buffer);
  std::thread producer([&] {
    for (TokenId id = 0; id < kTokens; ++id) {
      stream.Perform(buffer.Tokens("x", std::span<const TokenId>(&id, 1)));
    }
    stream.Perform(buffer.Result(Result(FinishReason::kMaxTokens)));
  });
  stream.Perform(buffer.Start());
  producer.join();
  stream.Join();
  ASSERT_EQ(stream.received.size(), static_cast<size_t>(kTokens));
  for (TokenId id = 0; id < kTokens; ++id) ASSERT_EQ(stream.received[id], id);
  EXPECT_EQ(stream.finishes, 1);
  EXPECT_LE(stream.writes, kTokens + 1);
}

}  // namespace tidegate::token_buffer_test
