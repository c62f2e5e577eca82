#include "engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "base/error_reason.h"
#include "tests/engine/local_engine.h"
#include "tests/engine/stream_sink.h"

namespace tidegate::engine_test {

using Clock = std::chrono::steady_clock;
using ::testing::HasSubstr;
constexpr std::chrono::seconds kLong{30};

using Sink = StreamSink;

EngineOptions Options(const LocalStore& store) {
  EngineOptions options;
  options.store_socket = store.socket();
  options.threads = 1;
  options.prefill_chunk_tokens = 4;
  options.attach_timeout = kLong;
  return options;
}

GenerationRequest Request(uint32_t max_tokens = 8) {
  GenerationRequest request;
  request.prompt = {1, 270, 280, 5, 300, 17};
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.stop.ignore_eos = true;
  request.pruning.reproducible = true;
  return request;
}

TEST(EngineTest, StreamsTokensAndEndsWithAccounts) {
  LocalStore store;
  auto engine = Make(Options(store));
  EXPECT_TRUE(engine->ready());
  Stream stream = Submit(*engine, Request());
  const GenerationResult result = stream.sink->Wait();
  EXPECT_EQ(result.reason, FinishReason::kMaxTokens) << result.status;
  EXPECT_EQ(stream.sink->tokens(), 8u);
  EXPECT_EQ(result.accounts.prompt_tokens, 6u);
  EXPECT_EQ(result.accounts.generated_tokens, 8u);
  EXPECT_GT(result.accounts.first_token_seconds, 0);
  EXPECT_NEAR(result.accounts.density, 0.75, 0.02);
  EXPECT_GT(result.accounts.hit_units + result.accounts.miss_units, 0u);
  const EngineStats stats = SettledStats(*engine);
  EXPECT_EQ(stats.generated_tokens, 8u);
  EXPECT_EQ(stats.prompt_tokens, 6u);
}

TEST(EngineTest, SaysHowFarThePromptIsToThoseWhoAsk) {
  LocalStore store;
  auto engine = Make(Options(store));  // parts of 4 tokens
  GenerationRequest request = Request();
  request.prompt.resize(40, 5);
  Stream silent = Submit(*engine, request);
  silent.sink->Wait();
  EXPECT_TRUE(silent.sink->progress().empty());
  request.progress = true;
  request.cache_salt = "its own";
  for (const uint32_t cached : {0u, 32u}) {
    Stream stream = Submit(*engine, request);
    stream.sink->Wait();
    std::vector<uint32_t> parts;
    for (const PromptProgress& progress : stream.sink->progress()) {
      if (progress.processed < cached) continue;  // it waited when the clock asked
      EXPECT_EQ(progress.total, 40u);
      EXPECT_EQ(progress.cached, cached);
      // What the clock brings besides says nothing new.
      if (parts.empty() || parts.back() != progress.processed) parts.push_back(progress.processed);
    }
    std::vector<uint32_t> expected;
    for (uint32_t processed = cached; processed < 40; processed += 4) expected.push_back(processed);
    EXPECT_EQ(parts, expected);
  }
}

// A stream of a large model, as far as time goes.
class SlowSink : public Sink {
 public:
  void OnTokens(std::string_view text, std::span<const TokenId> ids) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    Sink::OnTokens(text, ids);
  }
};

TEST(EngineTest, TellsThoseWhoWaitThatTheyDo) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.max_running = 1;
  auto engine = Make(options);
  const auto running = std::make_shared<SlowSink>();
  const auto id = engine->Submit(Request(100000), running);
  ASSERT_TRUE(id.ok()) << id.status();
  GenerationRequest request = Request();
  request.progress = true;
  Stream waiting = Submit(*engine, request);
  EXPECT_TRUE(WaitUntil([&] { return !waiting.sink->progress().empty(); }, kLong));
  EXPECT_FALSE(running->done());
  EXPECT_EQ(waiting.sink->progress().front().processed, 0u);
  EXPECT_EQ(waiting.sink->progress().front().total, 6u);
  engine->Cancel(*id);
  EXPECT_EQ(waiting.sink->Wait().reason, FinishReason::kMaxTokens);
  EXPECT_EQ(running->Wait().reason, FinishReason::kCancelled);
}

