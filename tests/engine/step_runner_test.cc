// Steps of many sequences through a real engine: pages that run out, prompts that begin alike,
// short prompts under long ones.
#include "engine/step_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "base/mutex.h"
#include "engine/engine.h"
#include "tests/engine/local_engine.h"
#include "tests/engine/stream_sink.h"

namespace tidegate::step_runner_test {

constexpr std::chrono::seconds kLong{30};

EngineOptions Options(const LocalStore& store) {
  EngineOptions options;
  options.store_socket = store.socket();
  options.threads = 1;
  options.attach_timeout = kLong;
  options.context_tokens = 256;
  options.kv_tokens = 8192;
  return options;
}

// A prompt of `tokens`, its ids by `seed`; greedy and exact.
GenerationRequest Request(uint32_t tokens, uint32_t max_tokens, uint32_t seed) {
  GenerationRequest request;
  request.prompt = {1};
  while (request.prompt.size() < tokens) {
    const auto n = static_cast<uint32_t>(request.prompt.size());
    request.prompt.push_back(static_cast<TokenId>(260 + (n * 7 + seed * 13) % 40));
  }
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.stop.ignore_eos = true;
  request.pruning.reproducible = true;
  return request;
}

// What follows a prompt greedily, dense and exact, without an engine.
std::vector<TokenId> DecodeAlone(const LocalStore& store, const std::vector<TokenId>& prompt,
                                 uint32_t tokens) {
  LocalDecoder local(store);
  const ModelConfig& config = local.model->config;
  KvPool pool = KvPool::ForTokens(config, KvType::kF16, prompt.size() + tokens);
  KvCache kv(&pool, 256);
  std::vector<float> logits(config.embedding_rows);
  PassAccounts accounts;
  EXPECT_TRUE(AppendPrompt(*local.decoder, kv, prompt, Precision::kExact, logits, accounts).ok());
  std::vector<TokenId> ids;
  while (true) {
    ids.push_back(static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin()));
    if (ids.size() == tokens) return ids;
    EXPECT_TRUE(
        AppendToken(*local.decoder, kv, ids.back(), nullptr, Precision::kExact, logits, accounts)
            .ok());
  }
}

TEST(StepRunnerTest, APreemptedStreamGoesOnWithTheSameTokens) {
  LocalStore store;
  std::vector<std::vector<TokenId>> alone;
  {
    auto engine = Make(Options(store));
    for (uint32_t i = 0; i < 4; ++i) {
      Stream stream = Submit(*engine, Request(40, 100, i));
      EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kMaxTokens);
      alone.push_back(stream.sink->ids());
    }
  }
  for (const bool prefix_cache : {false, true}) {
    EngineOptions options = Options(store);
    options.kv_tokens = 256;  // eight pages; each stream grows to five
    options.context_tokens = 160;
    options.prefix_cache = prefix_cache;
    auto engine = Make(options);
    std::vector<Stream> streams;
    for (uint32_t i = 0; i < 4; ++i) streams.push_back(Submit(*engine, Request(40, 100, i)));
    for (uint32_t i = 0; i < 4; ++i) {
      const GenerationResult result = streams[i].sink->Wait();
      EXPECT_EQ(result.reason, FinishReason::kMaxTokens) << result.status;
      EXPECT_EQ(streams[i].sink->ids(), alone[i]) << i;
      // What it computed itself was not found when it came.
      EXPECT_EQ(result.accounts.cached_prompt_tokens, 0u);
    }
    const EngineStats stats = SettledStats(*engine);
    EXPECT_GT(stats.preemptions, 0u);
    EXPECT_EQ(stats.kv_tokens_used, 0u);
  }
}

// Where every layer has a window, a stream holds the pages that it sees, however long it grows.
TEST(StepRunnerTest, PagesBehindTheWindowOfAllLayersComeFree) {
  constexpr uint32_t kPrompt = 40, kTokens = 200;
  LocalStore store({.model = {.context = 256, .window = 48}});
  std::vector<GenerationRequest> requests;
  std::vector<std::vector<TokenId>> whole;  // of a cache that keeps all pages
  for (uint32_t i = 0; i < 3; ++i) {
    requests.push_back(Request(kPrompt, kTokens, i));
    requests.back().pruning.mode = DecodeMode::kDense;
    whole.push_back(DecodeAlone(store, requests.back().prompt, kTokens));
  }
  EngineOptions options = Options(store);
  options.kv_tokens = 320;  // ten pages; each stream grows to eight
  options.context_tokens = 256;
  auto engine = Make(options);
  std::vector<Stream> streams;
  for (const GenerationRequest& request : requests) streams.push_back(Submit(*engine, request));
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(streams[i].sink->Wait().reason, FinishReason::kMaxTokens);
    EXPECT_EQ(streams[i].sink->ids(), whole[i]) << i;
  }
  EXPECT_EQ(SettledStats(*engine).preemptions, 0u);
}

