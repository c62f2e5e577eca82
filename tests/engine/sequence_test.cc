// One stream of a model whose head gives logits for ids that are no tokens: Qwen's and Phi-3's
// embeddings are filled up to round numbers of rows.
#include "engine/sequence.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/mutex.h"
#include "tests/engine/local_engine.h"
#include "tests/support/random_values.h"

namespace tidegate::sequence_test {

using testing::HasSubstr;

constexpr uint32_t kRows = 320, kTokens = 300;
constexpr int32_t kUnused = 290;

// The head prefers what is no token by far, whatever the hidden state: large rows of both signs.
void PreferNoTokens(GgufBuilder& gguf) {
  std::vector<float> head = Normals(size_t{kRows} * 64, 0.1f, 7);
  const std::vector<float> row = Normals(64, 10, 8);
  for (const uint32_t id : {uint32_t{kUnused}, kTokens, kTokens + 1, kRows - 1}) {
    for (size_t i = 0; i < 64; ++i) head[id * 64 + i] = id % 2 == 0 ? row[i] : -row[i];
  }
  gguf.AddTensor("output.weight", GgmlType::kF32, {64, kRows}, head);
  std::vector<int32_t> types(kTokens, 1);
  types[0] = 2;
  types[1] = types[2] = 3;
  for (size_t id = 3; id < 259; ++id) types[id] = 6;
  types[kUnused] = 5;
  gguf.SetInt32s("tokenizer.ggml.token_type", types);
}

class Sink : public GenerationSink {
 public:
  void OnTokens(std::string_view, std::span<const TokenId> ids) override {
    MutexLock lock(mutex_);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
  }
  void OnTokensWithLogprobs(std::string_view text, std::span<const TokenId> ids,
                            std::span<const TokenLogprobs> logprobs) override {
    EXPECT_EQ(ids.size(), logprobs.size());
    {
      MutexLock lock(mutex_);
      logprobs_.insert(logprobs_.end(), logprobs.begin(), logprobs.end());
    }
    OnTokens(text, ids);
  }
  void OnDone(const GenerationResult& result) override {
    MutexLock lock(mutex_);
    result_ = result;
  }
  std::vector<TokenLogprobs> logprobs() {
    MutexLock lock(mutex_);
    return logprobs_;
  }
  std::optional<GenerationResult> result() {
    MutexLock lock(mutex_);
    return result_;
  }
  std::vector<TokenId> ids() {
    MutexLock lock(mutex_);
    return ids_;
  }

 private:
  Mutex mutex_;
  std::vector<TokenId> ids_;
  std::vector<TokenLogprobs> logprobs_;
  std::optional<GenerationResult> result_;
};

class PaddedHead : public testing::Test {
 protected:
  PaddedHead()
      : store_({.model = {.vocab = kRows, .tokens = kTokens},
                .pack = {},
                .store = {},
                .change = PreferNoTokens}) {
    EngineOptions options;
    options.store_socket = store_.socket();
    options.threads = 1;
    options.attach_timeout = std::chrono::seconds(30);
    auto engine = Engine::Create(options, nullptr);
    CHECK(engine.ok());
    engine_ = *std::move(engine);
  }

  static GenerationRequest Request(const SamplingParams& sampling) {
    GenerationRequest request;
    request.prompt = {1, 270, 280, 5};
    request.max_tokens = 40;
    request.sampling = sampling;
    request.sampling.seed = 1;
    request.stop.ignore_eos = true;
    return request;
  }

  std::shared_ptr<Sink> Run(GenerationRequest request) {
    const auto sink = std::make_shared<Sink>();
    const auto id = engine_->Submit(std::move(request), sink);
    EXPECT_TRUE(id.ok()) << id.status();
    EXPECT_TRUE(WaitUntil([&] { return sink->result().has_value(); }, std::chrono::seconds(30)));
    return sink;
  }
  std::vector<TokenId> Generate(const SamplingParams& sampling) {
    const auto sink = Run(Request(sampling));
    EXPECT_EQ(sink->result()->reason, FinishReason::kMaxTokens) << sink->result()->status;
    return sink->ids();
  }

  // Whose next token is always `favourite`, unless it is banned.
  static GenerationRequest Favours(TokenId favourite) {
    SamplingParams sampling;
    sampling.temperature = 0;
    sampling.logit_bias = {{favourite, 1e6f}};
    GenerationRequest request = Request(sampling);
    request.stop.ignore_eos = false;
    return request;
  }