TEST(EngineTest, KeysAndValuesOfEightBitsTakeLessOfTheReserve) {
  LocalStore store({.model = {.heads = 2, .kv_heads = 1}, .store = {}});
  uint64_t capacity[2];
  for (const KvType type : {KvType::kF16, KvType::kQ8}) {
    EngineOptions options = Options(store);
    options.kv_type = type;
    auto engine = Make(options);
    EXPECT_EQ(engine->model_info()->kv_encoding, KvTypeName(type));
    Stream stream = Submit(*engine, Request());
    EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kMaxTokens);
    capacity[type == KvType::kQ8] = engine->stats().kv_tokens_capacity;
  }
  EXPECT_EQ(capacity[1], capacity[0] * 32 / 17 / 32 * 32);  // In whole pages.
}

TEST(EngineTest, HeadsThatAreNoBlocksOfEightBitsAreRefusedAtOnce) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.kv_type = KvType::kQ8;
  const auto engine = Engine::Create(options, nullptr);
  EXPECT_EQ(engine.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(engine.status().message()),
              AllOf(HasSubstr("--kv q8"), HasSubstr("16 numbers"), HasSubstr("--kv f16")));
}

TEST(EngineTest, ReproducibleRequestsGiveTheSameTokensWhateverElseRuns) {
  StoreOptions small;
  small.cache_fraction = 0.3;
  LocalStore store({.model = {}, .pack = {}, .store = small});
  auto engine = Make(Options(store));
  Stream alone = Submit(*engine, Request(24));
  alone.sink->Wait();
  std::vector<Stream> others;
  for (int i = 0; i < 3; ++i) {
    GenerationRequest request = Request(40);
    request.prompt.push_back(260 + i);
    request.pruning.reproducible = false;
    others.push_back(Submit(*engine, request));
  }
  Stream among = Submit(*engine, Request(24));
  among.sink->Wait();
  EXPECT_EQ(among.sink->ids(), alone.sink->ids());
  for (Stream& other : others) other.sink->Wait();
}

TEST(EngineTest, DipAtDensityOneEqualsDense) {
  StoreOptions small;
  small.cache_fraction = 0.3;
  LocalStore store({.model = {}, .pack = {}, .store = small});
  auto engine = Make(Options(store));
  std::vector<std::vector<TokenId>> ids;
  for (const DecodeMode mode : {DecodeMode::kDense, DecodeMode::kDip, DecodeMode::kDipCa}) {
    GenerationRequest request = Request(24);
    request.pruning = {.mode = mode, .density = 1.0f, .gamma = 1.0f, .warm_up = false};
    Stream stream = Submit(*engine, request);
    stream.sink->Wait();
    ids.push_back(stream.sink->ids());
  }
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_EQ(ids[0], ids[2]);
}

TEST(EngineTest, StopsAtTokensStringsAndTheContext) {
  LocalStore store;
  auto engine = Make(Options(store));
  Stream plain = Submit(*engine, Request(20));
  plain.sink->Wait();
  const std::vector<TokenId> ids = plain.sink->ids();

  GenerationRequest by_token = Request(20);
  by_token.stop.token_ids = {ids[3]};
  Stream stopped = Submit(*engine, by_token);
  GenerationResult result = stopped.sink->Wait();
  EXPECT_EQ(result.reason, FinishReason::kStopToken);
  EXPECT_EQ(result.stop_token, ids[3]);
  EXPECT_LE(stopped.sink->tokens(), 3u);

  const std::string text = plain.sink->text();
  ASSERT_GE(text.size(), 6u);
  GenerationRequest by_string = Request(20);
  by_string.stop.strings = {text.substr(4, 2)};
  Stream cut = Submit(*engine, by_string);
  result = cut.sink->Wait();
  EXPECT_EQ(result.reason, FinishReason::kStopString);
  EXPECT_EQ(cut.sink->text(), text.substr(0, text.find(text.substr(4, 2))));

  Stream full = Submit(*engine, Request(100000));
  result = full.sink->Wait();
  EXPECT_EQ(result.reason, FinishReason::kContextLimit);
  EXPECT_EQ(result.accounts.prompt_tokens + result.accounts.generated_tokens, 128u);
}