TEST(StepRunnerTest, PromptsThatBeginAlikeAreComputedOnce) {
  LocalStore store;
  auto engine = Make(Options(store));
  Stream first = Submit(*engine, Request(100, 8, 1));
  EXPECT_EQ(first.sink->Wait().accounts.cached_prompt_tokens, 0u);
  // Full pages; of the whole prompt at least one token is computed.
  Stream again = Submit(*engine, Request(100, 8, 1));
  EXPECT_EQ(again.sink->Wait().accounts.cached_prompt_tokens, 96u);
  EXPECT_EQ(again.sink->ids(), first.sink->ids());
  GenerationRequest longer = Request(130, 8, 1);
  EXPECT_EQ(Submit(*engine, longer).sink->Wait().accounts.cached_prompt_tokens, 96u);
  EXPECT_EQ(Submit(*engine, longer).sink->Wait().accounts.cached_prompt_tokens, 128u);
  GenerationRequest salted = Request(100, 8, 1);
  salted.cache_salt = "another client";
  EXPECT_EQ(Submit(*engine, salted).sink->Wait().accounts.cached_prompt_tokens, 0u);
  const EngineStats stats = SettledStats(*engine);
  EXPECT_EQ(stats.prefix.hit_tokens, 96u + 96u + 128u);
  EXPECT_GT(stats.prefix.pages, 0u);
  EXPECT_EQ(stats.kv_tokens_used, 0u) << "the prefix cache makes room";

  EngineOptions without = Options(store);
  without.prefix_cache = false;
  auto other = Make(without);
  for (int round = 0; round < 2; ++round) {
    Stream plain = Submit(*other, Request(100, 8, 1));
    EXPECT_EQ(plain.sink->Wait().accounts.cached_prompt_tokens, 0u);
    EXPECT_EQ(plain.sink->ids(), first.sink->ids());
  }
}

// Draws `tokens` of a prompt of 70 tokens: two full pages and a part of a third.
GenerationRequest Drawing(uint32_t tokens, uint64_t seed, uint32_t choices = 1) {
  GenerationRequest request = Request(70, tokens, 1);
  request.sampling = {.temperature = 2, .seed = seed};
  request.choices = choices;
  return request;
}

TEST(StepRunnerTest, EachChoiceDrawsWhatARequestWithItsSeedDraws) {
  constexpr uint64_t kSeed = ~uint64_t{1};  // the third one's is 0
  constexpr uint32_t kChoices = 4, kTokens = 40;
  for (const uint32_t window : {0, 48}) {
    LocalStore store({.model = {.context = 256, .window = window}});
    std::vector<std::vector<TokenId>> alone;
    for (uint32_t i = 0; i < kChoices; ++i) {
      auto engine = Make(Options(store));
      const Stream stream = Submit(*engine, Drawing(kTokens, kSeed + i));
      EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kMaxTokens);
      alone.push_back(stream.sink->ids());
    }
    EXPECT_NE(alone[0], alone[1]);
    // Places and pages enough; fewer places than choices; too few pages for all, so that some are
    // preempted or begin later, with the full pages of the prompt or without.
    struct Room {
      uint32_t places, kv_tokens;
      bool prefix_cache;
    };
    for (const Room& room :
         {Room{8, 8192, true}, Room{2, 8192, true}, Room{8, 224, true}, Room{4, 160, false}}) {
      EngineOptions options = Options(store);
      options.context_tokens = 160;
      options.max_running = room.places;
      options.kv_tokens = room.kv_tokens;
      options.prefix_cache = room.prefix_cache;
      auto engine = Make(options);
      const auto streams = SubmitChoices(*engine, Drawing(kTokens, kSeed, kChoices));
      for (uint32_t i = 0; i < kChoices; ++i) {
        const GenerationResult result = streams[i].sink->Wait();
        EXPECT_EQ(result.reason, FinishReason::kMaxTokens) << result.status;
        EXPECT_EQ(streams[i].sink->ids(), alone[i]) << i << " of " << room.places << " places";
        EXPECT_EQ(result.accounts.seed, kSeed + i);
        EXPECT_EQ(result.accounts.prompt_tokens, i == 0 ? 70u : 0u);
        EXPECT_EQ(result.accounts.cached_prompt_tokens, 0u);
      }
      const EngineStats stats = SettledStats(*engine);
      EXPECT_EQ(stats.generated_tokens, uint64_t{kChoices} * kTokens);
      EXPECT_EQ(stats.prompt_tokens, 70u);
      EXPECT_EQ(stats.kv_tokens_used, 0u);
      if (room.places == 8 && room.kv_tokens == 8192) EXPECT_EQ(stats.prompt_rows, 70u);
    }
  }
}