  LocalStore store_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(PaddedHead, DrawsTokensOnly) {
  SamplingParams greedy;
  greedy.temperature = 0;
  SamplingParams penalised = greedy;
  penalised.repetition_penalty = 2;
  penalised.frequency_penalty = 10;
  SamplingParams biased = greedy;
  biased.logit_bias = {{kUnused, 100.0f}, {299, -100.0f}};
  SamplingParams usual;
  SamplingParams anything;  // every token with nearly the same probability
  anything.temperature = 100;
  anything.top_k = 0;
  anything.top_p = 1;
  anything.min_p = 0;
  SamplingParams first_of_many = usual;
  first_of_many.top_k = 1;
  SamplingParams nothing = greedy;  // all tokens banned: the stream still ends by its own rules
  for (TokenId id = 0; id < static_cast<TokenId>(kTokens); ++id) {
    nothing.logit_bias.emplace_back(id, -std::numeric_limits<float>::infinity());
  }
  for (const SamplingParams& sampling :
       {greedy, penalised, biased, usual, anything, first_of_many, nothing}) {
    const std::vector<TokenId> ids = Generate(sampling);
    EXPECT_EQ(ids.size(), 40u);
    EXPECT_THAT(
        ids, testing::Each(testing::AllOf(testing::Ge(0), testing::Lt(300), testing::Ne(kUnused))));
  }
}

TEST_F(PaddedHead, HasOneVocabularySize) {
  const auto info = engine_->model_info();
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->vocab_size, kTokens);
  const auto message = [this](GenerationRequest request) {
    const absl::Status status =
        engine_->Submit(std::move(request), std::make_shared<Sink>()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  GenerationRequest request = Request({});
  request.prompt.push_back(kTokens);
  EXPECT_THAT(message(request), HasSubstr("prompt token id 300 is not in [0, 300)"));
  request = Request({});
  request.stop.token_ids = {kTokens};
  EXPECT_THAT(message(request), HasSubstr("stop token id 300 is not in the vocabulary"));
  request = Request({});
  request.sampling.logit_bias = {{kTokens, 1.0f}};
  EXPECT_THAT(message(request), HasSubstr("logit_bias has token 300"));
}

constexpr TokenId kEos = 2, kByteA = 3 + 'a';

TEST_F(PaddedHead, DrawsNoEndTokenBeforeMinTokens) {
  GenerationRequest request = Favours(kEos);
  auto sink = Run(request);
  EXPECT_EQ(sink->result()->reason, FinishReason::kEndOfText);
  EXPECT_EQ(sink->result()->accounts.generated_tokens, 1u);
  request.stop.min_tokens = 7;
  sink = Run(request);
  EXPECT_EQ(sink->result()->reason, FinishReason::kEndOfText);
  EXPECT_EQ(sink->result()->accounts.generated_tokens, 8u);
  EXPECT_EQ(sink->ids().size(), 7u);
  EXPECT_THAT(sink->ids(), testing::Each(testing::Ne(kEos)));
  request.stop.min_tokens = request.max_tokens;
  EXPECT_EQ(Run(request)->result()->reason, FinishReason::kMaxTokens);
  // Asked to go on after it, the stream may have it at once.
  request.stop.ignore_eos = true;
  EXPECT_THAT(Run(request)->ids(), testing::Each(kEos));
}

TEST_F(PaddedHead, DrawsNoStopTokenBeforeMinTokens) {
  GenerationRequest request = Favours(270);
  request.stop.token_ids = {270};
  request.stop.min_tokens = 3;
  auto sink = Run(request);
  EXPECT_EQ(sink->result()->reason, FinishReason::kStopToken);
  EXPECT_EQ(sink->result()->accounts.generated_tokens, 4u);
  EXPECT_THAT(sink->ids(), testing::Each(testing::Ne(270)));
  // With nothing else to draw the stream still goes on to where it may end.
  for (TokenId id = 0; id < static_cast<TokenId>(kTokens); ++id) {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    if (id != 270) request.sampling.logit_bias.emplace_back(id, kNever);
  }
  sink = Run(request);
  EXPECT_EQ(sink->result()->reason, FinishReason::kStopToken);
  EXPECT_EQ(sink->result()->accounts.generated_tokens, 4u);
}

TEST_F(PaddedHead, LooksForStopStringsAfterMinTokens) {
  GenerationRequest request = Favours(kByteA);
  request.stop.strings = {"aa"};
  EXPECT_EQ(Run(request)->result()->accounts.generated_tokens, 2u);
  request.stop.min_tokens = 5;
  const auto sink = Run(request);
  EXPECT_EQ(sink->result()->reason, FinishReason::kStopString);
  EXPECT_EQ(sink->result()->stop_string, "aa");
  EXPECT_EQ(sink->result()->accounts.generated_tokens, 7u);
}

// They are the model's own: neither what the sampler does nor that they are asked for matters.
TEST_F(PaddedHead, LogprobsAreOfTheRawLogits) {
  SamplingParams greedy;
  greedy.temperature = 0;
  GenerationRequest request = Request(greedy);
  request.pruning.reproducible = true;
  const auto plain = Run(request);
  EXPECT_TRUE(plain->logprobs().empty());
  request.top_logprobs = 3;
  const auto sink = Run(request);
  EXPECT_EQ(sink->ids(), plain->ids());
  const std::vector<TokenLogprobs> logprobs = sink->logprobs();
  ASSERT_EQ(logprobs.size(), 40u);
  for (size_t i = 0; i < logprobs.size(); ++i) {
    ASSERT_EQ(logprobs[i].top.size(), 3u);
    EXPECT_EQ(logprobs[i].top[0].id, sink->ids()[i]);
    EXPECT_EQ(logprobs[i].top[0].logprob, logprobs[i].logprob);
    EXPECT_LT(logprobs[i].logprob, 0);
    EXPECT_NE(logprobs[i].top[1].id, kUnused);
  }
  request = Favours(logprobs[0].top[2].id);  // whose bias is not counted
  request.pruning.reproducible = true;
  request.max_tokens = 1;
  request.top_logprobs = 1;
  const auto biased = Run(request);
  ASSERT_EQ(biased->logprobs().size(), 1u);
  EXPECT_EQ(biased->logprobs()[0].logprob, logprobs[0].top[2].logprob);
  EXPECT_EQ(biased->logprobs()[0].top[0].id, logprobs[0].top[0].id);
}

// Masks that look at the cache follow company if the server says so (--share-reads); no others do.
TEST_F(PaddedHead, FollowsCompanyWhereTheServerSaysSo) {
  LocalDecoder local(store_);
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 32);
  const auto tokenizer = engine_->tokenizer();
  ASSERT_TRUE(tokenizer.ok());
  for (const bool share_reads : {false, true}) {
    for (const double gamma : {0.2, 1.0}) {
      GenerationRequest request = Request({});
      request.pruning.mode = DecodeMode::kDipCa;
      request.pruning.density = 0.5;
      request.pruning.gamma = gamma;
      SequenceOptions options;
      options.tokenizer = *tokenizer;
      options.context_tokens = 32;
      options.share_reads = share_reads;
      Sequence sequence(request, std::make_shared<Sink>(), options, &local.model->config, &pool);
      ASSERT_TRUE(sequence.kv().Grow(5).ok());
      EXPECT_EQ(sequence.Wants(4).prune, nullptr);
      std::vector<float> logits(kRows, 0.0f);
      sequence.kv().set_size(4);
      sequence.TakeLogits(3, logits);
      ASSERT_TRUE(sequence.Advance({}, 0));
      const BatchSequence next = sequence.Wants(1);
      ASSERT_NE(next.prune, nullptr);
      EXPECT_EQ(next.prune->follows_company, share_reads && gamma < 1);
    }
  }
}

// What `tidegate logits` and `eval` compare with other programs.
TEST_F(PaddedHead, KeepsItsRowsInLogits) {
  LocalDecoder local(store_);
  EXPECT_EQ(local.model->config.embedding_rows, kRows);
  KvPool pool = KvPool::ForTokens(local.model->config, KvType::kF32, 8);
  KvCache kv(&pool, 8);
  std::vector<float> logits(kRows);
  PassAccounts accounts;
  const std::vector<TokenId> prompt = {1, 270};
  ASSERT_TRUE(AppendPrompt(*local.decoder, kv, prompt, Precision::kExact, logits, accounts).ok());
  const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
  EXPECT_TRUE(best >= static_cast<std::ptrdiff_t>(kTokens) || best == kUnused) << best;
}

}  // namespace tidegate::sequence_test