// A model whose numbers are finite in its file and overflow while it computes.
TEST(EngineTest, NumbersThatOverflowEndTheStreamAndNothingElse) {
  LocalStore store({.model = {}, .pack = {}, .store = {}, .change = [](GgufBuilder& gguf) {
                      gguf.AddTensor("output_norm.weight", GgmlType::kF32, {64},
                                     std::vector<float>(64, 3e38f));
                    }});
  auto engine = Make(Options(store));
  for (const DecodeMode mode : {DecodeMode::kDense, DecodeMode::kDipCa}) {
    for (const float temperature : {0.0f, 1.0f}) {
      GenerationRequest request = Request();
      request.pruning.mode = mode;
      request.sampling.temperature = temperature;
      Stream stream = Submit(*engine, request);
      const GenerationResult result = stream.sink->Wait();
      EXPECT_EQ(result.reason, FinishReason::kError);
      EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal) << result.status;
      EXPECT_EQ(ErrorReason(result.status), kNumbersNotFinite);
      EXPECT_EQ(stream.sink->tokens(), 0u);
    }
  }
  EXPECT_TRUE(engine->ready());
}

// model.proto: prompt and generated tokens together are at most the context.
TEST(EngineTest, PromptAndAnswerFillTheContextAndNoMore) {
  LocalStore store;  // of a model with a context of 128
  auto engine = Make(Options(store));
  const struct {
    uint32_t prompt, max_tokens, generated;
    FinishReason reason;
  } cases[] = {
      {127, 1, 1, FinishReason::kMaxTokens},   {127, 9, 1, FinishReason::kContextLimit},
      {126, 2, 2, FinishReason::kMaxTokens},   {126, 9, 2, FinishReason::kContextLimit},
      {1, 127, 127, FinishReason::kMaxTokens}, {1, 4000000000, 127, FinishReason::kContextLimit}};
  for (const auto& [prompt, max_tokens, generated, reason] : cases) {
    GenerationRequest request = Request(max_tokens);
    request.prompt.assign(prompt, 5);
    const GenerationResult result = Submit(*engine, request).sink->Wait();
    EXPECT_EQ(result.accounts.generated_tokens, generated) << prompt << " + " << max_tokens;
    EXPECT_EQ(result.reason, reason) << prompt << " + " << max_tokens;
  }
  // A KV cache that is smaller than the context is the limit in its place.
  EngineOptions small = Options(store);
  small.kv_tokens = 20;
  auto bounded = Make(small);
  const GenerationResult result = Submit(*bounded, Request(100)).sink->Wait();
  EXPECT_EQ(bounded->context_tokens(), 20u);
  EXPECT_EQ(result.accounts.generated_tokens, 14u);
}

TEST(EngineTest, RefusesBadRequestsWithTheFieldAndTheRange) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.pruning.density_min = 0.3f;
  auto engine = Make(options);
  const auto refused = [&](auto change) {
    GenerationRequest request = Request();
    change(request);
    return engine->Submit(request, std::make_shared<Sink>()).status();
  };
  using Code = absl::StatusCode;
  EXPECT_EQ(refused([](auto& r) { r.prompt.clear(); }).code(), Code::kInvalidArgument);
  EXPECT_EQ(refused([](auto& r) { r.prompt = {100000}; }).code(), Code::kInvalidArgument);
  EXPECT_EQ(refused([](auto& r) { r.prompt.assign(128, 5); }).code(), Code::kOutOfRange);
  EXPECT_EQ(refused([](auto& r) { r.max_tokens = 0; }).code(), Code::kInvalidArgument);
  EXPECT_EQ(refused([](auto& r) { r.sampling.top_p = 2; }).code(), Code::kInvalidArgument);
  EXPECT_EQ(refused([](auto& r) { r.stop.token_ids = {-1}; }).code(), Code::kInvalidArgument);
  EXPECT_EQ(refused([](auto& r) { r.pruning.gamma = 1.5f; }).code(), Code::kInvalidArgument);
  const absl::Status density = refused([](auto& r) { r.pruning.density = 0.2f; });
  EXPECT_EQ(density.code(), Code::kInvalidArgument);
  EXPECT_THAT(std::string(density.message()), HasSubstr("0.3"));
}

TEST(EngineTest, QueueIsBoundedAndCancelFreesItsPlace) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.max_running = 1;
  options.max_waiting = 1;
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  auto engine = Make(options);
  Stream running = Submit(*engine, Request(90000));
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().running == 1; }, kLong));
  Stream waiting = Submit(*engine, Request());
  EXPECT_EQ(engine->Submit(Request(), std::make_shared<Sink>()).status().code(),
            absl::StatusCode::kResourceExhausted);
  engine->Cancel(waiting.id);
  EXPECT_EQ(waiting.sink->Wait().reason, FinishReason::kCancelled);
  engine->Cancel(running.id);
  EXPECT_EQ(running.sink->Wait().reason, FinishReason::kCancelled);
  ASSERT_TRUE(WaitUntil([&] { return engine->stats().kv_tokens_used == 0; }, kLong));
  EXPECT_EQ(Submit(*engine, Request()).sink->Wait().reason, FinishReason::kMaxTokens);
}