// What the log-probabilities of a prompt are without an engine: of each of its beginnings.
std::vector<TokenLogprobs> LogprobsAlone(const LocalStore& store,
                                         const std::vector<TokenId>& prompt, uint32_t top) {
  LocalDecoder local(store);
  const ModelConfig& config = local.model->config;
  std::vector<float> logits(config.embedding_rows);
  std::vector<TokenLogprobs> result;
  for (size_t length = 1; length < prompt.size(); ++length) {
    KvPool pool = KvPool::ForTokens(config, KvType::kF16, length);
    KvCache kv(&pool, 256);
    PassAccounts accounts;
    EXPECT_TRUE(AppendPrompt(*local.decoder, kv, std::span(prompt).first(length), Precision::kExact,
                             logits, accounts)
                    .ok());
    result.push_back(LogprobsOf(logits, prompt[length], top));
  }
  return result;
}

TEST(StepRunnerTest, PromptLogprobsAreThoseOfItsBeginningsHoweverItIsCut) {
  LocalStore store;
  GenerationRequest request = Drawing(12, 3, 2);
  request.prompt_logprobs = 2;
  const std::vector<TokenLogprobs> alone = LogprobsAlone(store, request.prompt, 2);
  Stream silent;
  {
    auto engine = Make(Options(store));
    silent = Submit(*engine, Drawing(12, 3));
    silent.sink->Wait();
  }
  for (const uint32_t chunk : {256, 9}) {
    EngineOptions options = Options(store);
    options.prefill_chunk_tokens = chunk;
    auto engine = Make(options);
    for (int again = 0; again < 2; ++again) {  // The cache has it then, and no logits.
      const auto streams = SubmitChoices(*engine, request);
      const GenerationResult result = streams[0].sink->Wait();
      EXPECT_EQ(result.accounts.cached_prompt_tokens, 0u);
      EXPECT_EQ(streams[0].sink->ids(), silent.sink->ids());
      EXPECT_EQ(streams[0].sink->prompt_ids(),
                std::vector<TokenId>(request.prompt.begin() + 1, request.prompt.end()));
      const std::vector<TokenLogprobs> logprobs = streams[0].sink->prompt_logprobs();
      ASSERT_EQ(logprobs.size(), alone.size());
      for (size_t i = 0; i < alone.size(); ++i) {
        EXPECT_EQ(logprobs[i].logprob, alone[i].logprob) << i;
        ASSERT_EQ(logprobs[i].top.size(), 2u);
        EXPECT_EQ(logprobs[i].top[1].id, alone[i].top[1].id) << i;
        EXPECT_EQ(logprobs[i].top[1].logprob, alone[i].top[1].logprob) << i;
      }
      streams[1].sink->Wait();
      EXPECT_TRUE(streams[1].sink->prompt_ids().empty());
    }
  }
}

TEST(StepRunnerTest, AChoiceEndsByItselfAndACancelEndsAll) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.context_tokens = 100000;
  options.kv_tokens = 400000;
  auto engine = Make(options);
  GenerationRequest request = Drawing(90000, 7, 3);
  const Stream alone = Submit(*engine, Drawing(20, 8));
  alone.sink->Wait();
  // Some token of the second choice that the first one does not draw soon.
  request.stop.token_ids = {alone.sink->ids()[3]};
  const auto streams = SubmitChoices(*engine, request);
  const GenerationResult stopped = streams[1].sink->Wait();
  EXPECT_EQ(stopped.reason, FinishReason::kStopToken);
  EXPECT_EQ(stopped.accounts.seed, 8u);
  engine->Cancel(streams[0].id);
  for (const Stream& stream : streams) stream.sink->Wait();
  EXPECT_EQ(SettledStats(*engine).kv_tokens_used, 0u);
  request.stop.token_ids.clear();
  const auto endless = SubmitChoices(*engine, request);
  for (const Stream& stream : endless) {
    EXPECT_TRUE(WaitUntil([&] { return stream.sink->tokens() > 0; }, kLong));
  }
  engine->Cancel(endless[0].id);
  for (const Stream& stream : endless) {
    EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kCancelled);
  }
}

TEST(StepRunnerTest, AShortPromptUnderALongOneDoesNotWaitForItsEnd) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.context_tokens = 4000;
  options.kv_tokens = 8000;
  options.prefill_chunk_tokens = 32;
  auto engine = Make(options);
  Stream longer = Submit(*engine, Request(3000, 2, 1));
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().prompt_rows >= 32; }, kLong));
  Stream shorter = Submit(*engine, Request(20, 2, 2));
  EXPECT_EQ(shorter.sink->Wait().reason, FinishReason::kMaxTokens);
  EXPECT_FALSE(longer.sink->done());
  EXPECT_EQ(longer.sink->Wait().reason, FinishReason::kMaxTokens);
}

TEST(StepRunnerTest, ManyStreamsShareSteps) {
  LocalStore store;
  auto engine = Make(Options(store));
  std::vector<Stream> streams;
  for (uint32_t i = 0; i < 16; ++i) streams.push_back(Submit(*engine, Request(6, 40, i)));
  for (Stream& stream : streams) {
    EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kMaxTokens);
    EXPECT_EQ(stream.sink->ids().size(), 40u);
  }
  const EngineStats stats = SettledStats(*engine);
  EXPECT_EQ(stats.generated_tokens, 16u * 40u);
  EXPECT_EQ(stats.decode_rows, 16u * 39u);
  EXPECT_EQ(stats.prompt_rows, 16u * 6u);
  // One after the other they would take 16 x 40 steps.
  EXPECT_LT(stats.steps, 4u * 40u);
}

// Notes whose stream ended, in the order of the ends.
class EndsInOrder {
 public:
  std::shared_ptr<GenerationSink> SinkOf(const std::string& client) {
    return std::make_shared<Sink>(this, client);
  }
  std::vector<std::string> Wait(size_t count) {
    MutexLock lock(mutex_);
    while (ended_.size() < count) changed_.Wait(mutex_);
    return ended_;
  }

 private:
  class Sink final : public GenerationSink {
   public:
    Sink(EndsInOrder* ends, std::string client) : ends_(ends), client_(std::move(client)) {}
    void OnTokens(std::string_view, std::span<const TokenId>) override {}
    void OnDone(const GenerationResult&) override {
      MutexLock lock(ends_->mutex_);
      ends_->ended_.push_back(client_);
      ends_->changed_.NotifyAll();
    }

   private:
    EndsInOrder* const ends_;
    const std::string client_;
  };

  Mutex mutex_;
  CondVar changed_;
  std::vector<std::string> ended_ ABSL_GUARDED_BY(mutex_);
};

// One stream at a time: they end in the order in which they were admitted.
TEST(StepRunnerTest, AClientWithManyRequestsLetsOthersIn) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.max_running = 1;
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  EndsInOrder ends;
  auto engine = Make(options);
  const auto submit = [&](const std::string& client, uint32_t max_tokens) {
    GenerationRequest request = Request(6, max_tokens, 1);
    request.client = client;
    const auto id = engine->Submit(std::move(request), ends.SinkOf(client));
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(0);
  };
  const uint64_t first = submit("many", 90000);
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().running == 1; }, kLong));
  for (int i = 0; i < 20; ++i) submit("many", 1);
  submit("few", 1);
  submit("few", 1);
  submit("one", 1);
  engine->Cancel(first);
  std::vector<std::string> order = ends.Wait(24);
  const std::vector<std::string> begin(order.begin(), order.begin() + 5);
  EXPECT_THAT(begin, testing::ElementsAre("many", "few", "one", "many", "few"));
  EXPECT_EQ(std::count(order.begin() + 5, order.end(), "many"), 19);
}

TEST(StepRunnerTest, WaitingPromptsAreBounded) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.max_running = 1;
  options.max_waiting_tokens = 100;
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  auto engine = Make(options);
  Stream running = Submit(*engine, Request(6, 90000, 1));
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().running == 1; }, kLong));
  Stream waiting = Submit(*engine, Request(90, 1, 2));
  const auto refused = engine->Submit(Request(20, 1, 3), std::make_shared<StreamSink>());
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              testing::HasSubstr("--max-waiting-tokens is 100"));
  engine->Cancel(running.id);
  EXPECT_EQ(waiting.sink->Wait().reason, FinishReason::kMaxTokens);
}

}  // namespace tidegate::step_runner_test