TEST(EngineTest, TimeLimitKeepsTheText) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  auto engine = Make(options);
  GenerationRequest request = Request(90000);
  request.time_limit = Clock::now() + std::chrono::milliseconds(50);
  Stream stream = Submit(*engine, request);
  EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kTimeLimit);
}

TEST(EngineTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  LocalStore store;
  auto engine = Make(Options(store));
  Stream stream = Submit(*engine, Request(100));
  engine->Drain(Clock::now() + kLong);
  EXPECT_TRUE(stream.sink->done());
  EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kMaxTokens);
  EXPECT_FALSE(engine->ready());
  EXPECT_EQ(engine->Submit(Request(), std::make_shared<Sink>()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(EngineTest, DrainDeadlineEndsStreamsWithTheirText) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  auto engine = Make(options);
  Stream stream = Submit(*engine, Request(90000));
  ASSERT_TRUE(WaitUntil([&] { return stream.sink->tokens() > 3; }, kLong));
  engine->Drain(Clock::now());
  EXPECT_EQ(stream.sink->Wait().reason, FinishReason::kDraining);
}

TEST(EngineTest, ShutdownEndsEveryRequest) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  options.max_running = 1;
  auto engine = Make(options);
  Stream running = Submit(*engine, Request(90000));
  Stream waiting = Submit(*engine, Request(90000));
  engine.reset();
  EXPECT_EQ(running.sink->Wait().reason, FinishReason::kCancelled);
  EXPECT_EQ(waiting.sink->Wait().reason, FinishReason::kCancelled);
}

TEST(EngineTest, StoreGoesAndComesBack) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.context_tokens = 100000;
  options.kv_tokens = 200000;
  auto engine = Make(options);
  Stream before = Submit(*engine, Request(16));
  before.sink->Wait();
  Stream stream = Submit(*engine, Request(90000));
  ASSERT_TRUE(WaitUntil([&] { return stream.sink->tokens() > 3; }, kLong));
  store.Stop();
  const GenerationResult result = stream.sink->Wait();
  EXPECT_EQ(result.reason, FinishReason::kError);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(WaitUntil([&] { return !engine->ready(); }, kLong));
  EXPECT_EQ(engine->Submit(Request(), std::make_shared<Sink>()).status().code(),
            absl::StatusCode::kUnavailable);
  store.Start();
  ASSERT_TRUE(WaitUntil([&] { return engine->ready(); }, kLong));
  EXPECT_EQ(engine->stats().reattached, 1u);
  Stream after = Submit(*engine, Request(16));
  after.sink->Wait();
  EXPECT_EQ(after.sink->ids(), before.sink->ids());
}

TEST(EngineTest, WaitsForAStoreThatIsNotUpYet) {
  TempDir dir;
  EngineOptions options;
  options.store_socket = dir.File("none.sock");
  auto engine = Engine::Create(options, nullptr);
  ASSERT_TRUE(engine.ok());
  EXPECT_FALSE((*engine)->ready());
  EXPECT_EQ((*engine)->tokenizer().status().code(), absl::StatusCode::kUnavailable);
  // Clients are told that, and nothing of sockets and flags.
  for (const absl::Status& status :
       {(*engine)->tokenizer().status(), (*engine)->model_info().status(),
        (*engine)->Submit(GenerationRequest(), std::make_shared<Sink>()).status()}) {
    EXPECT_EQ(status, absl::UnavailableError("the weight store is not attached; retry shortly"));
  }
  options.attach_timeout = std::chrono::milliseconds(1);
  const auto impatient = Engine::Create(options, nullptr);
  EXPECT_EQ(impatient.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(impatient.status().message()), HasSubstr("none.sock"));
}

TEST(EngineTest, KvCapacityLimitsWhatRunsAtOnce) {
  LocalStore store;
  EngineOptions options = Options(store);
  options.kv_tokens = 128;
  options.max_running = 4;
  auto engine = Make(options);
  Stream first = Submit(*engine, Request(80));
  Stream second = Submit(*engine, Request(80));
  first.sink->Wait();
  second.sink->Wait();
  EXPECT_EQ(first.sink->ids(), second.sink->ids());
  EXPECT_GT(second.sink->Wait().accounts.queue_seconds, 0);
}

}  // namespace tidegate::engine_test
